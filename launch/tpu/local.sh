# shellcheck shell=bash disable=SC2034,SC2154  # shared with launch/tpu.sh
# Sourced: the back end for this machine, with several processes as on several hosts, or with one
# process on its GPUs.
# shellcheck source=process.sh
source launch/tpu/process.sh

logs=${options[workdir]}/logs
pids=$logs/pids

check() {
  local name
  case $verb in
    run | babysit) need config workdir ;;
    logs | status | stop) need workdir ;;
  esac
  [[ ${options[workdir]} != *://* ]] ||
    refuse "--workdir=${options[workdir]}: --backend=local keeps its logs there; give a folder" \
      "of this machine"
  for name in spot data; do
    [[ -z ${switches[$name]:-}${options[$name]:-} ]] ||
      refuse "--$name: --backend=local has no such thing; leave it out"
  done
}

here() { note "local: nothing to $1"; }
do_create() { here create; }
do_wait() { here "wait for"; }
do_sync() { here ship; }
do_delete() { here "delete: --workdir stays"; }

do_setup() {
  local extras=train
  [ "${options[platform]}" != cuda ] || extras=train,cuda
  # shellcheck disable=SC2016
  call bash -c 'source launch/env.sh "$1"' setup "${options[extras]:-$extras}"
}

free_port() {
  local port
  # Below the range of ports that the system assigns.
  for _ in {1..100}; do
    port=$((20000 + RANDOM % 10000))
    (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  refuse "--port: found no free one; give one"
}

# Set `command` to the command of one process, with its environment.
process_command() { # ID PORT
  local count=${options[processes]} peers=off env=()
  # On other platforms than cpu the devices are those of the machine.
  env=(env "JAX_PLATFORMS=${options[platform]}")
  [ "${options[platform]}" != cpu ] ||
    env+=("XLA_FLAGS=--xla_force_host_platform_device_count=${options[devices-per-process]}")
  train_command "${options[program]}"
  command=("${env[@]}" "${command[@]}")
  ((count == 1)) || peers=127.0.0.1:$2,$1,$count
  command+=("--distributed=$peers" "${train_args[@]}")
}

checkpoint() { { ls "${options[workdir]}/checkpoints" 2>/dev/null || true; } | newest_number; }

# Read the file by which `run` and `stop` find each other: one line per process, the launcher first.
read_pids() { # sets `launcher` and `members` to "PID BORN"; fails if none of them runs
  local id pid began alive=1
  launcher='' members=()
  [ -f "$pids" ] || return 1
  while read -r id pid began; do
    lives "$pid" "$began" || continue
    alive=0
    if [ "$id" = launcher ]; then launcher="$pid $began"; else members+=("$pid $began"); fi
  done <"$pids"
  return $alive
}

signal_members() { # SIGNAL
  local pid
  for pid in "${running[@]}"; do
    # SIGTERM only to sir-jax, which ends its workers after it has saved; SIGKILL to its group.
    [ "$1" = TERM ] || pid=-$pid
    kill "-$1" -- "$pid" 2>/dev/null || true
  done
}

# Run all processes once; set `status` to that of the first process that failed, or 0.
launch() {
  local id port=${options[port]} deadline='' code sent=0 tail failed=0
  local -A running=()
  status=0
  if [ -n "$dry_run" ]; then port=${port:-20000}; else port=${port:-$(free_port)}; fi
  if [ -n "$dry_run" ]; then
    show mkdir -p "$logs"
    for ((id = 0; id < options[processes]; id++)); do
      process_command "$id" "$port"
      printf 'setsid %s >>%s 2>&1 &\n' "$(quote "${command[@]}")" \
        "$(quote "$logs/process-$id.log")" >&3
    done
    echo wait >&3
    return
  fi
  mkdir -p "$logs"
  echo "launcher $$ $(born $$)" >"$pids"
  for ((id = 0; id < options[processes]; id++)); do
    process_command "$id" "$port"
    show "${command[@]}"
    touch "$logs/process-$id.log"
    ((id)) || sent=$(wc -c <"$logs/process-0.log")
    # Each process has its own session, so that Ctrl-C in the terminal only reaches this script,
    # which passes it on once. A second signal would end sir-jax before it has saved.
    setsid "${command[@]}" >>"$logs/process-$id.log" 2>&1 </dev/null 3>&- &
    running[$id]=$!
    echo "$id $! $(born $!)" >>"$pids"
  done
  setsid tail -c "+$((sent + 1))" -f "--pid=${running[0]}" -s 0.2 "$logs/process-0.log" &
  tail=$!
  while ((${#running[@]})); do
    for id in "${!running[@]}"; do
      ! kill -0 "${running[$id]}" 2>/dev/null || continue
      code=0
      wait "${running[$id]}" || code=$?
      # End the processes that it started.
      kill -KILL -- "-${running[$id]}" 2>/dev/null || true
      unset "running[$id]"
      # A process that lost another one may end first; the status of the one that failed replaces
      # its status.
      if ((code && (!status || status == try_again))); then
        ((status)) || failed=$SECONDS
        status=$code
        say "process $id of ${options[processes]} ended with $code"
      fi
    done
    if [[ -z $deadline ]] && ((${#running[@]})) &&
      ((stopping || status && (status != try_again || SECONDS > failed + 10))); then
      say "ends the others: SIGTERM, after ${options[grace]} s SIGKILL"
      signal_members TERM
      deadline=$((SECONDS + options[grace]))
    elif [[ -n $deadline ]] && ((SECONDS > deadline)); then
      signal_members KILL
    fi
    # Ctrl-C ends this sleep, too, which then fails.
    sleep 0.2 || true
  done
  rm -f "$pids"
  # Let `tail` print the last lines.
  wait "$tail" || true
}

begin() {
  [[ -n $dry_run || -x $(command -v "${options[program]}") ]] ||
    refuse "--program=${options[program]}: not there; run launch/tpu.sh setup --backend=local"
  ! read_pids ||
    refuse "--workdir=${options[workdir]}: a run lives there" \
      "(process ${launcher:-${members[0]}}); stop it first"
  stopping=0
  trap 'stopping=1' TERM INT HUP
}

do_run() {
  local status
  begin
  launch
  return "$status"
}

do_babysit() {
  local status
  begin
  best=$(checkpoint)
  while :; do
    launch
    if ((stopping)) || ! goes_on "$status"; then return "$status"; fi
    may_restart "ended with $status" "$(checkpoint)" || return "$status"
  done
}

do_logs() { call tail -n 100 -F "$logs/process-${options[worker]}.log"; }

do_status() {
  local metrics=${options[workdir]}/metrics.jsonl
  if [ -n "$dry_run" ]; then
    note "the processes of $pids, and:"
  elif read_pids; then
    echo "running: ${#members[@]} processes, checkpoint $(checkpoint)"
  else
    echo "not running, checkpoint $(checkpoint)"
  fi
  [[ -z $dry_run && ! -f $metrics ]] || call tail -n 1 "$metrics"
}

do_stop() {
  local member pid began
  if [ -n "$dry_run" ]; then
    note "SIGTERM to the processes of $pids; after ${options[grace]} s SIGKILL"
    return
  fi
  read_pids || { say "--workdir=${options[workdir]}: no run lives there"; return 0; }
  if [ -n "$launcher" ]; then
    # The launcher passes the signal on, waits for its grace period and does not restart.
    read -r pid began <<<"$launcher"
    kill -TERM "$pid"
    while lives "$pid" "$began"; do sleep 0.1; done
    return
  fi
  for member in "${members[@]}"; do
    read -r pid began <<<"$member"
    end "$pid" "$began" "$pid" "${options[grace]}" ||
      say "process $pid killed after ${options[grace]} s"
    kill -KILL -- "-$pid" 2>/dev/null || true
  done
}
