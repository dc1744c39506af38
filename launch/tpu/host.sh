#!/usr/bin/env bash
# What launch/tpu.sh runs on a TPU host; it lies in the code that `sync` shipped.
# usage: host.sh setup EXTRAS [gs://DATA]    a Python, the environment, the corpora
#        host.sh start RUN COMMAND...        detached; again the same while it runs: nothing
#        host.sh status RUN WORKDIR          one line: state=, exit=, checkpoint=
#        host.sh metrics WORKDIR             the last line of metrics.jsonl
#        host.sh logs RUN                    follow the log
#        host.sh idle RUN                    fail while the run lives
#        host.sh stop RUN GRACE              SIGTERM, which saves; after GRACE seconds SIGKILL
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=process.sh
source launch/tpu/process.sh

verb=$1
shift
say() { printf '%s: %s\n' "$(hostname)" "$*"; }

# Read what `supervise` wrote of the run; fail where there is no run or it has ended.
running() {
  pid='' began='' group=''
  [ -f "$folder/pid" ] && read -r pid began group <"$folder/pid" && lives "$pid" "$began"
}

# Whether launch/env.sh will find a Python; Ubuntu ships ensurepip apart.
have_python() {
  local python check
  check='import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
  for python in .venv/bin/python python3 python3.11 python3.12; do
    "$python" -c "$check" 2>/dev/null && return
  done
  return 1
}

do_setup() { # EXTRAS [DATA]
  # TPU images come with Python 3.10.
  if ! have_python; then
    # Right after the start the machine's own updates hold apt's lock.
    sudo add-apt-repository -y ppa:deadsnakes/ppa
    sudo apt-get -o DPkg::Lock::Timeout=600 install -y -q python3.12 python3.12-venv
  fi
  if [ -n "${2:-}" ]; then
    mkdir -p data
    gcloud storage rsync --recursive "$2" data
  fi
  # shellcheck source=../env.sh
  source launch/env.sh "$1"
}

# Mount the bucket of /gcs/BUCKET/..., a folder that all hosts share.
mount_bucket() { # FOLDER
  local bucket=${1#/gcs/} source
  bucket=${bucket%%/*}
  ! mountpoint -q "/gcs/$bucket" || return 0
  if ! command -v gcsfuse >/dev/null; then
    source=https://packages.cloud.google.com/apt
    curl -fsSL "$source/doc/apt-key.gpg" | sudo tee /usr/share/keyrings/gcsfuse.asc >/dev/null
    echo "deb [signed-by=/usr/share/keyrings/gcsfuse.asc] $source gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get update -q
    sudo apt-get -o DPkg::Lock::Timeout=600 install -y -q gcsfuse
  fi
  sudo mkdir -p "/gcs/$bucket"
  sudo chown "$(id -u)" "/gcs/$bucket"
  # What one host writes, the others must see at once.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$bucket" "/gcs/$bucket"
}

do_start() { # COMMAND...
  if running; then
    [ "$(<"$folder/command")" = "$*" ] && { say "$run runs already (process $pid)"; return; }
    say "$run runs another command (process $pid); stop it first" >&2
    return 2
  fi
  local word
  for word; do [[ $word != --*=/gcs/?* ]] || mount_bucket "${word#*=}"; done
  mkdir -p "$folder"
  rm -f "$folder"/{pid,exit,stopped}
  printf '%s' "$*" >"$folder/command"
  printf '%s: %s\n' "$(date -u +%FT%TZ)" "$*" >>"$folder/log"
  # A session of its own outlives the ssh connection.
  setsid bash launch/tpu/host.sh supervise "$run" "$@" >>"$folder/log" 2>&1 </dev/null &
  disown
  local tick
  for tick in {1..50}; do
    [ ! -f "$folder/pid" ] || break
    sleep 0.1
  done
  [ "$tick" -lt 50 ] || { say "$run did not start; see $folder/log" >&2; return 1; }
  say "$run started"
}

do_supervise() { # COMMAND...
  local code=0
  trap '' HUP
  "$@" &
  echo "$! $(born $!) $$" >"$folder/pid.part"
  mv "$folder/pid.part" "$folder/pid"
  wait $! || code=$?
  echo "$code" >"$folder/exit.part"
  mv "$folder/exit.part" "$folder/exit"
  # Whatever it started itself ends with it, and lets go of the chips.
  kill -KILL -- "-$$"
}

do_status() { # WORKDIR
  local state=none code='' step=-1 name
  if running; then
    state=running
  elif [ -f "$folder/stopped" ]; then
    state=stopped
  elif [ -f "$folder/exit" ]; then
    state=ended code=$(<"$folder/exit")
  elif [ -f "$folder/command" ]; then
    state=lost  # the machine was restarted
  fi
  while read -r name; do
    # What is not committed yet has a longer name.
    [[ $name =~ ^[0-9]+$ ]] && ((10#$name > step)) && step=$((10#$name))
  done < <(ls "$1/checkpoints" 2>/dev/null)
  echo "state=$state exit=$code checkpoint=$step host=$(hostname)"
}

do_metrics() { tail -n 1 "$1/metrics.jsonl"; }

do_logs() { tail -n 100 -F "$folder/log"; }

do_idle() {
  ! running || { say "$run runs (process $pid); stop it first" >&2; return 2; }
}

do_stop() { # GRACE
  running || { say "$run does not run"; return; }
  # Before the end, so that a babysitter does not start again what a person stopped.
  touch "$folder/stopped"
  if end "$pid" "$began" "$group" "$1"; then
    say "$run stopped"
  else
    say "$run killed after $1 s"
  fi
}

case $verb in
  setup) do_setup "$@" ;;
  metrics) do_metrics "$@" ;;
  *)
    run=$1 folder=${SIR_JAX_RUNS:-$HOME/.sir_jax/runs}/$1
    shift
    "do_$verb" "$@"
    ;;
esac
