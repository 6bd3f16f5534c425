#!/usr/bin/env python3
"""Checks a compressed Core ML package against the package that it was made from.

    check.py ORIGINAL.mlpackage COMPRESSED.mlpackage [--json] [--same-graph] [--no-load]

Every constant that an ordinary operation reads is looked up in both packages, by function,
consumer and parameter, and decoded by decode.py. A constant that is stored plainly in both must be
the same to the bit; a compressed one must have kept its shape and type, and its signal-to-noise
ratio, 10 log10(sum w^2 / sum (w - w')^2), is reported. The compressed package must also pass
coremltools' own reader, which infers the type of every operation.

Exit status: 0 if all is well, 1 if a check failed, 2 if a package could not be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import quiet  # noqa: F401  (before coremltools)
from decode import Key, Package, Use

Array = np.ndarray
CHUNK = 1 << 22


@dataclass
class Weight:
    """A constant that the second package stores in a compressed form."""

    key: str
    name: str  # of the constant in the original
    shape: list[int]
    dtype: str
    form: str
    bits_per_weight: float
    snr_db: float


@dataclass
class Comparison:
    weights: list[Weight] = field(default_factory=list)
    unchanged: int = 0
    added: list[Key] = field(default_factory=list)  # uses of constants that were not there
    failures: list[str] = field(default_factory=list)

    def snr(self) -> dict[str, float]:
        return {w.key: w.snr_db for w in self.weights}


def snr_db(reference: Array, value: Array) -> float:
    """Signal-to-noise ratio in dB; infinite if both are equal. Works through the data in pieces."""
    signal = noise = 0.0
    a, b = reference.reshape(-1), value.reshape(-1)
    for at in range(0, a.size, CHUNK):
        x = a[at : at + CHUNK].astype(np.float64)
        signal += float(x @ x)
        x -= b[at : at + CHUNK]
        noise += float(x @ x)
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal else float("-inf")


def same_bits(a: Any, b: Any) -> bool:
    """Whether two decoded values are the same, down to the sign of zero."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return bool(a == b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(np.array_equal(_as_integers(a), _as_integers(b)))


def _as_integers(a: Array) -> Array:
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def compare_use(old: Use, new: Use, result: Comparison) -> None:
    """Holds one constant against what has become of it."""
    a, b = old.decode(), new.decode()
    if new.form == "const" or not isinstance(a, np.ndarray):
        if not same_bits(a, b):
            result.failures.append(f"{old.key}: stored plainly, yet changed")
        result.unchanged += 1
        return
    if not isinstance(b, np.ndarray) or a.shape != b.shape or a.dtype != b.dtype:
        result.failures.append(f"{old.key}: was {a.dtype} {a.shape}, is {b.dtype} {b.shape}")
        return
    if a.size > 1 and np.isnan(b).any() and not np.isnan(a).any():
        result.failures.append(f"{old.key}: NaN where there was none")
    bits = new.stored_bits() / max(1, a.size)
    result.weights.append(
        Weight(
            str(old.key),
            old.name,
            list(a.shape),
            str(a.dtype),
            new.form,
            round(bits, 4),
            snr_db(a, b),
        )
    )


def index(package: Package) -> dict[Key, Use]:
    return {use.key: use for use in package.uses()}


def compare(original: Package, compressed: Package) -> Comparison:
    """Compares the constants of two packages."""
    result = Comparison()
    before, after = index(original), index(compressed)
    for key, old in before.items():
        new = after.get(key)
        if new is None:
            result.failures.append(f"{key}: the constant or what reads it is gone")
        else:
            compare_use(old, new, result)
    result.added = sorted(after.keys() - before.keys())
    return result


