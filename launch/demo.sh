#!/usr/bin/env bash
# Make a corpus, train, evaluate and find pictures by voice, from nothing but Python and a shell.
# Arguments are those of `sir-jax quickstart`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" demo
exec sir-jax quickstart "$@"
