# shellcheck shell=bash
# Sourced: recognise a process by its number and its start time, as numbers are used again.

# Print the start time of a process; nothing if there is no such process.
born() { # PID
  local stat
  if [ -d /proc/self ]; then
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
    # The start time is field 22. Cut after field 2, a name in brackets that may contain spaces.
    read -r -a stat <<<"${stat##*) }"
    # A zombie (Z) has ended; only its parent has not waited for it yet.
    [ "${stat[0]}" = Z ] || echo "${stat[19]}"
  else
    ps -o lstart= -p "$1" | tr -s ' ' _ || true
  fi
}

# Whether the process with this number and start time still runs.
lives() { # PID BORN
  [ -n "${2:-}" ] && [ "$(born "$1")" = "$2" ]
}

# Send SIGTERM to a process, and after GRACE seconds SIGKILL to its group; return 1 in that case.
end() { # PID BORN GROUP GRACE
  local deadline=$((SECONDS + $4))
  lives "$1" "$2" || return 0
  kill -TERM "$1" 2>/dev/null || true
  while lives "$1" "$2"; do
    if ((SECONDS > deadline)); then
      kill -KILL -- "-$3" 2>/dev/null || true
      return 1
    fi
    sleep 0.2
  done
}
