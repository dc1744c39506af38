#!/usr/bin/env bash
# Make a corpus, train, evaluate and search pictures by voice. Needs only Python and a shell; takes
# the arguments of `sir-jax quickstart`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" demo
exec sir-jax quickstart "$@"
