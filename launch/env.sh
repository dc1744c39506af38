# shellcheck shell=bash
# Sourced by the other scripts: create and activate the virtual environment .venv of the repository.
# usage: source launch/env.sh EXTRAS

extras=$1
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

if [ ! -x .venv/bin/python ]; then
  python=
  for candidate in python3 python3.11 python3.12; do
    if "$candidate" -c 'import sys; import ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
        2>/dev/null; then
      python=$candidate
      break
    fi
  done
  if [ -z "$python" ]; then
    echo "launch: no Python 3.11 or 3.12 on PATH; install one" >&2
    exit 1
  fi
  echo "launch: making .venv with $("$python" --version)"
  "$python" -m venv .venv || exit 1
fi
# shellcheck disable=SC1091
source .venv/bin/activate

# The stamp file records that these extras are installed, so that the next run starts at once. It is
# out of date when setup.cfg has changed.
stamp=.venv/sir_jax-${extras//,/-}
if [ ! -f "$stamp" ] || [ setup.cfg -nt "$stamp" ]; then
  echo "launch: installing sir_jax[$extras]"
  # Most files of torch and transformers are never imported: those that are compile at first use.
  pip install --quiet --no-compile --editable ".[$extras]" || exit 1
  touch "$stamp"
fi
