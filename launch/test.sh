#!/usr/bin/env bash
# Run every test and the linter, from nothing but Python and a shell. Arguments are those of pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" test
ruff check .
exec python -m pytest "$@"
