#!/usr/bin/env bash
# Train on Cloud TPU slices, on GKE, or in several processes on this machine.
# usage: launch/tpu.sh VERB --backend=BACKEND [options] [-- arguments of sir-jax train]
#
#   create    request the machines         run      start training, detached on every host
#   wait      wait for the machines        logs     follow process 0, or --worker=N
#   sync      ship the committed code      status   machines, run, last line of metrics
#   setup     install it, fetch --data     stop     save and stop what `run` started
#   babysit   do all of these, again after every preemption, until training is complete
#   delete    delete the machines
#
# Back ends: tpu-vm, queued-resources, gke, local. --dry-run prints every command and runs none.
# A run with the same --workdir is continued. launch/README.md lists the options.
# SC2034: the back ends use the variables that are set here.
# shellcheck disable=SC2034
set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "launch/tpu.sh: bash $BASH_VERSION is too old; install 4.4 or newer" >&2
  exit 2
fi

verbs="create wait setup sync run logs status babysit stop delete"
backends="tpu-vm queued-resources gke local"
# Options with a value, and their defaults; '' means that the option is not given.
declare -A options=(
  [backend]='' [name]='' [project]='' [zone]='' [type]='' [version]='' [slices]=1 [workdir]=''
  [config]='' [data]='' [extras]='' [worker]=0 [slice]=0 [retries]=3 [poll]=30 [grace]=60
  [cluster]='' [location]='' [image]='' [processes]=1 [devices-per-process]=1
  [platform]=cpu [port]='' [program]=.venv/bin/sir-jax
)
# Options without a value.
declare -A switches=([spot]='' [dirty]='' [dry-run]='')
declare -A given=()
train_args=()

say() { printf 'launch/tpu.sh: %s\n' "$*" >&2; }
refuse() { say "$*"; exit 2; }

# Print words as one line for a shell, quoted only where necessary.
quote() {
  local word line=''
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s' "${line:1}"
}
# Print a command; all commands are printed by this function.
show() { printf '%s%s\n' "$prefix" "$(quote "$@")" >&3; }
# Print a command, and run it unless --dry-run.
call() {
  show "$@"
  [ -n "$dry_run" ] || "$@"
}
# Print a remark between commands.
note() { printf '# %s\n' "$*" >&3; }

set_option() { # NAME VALUE SOURCE
  local name=$1 value=$2
  if [ -n "${switches[$name]+known}" ]; then
    [[ $value == true || $value == false ]] || refuse "$3$name=$value: give true or false"
    [ "$value" = true ] && switches[$name]=1 || switches[$name]=''
  elif [ -n "${options[$name]+known}" ]; then
    [ -n "$value" ] || refuse "$3$name is empty: give a value or leave it out"
    options[$name]=$value
  else
    refuse "$3$name: no such option; choose one" \
      "of$(printf ' %s' "${!options[@]}" "${!switches[@]}" |
      tr ' ' '\n' | sort | tr '\n' ' ')"
  fi
}

read_env() { # FILE: lines `option=value`; a flag wins over a line
  local line number=0 value
  [ -f "$1" ] || refuse "--env=$1: no such file"
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1)) line=${line%$'\r'}
    [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
    [[ $line =~ ^([a-z-]+)=(.*)$ ]] || refuse "--env=$1, line $number: '$line' is not option=value"
    value=${BASH_REMATCH[2]}
    # A pair of quotes around the whole value is removed; no other character is special.
    [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]] && value=${BASH_REMATCH[1]}
    [[ $line =~ ^([a-z-]+)= ]]
    [ -n "${given[${BASH_REMATCH[1]}]:-}" ] || set_option "${BASH_REMATCH[1]}" "$value" "--env=$1: "
  done <"$1"
}

