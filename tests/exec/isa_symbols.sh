#!/bin/sh
# Checks that the files compiled for one instruction set give nothing to a linker that it might use
# for all: of what they define and others may see, everything belongs to their own copy of Eigen or
# is the one function that hands out their kernels.
#
#   isa_symbols.sh NM OBJECT...     objects of other files are passed over
set -eu
nm=$1
shift
checked=0
for object in "$@"; do
  case "$object" in *kernels_v[13].cc.o) ;; *) continue ;; esac
  checked=$((checked + 1))
  foreign=$("$nm" -C --defined-only --extern-only "$object" |
    grep -v -e 'Eigen_v[13]::' -e 'cmlc::exec::KernelsV[13]()$' -e 'DW.ref.__gxx_personality' || true)
  if [ -n "$foreign" ]; then
    echo "$object defines for all files:" >&2
    echo "$foreign" >&2
    exit 1
  fi
done
[ "$checked" -eq 2 ] || { echo "expected 2 files of kernels, found $checked" >&2; exit 1; }
