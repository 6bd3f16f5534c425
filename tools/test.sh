#!/bin/sh
# Installs what is missing, builds cmlc and passes the tests.
#
#   tools/test.sh                 release build, warnings as errors, all tests
#   tools/test.sh PRESET          another preset: debug, asan-ubsan, tsan
#
# The checks with coremltools run in a Python environment of their own, .venv. Where it cannot be
# made they are skipped, and say so.
set -eu
cd "$(dirname "$0")/.."
preset="${1:-ci}"

tools/setup.sh deps

requirements=tests/coremltools/requirements.txt
if ! cmp -s "$requirements" .venv/installed.txt; then
  rm -rf .venv
  if python3 -m venv .venv && .venv/bin/pip install --quiet --disable-pip-version-check \
    -r "$requirements"; then
    cp "$requirements" .venv/installed.txt
  else
    echo "note: no Python environment with coremltools could be made; its checks are skipped" >&2
  fi
fi

cmake --preset "$preset"
cmake --build --preset "$preset"
ctest --preset "$preset" -j "$(getconf _NPROCESSORS_ONLN)"
