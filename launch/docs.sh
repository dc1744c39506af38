#!/usr/bin/env bash
# Build the documentation into build/docs, from nothing but Python and a shell. Arguments are those
# of sphinx-build.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" docs
python -m sphinx --fail-on-warning --keep-going --quiet "$@" --conf-dir docs . build/docs
echo "built: $PWD/build/docs/index.html"
