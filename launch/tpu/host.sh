#!/usr/bin/env bash
# Run by launch/tpu.sh on a TPU host, as part of the code that `sync` shipped.
# usage: host.sh setup EXTRAS [gs://DATA]    install Python, the environment and the corpora
#        host.sh start RUN COMMAND...        start it detached; do nothing if it runs already
#        host.sh status RUN WORKDIR          print one line: state=, exit=, checkpoint=
#        host.sh metrics WORKDIR             print the last line of metrics.jsonl
#        host.sh logs RUN                    follow the log
#        host.sh idle RUN                    fail while the run is active
#        host.sh stop RUN GRACE              SIGTERM to save; after GRACE seconds SIGKILL
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=process.sh
source launch/tpu/process.sh

verb=$1
shift
say() { printf '%s: %s\n' "$(hostname)" "$*"; }

# Read the process file that `supervise` wrote; fail if there is no run or it has ended.
running() {
  pid='' began='' group=''
  [ -f "$folder/pid" ] && read -r pid began group <"$folder/pid" && lives "$pid" "$began"
}

# Whether launch/env.sh will find a Python with ensurepip, which Ubuntu packages separately.
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
    # After the start, the machine's automatic updates hold the lock of apt.
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

# Mount the bucket of a folder /gcs/BUCKET/..., which all hosts share.
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
  # Without caching of metadata, so that hosts see each other's files at once.
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
  # In a new session, so that the run survives the end of the ssh connection.
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
  # End the processes that the command started, which would keep the chips.
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
    # A checkpoint that is still being written has a longer name.
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
  # Before the process ends, so that `babysit` does not restart a run that a person stopped.
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