def graph_changes(
    original: Package, compressed: Package, result: Comparison, rewritten: bool = False
) -> list[str]:
    """What differs apart from constants; `result` is what compare() gave for the packages.

    Some operations of an older system must be rewritten for a newer one. With `rewritten`,
    operations may have been put between the others, with constants of their own.
    """
    old, new = list(original.operations()), list(compressed.operations())
    found = []
    if rewritten:
        rest = iter(new)
        found += [f"operation {kind} {name} is gone" for name, kind in old
                  if (name, kind) not in rest]  # fmt: skip
    elif old != new:
        a, b = next(((a, b) for a, b in zip(old, new, strict=False) if a != b), ("none", "none"))
        found.append(f"{len(old)} operations became {len(new)}, the first that differs: {a}, {b}")
    names = {name.rsplit("/", 1)[-1] for name, _ in old}
    found += [f"{key}: a constant that was not there" for key in result.added
              if not rewritten or key.consumer in names]  # fmt: skip
    if original.spec.description != compressed.spec.description:
        found.append("the model's description changed")
    if not original.unreferenced_blobs():
        found += [f"nothing refers to blob {blob}" for blob in compressed.unreferenced_blobs()]
    return found


# coremltools as the judge ---------------------------------------------------------------------


def load_programs(package: Package) -> dict[str, Any]:
    """coremltools' own view of every ML Program in a package; raises if it refuses one."""
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.converters.mil.mil.types import symbolic

    # Names of unknown dimensions are unique per process there, so a second model with the same
    # names would be refused.
    symbolic.k_used_symbols.clear()
    loaded = {}
    for place, model in package.programs():
        version = model.specificationVersion
        loaded[place] = load(model, version, file_weights_dir=str(package.weights_dir))
        symbolic.k_used_symbols.clear()
    return loaded


def coremltools_constants(package: Package) -> dict[Key, Array]:
    """The tensors that ordinary operations read, decompressed by coremltools itself."""
    from coremltools.optimize.coreml._quantization_passes import WeightDecompressor

    found: dict[Key, Array] = {}
    for place, program in load_programs(package).items():
        WeightDecompressor(op_selector=lambda op: True).apply(program)
        for name, function in program.functions.items():
            for key, value in _constants_in(function, Key(place, name, "", "", "", 0)):
                found[key] = value
    return found


def _constants_in(block: Any, at: Key) -> Iterator[tuple[Key, Array]]:
    for op in block.operations:
        if op.op_type == "const":
            continue
        consumer = op.outputs[0].name if op.outputs else op.name
        for i, inner in enumerate(op.blocks):
            yield from _constants_in(inner, at._replace(path=f"{at.path}{consumer}.{i}/"))
        for parameter, source in op.inputs.items():
            sources = source if isinstance(source, (list, tuple)) else [source]
            for i, var in enumerate(sources):
                key = at._replace(consumer=consumer, parameter=parameter, position=i)
                if var is not None and var.op is not None and var.op.op_type == "const":
                    yield key, var.val


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("original", type=Path)
    parser.add_argument("compressed", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--same-graph", action="store_true", help="nothing else may have changed")
    parser.add_argument("--no-load", action="store_true", help="leave out coremltools' reader")
    args = parser.parse_args()
    try:
        original, compressed = Package(args.original), Package(args.compressed)
        result = compare(original, compressed)
        if args.same_graph:
            result.failures += graph_changes(original, compressed, result)
        if not args.no_load:
            load_programs(compressed)
    except Exception as error:  # whatever coremltools raises
        print(f"cannot read: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    sizes = (original.size, compressed.size)
    if args.json:
        del result.added[:]
        report = asdict(result) | {"spec": compressed.version, "bytes": sizes}
        print(json.dumps(report, indent=1))
    else:
        for w in result.weights:
            print(f"{w.snr_db:9.3f} dB {w.bits_per_weight:7.3f} bits  {w.form}  {w.shape} {w.key}")
        for failure in result.failures:
            print(f"FAIL {failure}")
        print(
            f"{len(result.weights)} compressed, {result.unchanged} plain, "
            f"{sizes[0]} -> {sizes[1]} bytes, spec {compressed.version}, "
            f"{len(result.failures)} failures"
        )
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
