#!/bin/sh
# Installs what is missing, builds cmlc and passes the tests.
#
#   tools/test.sh                 release build, all tests
#   tools/test.sh PRESET          another preset: ci (warnings as errors), debug, asan-ubsan, tsan
#
# The checks with coremltools run in a Python environment of their own, .venv. Where it cannot be
# made they are skipped, and say so. With CMLC_TEST_RUNTIMES=1 the environment also gets PyTorch and
# onnxruntime (1 GB and more), which `cmlc predict` is compared with.
set -eu
cd "$(dirname "$0")/.."
preset="${1:-${CMLC_PRESET:-release}}"

tools/setup.sh deps

base=tests/coremltools/requirements.txt
all="$base tests/coremltools/requirements-runtimes.txt"
wanted=$base
[ "${CMLC_TEST_RUNTIMES:-0}" = 1 ] && wanted=$all
has() { cat "$@" | cmp -s - .venv/installed.txt; }
# shellcheck disable=SC2086  # lists of files
if ! has $wanted && ! has $all; then
  rm -rf .venv
  if python3 -m venv .venv && cat $wanted >.venv/requirements.txt &&
    .venv/bin/pip install --quiet --disable-pip-version-check -r .venv/requirements.txt; then
    mv .venv/requirements.txt .venv/installed.txt
  else
    echo "note: no Python environment with coremltools could be made; its checks are skipped" >&2
  fi
fi

cmake --preset "$preset" -DCMLC_BUILD_TESTS=ON
cmake --build --preset "$preset"
ctest --preset "$preset" -j "$(getconf _NPROCESSORS_ONLN)"
