#!/usr/bin/env bash
# Make a corpus, train, evaluate and search pictures by voice. Needs only Python and a shell; takes
# the arguments of `sir-jax quickstart`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" demo

# The synthesiser flite, which trains nothing here: the demo is tried by its voice, too.
export SIR_JAX_VOICES=${SIR_JAX_VOICES:-$PWD/voices}
if ! command -v flite >/dev/null && [ ! -d "$SIR_JAX_VOICES/flite" ]; then
  echo "launch: fetching flite into $SIR_JAX_VOICES"
  bash launch/get_voices.sh "$SIR_JAX_VOICES" flite >/dev/null ||
    echo "launch: the demo goes on without flite" >&2
fi
exec sir-jax quickstart "$@"
