# shellcheck shell=bash disable=SC2034,SC2154  # shared with launch/tpu.sh
# Sourced by the back ends whose hosts are reached by gcloud's ssh. Such a back end defines
# gcloud_tpu, check_backend, on_hosts, copy, node_state, READY, do_create and do_delete.

zone_flags=("--zone=${options[zone]}" ${options[project]:+"--project=${options[project]}"})
name=${options[name]}
folder=$(mounted "${options[workdir]}")
label=launcher=sir-jax

check() {
  need name zone
  [[ $verb != create && $verb != babysit ]] || need type
  [[ $verb != run && $verb != babysit ]] || need config workdir
  [[ $verb != status ]] || need workdir
  [ -z "${options[type]}" ] || slice_of "${options[type]}"
  # Without --type the number of hosts is unknown; a relative folder is then accepted.
  if [[ ${hosts:-1} -gt 1 || ${options[slices]} -gt 1 ]] && [[ ${options[workdir]} =~ ^[^/] ]]; then
    [[ ${options[workdir]} == gs://* ]] ||
      refuse "--workdir=${options[workdir]}: several hosts must reach it; give gs://... or a" \
        "mounted /path"
  fi
  check_backend
  need_tools gcloud git
}

host_script() { quote bash sir_jax/launch/tpu/host.sh "$@"; }

# Print the state of the machines as gcloud reports it, MISSING, or UNKNOWN if gcloud fails.
ask_state() { # COMMAND...
  local answer
  if answer=$(call "$@" 2>&1); then
    echo "${answer##*$'\n'}"
  elif [[ $answer == *NOT_FOUND* || $answer == *"not found"* ]]; then
    echo MISSING
  else
    say "${answer##*$'\n'}"
    echo UNKNOWN
  fi
}

# Whether machines in this state never come back, so that they have to be deleted and made again.
lost() { # STATE
  case $1 in
    PREEMPTED | TERMINATED | STOPPING | STOPPED | SUSPENDING | SUSPENDED) ;;
    FAILED | DELETING | MISSING) ;;
    *) return 1 ;;
  esac
}

do_wait() {
  local state
  [ -z "$dry_run" ] || note "every ${options[poll]} s until $READY:"
  while :; do
    state=$(node_state)
    [ -z "$dry_run" ] || return 0
    case $state in
      "$READY") return 0 ;;
      *) ! lost "$state" || { say "--name=$name: $state; create it again"; return 1; } ;;
    esac
    say "$name: $state"
    sleep "${options[poll]}"
  done
}

do_sync() {
  pack
  copy "$archive" sir_jax.tar.gz || return
  # Remove the code of an earlier sync, or deleted modules would remain; keep the files that were
  # made on the host.
  on_hosts all "if [ -f sir_jax/launch/tpu/host.sh ]; then $(host_script idle "$name"); fi &&\
 mkdir -p sir_jax && find sir_jax -mindepth 1 -maxdepth 1 ! -name .venv ! -name '*.egg-info'\
 ! -name data ! -name runs -exec rm -rf {} + && tar -xzmf sir_jax.tar.gz -C sir_jax"
}

do_setup() {
  local words=(setup "${options[extras]:-train,tpu}" ${options[data]:+"${options[data]}"})
  on_hosts all "$(host_script "${words[@]}")"
}

do_run() {
  train_command .venv/bin/sir-jax
  on_hosts all "$(host_script start "$name" "${command[@]}" "${train_args[@]}")"
}

do_logs() { on_hosts "${options[worker]}" "$(host_script logs "$name")"; }

do_status() {
  local state
  state=$(node_state)
  [ -n "$dry_run" ] || echo "$name: $state"
  [[ -n "$dry_run" || $state = "$READY" ]] || return 0
  on_hosts all "$(host_script status "$name" "$folder")"
  on_hosts 0 "$(host_script metrics "$folder")" || true
}

do_stop() { on_hosts all "$(host_script stop "$name" "${options[grace]}")"; }