parse() {
  local word name value env_file=''
  while (($#)); do
    word=$1
    shift
    [ "$word" = -- ] && { train_args=("$@"); break; }
    [[ $word == --?* ]] ||
      refuse "'$word' is no option: options begin with --, those of sir-jax train follow ' -- '"
    name=${word#--}
    if [[ $name == *=* ]]; then
      value=${name#*=} name=${name%%=*}
    elif [ -n "${switches[$name]+known}" ]; then
      value=true
    else
      (($#)) || refuse "--$name needs a value"
      value=$1
      shift
    fi
    if [ "$name" = env ]; then
      env_file=$value
    else
      set_option "$name" "$value" --
      given[$name]=1
    fi
  done
  [ -z "$env_file" ] || read_env "$env_file"
}

# Require these options.
need() {
  local name
  for name; do
    [ -n "${options[$name]}" ] ||
      refuse "--$name is missing: $verb with --backend=$backend needs it"
  done
}

check_values() {
  local name pattern
  for name in slices processes devices-per-process; do
    [[ ${options[$name]} =~ ^[1-9][0-9]*$ ]] ||
      refuse "--$name=${options[$name]}: give a number from 1 on"
  done
  for name in worker slice retries poll grace port; do
    [[ ${options[$name]:-0} =~ ^[0-9]+$ ]] ||
      refuse "--$name=${options[$name]}: give a number from 0 on"
  done
  pattern='^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$'
  [[ ${options[name]:-a} =~ $pattern ]] ||
    refuse "--name=${options[name]}: give at most 40 of a-z, 0-9 and -, a letter first"
  [[ ${options[data]:-gs://} == gs://* ]] ||
    refuse "--data=${options[data]}: give a folder in gs://"
  [[ " $backends " == *" $backend "* ]] ||
    refuse "--backend=$backend: choose one of $backends"
}

need_tools() { # COMMAND...
  local tool
  for tool; do
    [[ -n $dry_run ]] || command -v "$tool" >/dev/null ||
      refuse "$tool is not on PATH: install it, or see with --dry-run what it would be told"
  done
}

# Look a slice up: its names on the platforms, its hosts and their chips.
slice_of() { # TYPE
  # The number in a name counts cores for v4 and v5p (two per chip), and chips for v5e and v6e.
  local -A torus=([8]=2x2x1 [16]=2x2x2 [32]=2x2x4 [64]=2x4x4 [128]=4x4x4 [256]=4x4x8 [512]=4x8x8)
  local -A grid=([1]=1x1 [4]=2x2 [8]=2x4 [16]=4x4 [32]=4x8 [64]=8x8 [128]=8x16 [256]=16x16)
  local family size
  [[ $1 =~ ^(v4|v5p|v5litepod|v6e)-([0-9]+)$ ]] ||
    refuse "--type=$1: no such slice; give v4-N, v5litepod-N, v5p-N or v6e-N, e.g. v4-32"
  family=${BASH_REMATCH[1]} size=$((10#${BASH_REMATCH[2]}))
  case $family in
    v4) runtime=tpu-ubuntu2204-base accelerator=tpu-v4-podslice machine=ct4p-hightpu ;;
    v5p) runtime=v2-alpha-tpuv5 accelerator=tpu-v5p-slice machine=ct5p-hightpu ;;
    v5litepod) runtime=v2-alpha-tpuv5-lite accelerator=tpu-v5-lite-podslice machine=ct5lp-hightpu ;;
    v6e) runtime=v2-alpha-tpuv6e accelerator=tpu-v6e-slice machine=ct6e-standard ;;
  esac
  case $family in
    v4 | v5p) topology=${torus[$size]:-} chips=$((size / 2)) ;;
    v5litepod | v6e) topology=${grid[$size]:-} chips=$size ;;
  esac
  if [ -z "$topology" ]; then
    [[ $family == v4 || $family == v5p ]] && size="${!torus[*]}" || size="${!grid[*]}"
    refuse "--type=$1: $family has no such size; give one of" \
      "$(tr ' ' '\n' <<<"$size" | sort -n | tr '\n' ' ')"
  fi
  # v5e and v6e slices of up to 8 chips have one host; larger ones have hosts of 4 chips.
  chips_per_host=$((chips > 8 || chips == 8 && ${#topology} == 5 ? 4 : chips))
  hosts=$((chips / chips_per_host))
  machine+=-${chips_per_host}t
  [ -n "${options[version]}" ] || options[version]=$runtime
}

# Set `command` to the training command; PROGRAM is its first word.
train_command() { # PROGRAM
  command=("$1" train "--config=${options[config]}" "--workdir=$(mounted "${options[workdir]}")")
}

# Print the path of a folder on hosts and pods, which mount gs://BUCKET at /gcs/BUCKET.
mounted() { # FOLDER
  case $1 in
    gs://*) printf '/gcs/%s' "${1#gs://}" ;;
    *) printf '%s' "$1" ;;
  esac
}

# Pack the committed code. Only once, so that `babysit` ships the same code after a preemption.
pack() {
  [ -z "${archive:-}" ] || return 0
  local tree=HEAD changed
  changed=$(call git status --porcelain)
  if [ -n "${switches[dirty]}" ]; then
    # A separate index, so that the checkout's own index is not changed.
    call mkdir -p build/launch
    call env GIT_INDEX_FILE=build/launch/index git add --all
    tree=$(call env GIT_INDEX_FILE=build/launch/index git write-tree)
    [ -z "$dry_run" ] || tree=TREE
  elif [ -n "$changed" ]; then
    refuse "'${changed%%$'\n'*}': not committed, so the hosts would not get it; commit it, or" \
      "give --dirty"
  else
    tree=$(call git rev-parse HEAD)
    [ -z "$dry_run" ] || tree=COMMIT
    call mkdir -p build/launch
  fi
  archive=build/launch/sir_jax-$tree.tar.gz
  call git archive --format=tar.gz "--output=$archive" "$tree"
}

# Print the highest number among the last path components of the input, which are names of
# checkpoints; -1 if there is none.
newest_number() {
  local line newest=-1
  while IFS= read -r line; do
    line=${line%/}
    line=${line##*/}
    [[ $line =~ ^[0-9]+$ ]] && ((10#$line > newest)) && newest=$((10#$line))
  done
  echo "$newest"
}

# Status of `sir-jax train` if another process is lost, or has failed and reports the cause itself.
try_again=75

# Whether the same command can continue after this status: 128 + a signal, or a lost process.
goes_on() { (($1 > 128 || $1 == try_again)); } # STATUS

# Count a restart; fail after too many restarts in a row without a newer checkpoint.
tries=0 best=-1
may_restart() { # REASON CHECKPOINT
  if (($2 > best)); then
    best=$2 tries=0
  else
    tries=$((tries + 1))
  fi
  if ((tries > options[retries])); then
    say "$1; gave up: ${options[retries]} restarts in a row without a newer checkpoint than" \
      "${best/#-1/none}"
    return 1
  fi
  say "$1; starts again, newest checkpoint: ${best/#-1/none}; restarts without progress: $tries" \
    "of ${options[retries]}"
}

main() {
  verb=${1:-}
  case $verb in
    '' | -h | --help | help)
      sed -n '2,/^set /{/^set /d;/SC2034/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      exit $(("${#verb}" ? 0 : 2))
      ;;
  esac
  [[ " $verbs " == *" $verb "* ]] || refuse "no verb '$verb'; choose one of $verbs"
  shift
  parse "$@"
  backend=${options[backend]} dry_run=${switches[dry-run]} prefix='+ '
  [ -n "$backend" ] || refuse "--backend is missing: choose one of $backends"
  check_values
  # Commands are printed to stdout in a dry run, else to stderr.
  if [ -n "$dry_run" ]; then exec 3>&1; prefix=''; else exec 3>&2; fi
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  # shellcheck source=/dev/null
  source "launch/tpu/$backend.sh"
  check
  "do_$verb"
}

main "$@"
