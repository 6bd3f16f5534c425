#!/bin/sh
# Installs what is missing, builds cmlc and palettizes the example model.
#
#   tools/setup.sh          everything
#   tools/setup.sh deps     only install what is missing
#
# CMLC_PRESET names another preset of CMakePresets.json than release.
set -eu
cd "$(dirname "$0")/.."

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

install_debian() {
  missing=""
  for package in g++ cmake ninja-build pkg-config libprotobuf-dev protobuf-compiler libhwy-dev libeigen3-dev \
    libxxhash-dev libfmt-dev nlohmann-json3-dev libyaml-cpp-dev libcli11-dev libspdlog-dev libgtest-dev zlib1g-dev \
    libpng-dev libjpeg62-turbo-dev python3 python3-venv; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
      missing="$missing $package"
  done
  [ -z "$missing" ] && return
  echo "installing:$missing"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  # shellcheck disable=SC2086  # a list of words
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    $missing >/dev/null
}

install_macos() {
  command -v brew >/dev/null || {
    echo "error: Homebrew is needed to install packages; see https://brew.sh" >&2
    exit 1
  }
  missing=""
  for package in cmake ninja pkg-config protobuf highway eigen xxhash fmt nlohmann-json yaml-cpp cli11 spdlog \
    zlib libpng jpeg-turbo googletest python@3.12; do
    brew list --formula "$package" >/dev/null 2>&1 || missing="$missing $package"
  done
  [ -z "$missing" ] && return
  echo "installing:$missing"
  # shellcheck disable=SC2086  # a list of words
  brew install --quiet $missing
}

case "$(uname -s)" in
  Darwin) install_macos ;;
  Linux)
    if command -v apt-get >/dev/null; then
      install_debian
    else
      echo "note: no apt-get here; see third_party/README.md for what has to be installed" >&2
    fi
    ;;
  *) echo "note: unknown system; see third_party/README.md for what has to be installed" >&2 ;;
esac
[ "${1:-}" = deps ] && exit 0

preset="${CMLC_PRESET:-release}"
cmake --preset "$preset" -DCMLC_BUILD_TESTS=OFF
cmake --build --preset "$preset"
"build/$preset/cmlc" palettize --nbits 4 examples/digits/digits.mlpackage \
  -o build/digits-palettized.mlpackage
