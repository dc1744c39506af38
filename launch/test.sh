#!/usr/bin/env bash
# Run every test and the linter, from nothing but Python and a shell. Arguments are those of pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" test
ruff check .
# Two processes: compilation, most of the work, uses little more than one core. A file stays whole, as
# its tests share what they build.
exec python -m pytest -n 2 --dist loadfile "$@"
