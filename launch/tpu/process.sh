# shellcheck shell=bash
# Sourced: tell a process from a later one with the same number.

# When a process began; empty where there is none.
born() { # PID
  local stat
  if [ -d /proc/self ]; then
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
    # Field 22; the second, a name in brackets, may hold spaces.
    read -r -a stat <<<"${stat##*) }"
    # A zombie has ended: only its parent has not asked yet.
    [ "${stat[0]}" = Z ] || echo "${stat[19]}"
  else
    ps -o lstart= -p "$1" | tr -s ' ' _ || true
  fi
}

# Whether the process that began then still runs.
lives() { # PID BORN
  [ -n "${2:-}" ] && [ "$(born "$1")" = "$2" ]
}

# Send SIGTERM, and after GRACE seconds SIGKILL to the whole group; return 1 where that was needed.
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
