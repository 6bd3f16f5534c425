#!/bin/sh
# Activations and weights of the example model in 8 bits, and weights in 4: what it costs.
#
#   examples/quantize_digits.sh [CMLC]
#
# For each preset the command that makes the model, and what `cmlc compare` says of it.
set -eu
cd "$(dirname "$0")/digits"
cmlc="${1:-../../build/release/cmlc}"
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT

for preset in w8a8 a8w4; do
  "$cmlc" run --recipe "../recipes/$preset.yaml" digits.mlpackage \
    --data samples/images.npy --batched -o "$out/$preset.mlpackage"
  "$cmlc" compare digits.mlpackage "$out/$preset.mlpackage" \
    --input samples/images.npy --batched --labels samples/labels.npy --min-accuracy 0.99
done
