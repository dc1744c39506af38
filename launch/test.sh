#!/usr/bin/env bash
# Run every test and the linter, from nothing but Python and a shell. Arguments are those of pytest;
# --quick runs a choice of a few minutes that touches every room; --all adds what takes long, such as
# a full-size compile for TPUs, and is run before a release.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" test
ruff check .
ruff format --check .
# The page's tests need a browser. Without one they are skipped, except in CI, where they fail.
if ! command -v chromium chromium-browser google-chrome >/dev/null && [ "$(id -u)" = 0 ] &&
  command -v apt-get >/dev/null; then
  echo "launch: installing chromium"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes chromium; } >/dev/null ||
    echo "launch: chromium cannot be installed; the page's tests need one" >&2
fi
# A choice of tests runs in this process; all of them run in two, each of which takes whole files.
case "$*" in "" | --quick | --all)
  set -- --numprocesses=2 --dist=loadfile --no-loadscope-reorder --max-worker-restart=0 "$@"
  ;;
esac
exec python -m pytest "$@"