# Delete the machines if this script made them.
delete_own() { # OWNER COMMAND...
  local owner=$1
  shift
  [[ -n $dry_run || $owner == sir-jax ]] ||
    refuse "--name=$name: has no label $label, so this script did not make it; delete it" \
      "yourself: $(quote "$@")"
  call "$@"
}

# Follow a run until it has ended: sets `outcome` (complete, stopped, lost, or an exit status) and
# `checkpoint`.
watch_run() {
  local report state line code one silent=0
  while :; do
    sleep "${options[poll]}"
    state=$(node_state)
    ! lost "$state" || { outcome=lost; return; }
    report=$(on_hosts all "$(host_script status "$name" "$folder")" | grep '^state=') || true
    # A host that does not answer for ten rounds is lost, whatever gcloud says of it.
    if [ -z "$report" ]; then
      silent=$((silent + 1))
      ((silent >= 10)) || continue
      outcome=lost
      return
    fi
    silent=0 code=''
    while read -r line; do
      [[ $line =~ ^state=([a-z]+)\ exit=([0-9]*)\ checkpoint=(-?[0-9]+) ]] || continue
      ((BASH_REMATCH[3] <= checkpoint)) || checkpoint=${BASH_REMATCH[3]}
      case ${BASH_REMATCH[1]} in
        stopped) outcome=stopped; return ;;
        lost | none) outcome=lost; return ;;
        ended)
          # Of several statuses keep that of a signal, else that of a failure, else try_again.
          one=${BASH_REMATCH[2]}
          [[ $one = 0 || -n $code && ($code -gt 128 || $one = "$try_again") ]] || code=$one
          ;;
      esac
    done <<<"$report"
    if [ -n "$code" ]; then
      outcome=$code
      ! goes_on "$code" || return 0
      # If a machine was lost, the other hosts fail at once, but gcloud reports it later.
      sleep "${options[poll]}"
      state=$(node_state)
      if lost "$state" || (($(grep -c '^state=' <<<"$report") < hosts * options[slices])); then
        outcome=lost
      fi
      return 0
    fi
    grep -q '^state=running' <<<"$report" || { outcome=complete; return; }
  done
}

# Provide machines with the code on them; make lost ones again. `set -e` has no effect here, because
# the function is called in a condition. So each step returns if the one before failed.
prepare() {
  local state
  state=$(node_state)
  if lost "$state"; then
    fresh=1
    [ "$state" = MISSING ] || do_delete || return
    do_create || return
  fi
  [ -n "$fresh" ] || return 0
  # A run that an earlier `babysit` started is only watched.
  if [ "$state" != "$READY" ] || on_hosts 0 "$(host_script idle "$name")"; then
    do_wait && do_sync && do_setup || return
  fi
  fresh=''
}

babysit_dry() {
  node_state >/dev/null
  note "where it is missing:"
  do_create
  note "where it was preempted:"
  do_delete
  do_create
  note "then:"
  do_wait
  do_sync
  do_setup
  do_run
  note "every ${options[poll]} s until it has ended; after a preemption all again, from the" \
    "workdir:"
  on_hosts all "$(host_script status "$name" "$folder")"
}

do_babysit() {
  local outcome checkpoint=-1 fresh=1
  [ -z "$dry_run" ] || { babysit_dry; return; }
  pack
  while :; do
    if prepare && do_run; then watch_run; else outcome=unready; fi
    case $outcome in
      complete) say "$name: training is done"; return ;;
      stopped) say "$name: stopped by hand"; return 143 ;;
      lost) may_restart "$name was lost" "$checkpoint" || return 1; fresh=1 ;;
      unready)
        may_restart "$name could not be made ready" "$checkpoint" || return 1
        sleep "${options[poll]}"
        ;;
      *)
        on_hosts all "$(host_script stop "$name" "${options[grace]}")" || true
        if ! goes_on "$outcome"; then
          say "$name: sir-jax train failed with $outcome; see logs"
          return "$outcome"
        fi
        may_restart "$name ended with $outcome" "$checkpoint" || return "$outcome"
        ;;
    esac
  done
}
