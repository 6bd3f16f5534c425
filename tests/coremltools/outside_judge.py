#!/usr/bin/env python3
"""Has a judge from outside this repository look at what cmlc writes.

    outside_judge.py --cmlc build/release/cmlc --judge check_package.py --models DIR [--full [--once]]

The judge is a Python file with load_programs(path) and compare(original, compressed, min_snr), which
gives (rows, failures, snr). Every package in DIR that holds an ML Program is compressed in every way
of a grid, joint chains included, and judged, and so is what `cmlc decompress` makes of the results:
its plain constants must equal what the judge decodes. Exits with 77 (skipped) if there is no judge.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import quiet  # noqa: F401  (before coremltools)

SKIPPED = 77
BITS = (1, 2, 3, 4, 6, 8)


def load_judge(path: Path) -> ModuleType:
    """Imports the judge's file as a module."""
    spec = importlib.util.spec_from_file_location("judge", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Step = list[str]  # a command and its options
PALETTIZE, QUANTIZE, PRUNE = ["palettize"], ["quantize"], ["prune"]
HALF = [*PRUNE, "--target-sparsity", "0.5"]


def palettes(full: bool) -> Iterator[list[Step]]:
    """Ways to palettize a plain package."""
    for bits, mode, group in itertools.product(BITS, ("kmeans", "uniform"), (0, 8)):
        if not full and mode == "uniform" and bits not in (3, 4):
            continue
        yield [[*PALETTIZE, "--nbits", str(bits), "--mode", mode]
               + (["--group-size", str(group)] if group else [])]
    for dim, bits in itertools.product((2, 4, 8), (2, 4, 8)):
        if full or (dim, bits) in ((2, 4), (4, 8)):
            yield [[*PALETTIZE, "--nbits", str(bits), "--cluster-dim", str(dim)]]
    for bits, group in itertools.product((2, 4, 6), (0, 8)):
        if full or bits == 4:
            yield [[*PALETTIZE, "--nbits", str(bits), "--per-channel-scale"]
                   + (["--group-size", str(group)] if group else [])]
    for dtype, bits, group in itertools.product(
        ("int8", "uint8", "int4", "uint4"), BITS, (0, 8)
    ):
        if (full or (bits == 4 and dtype[-1] == "8")) and bits <= int(dtype[-1]):
            yield [[*PALETTIZE, "--nbits", str(bits), "--lut-dtype", dtype]
                   + (["--group-size", str(group)] if group else [])]
    for dtype in ("int8", "uint8", "int4", "uint4") if full else ("int4",):
        yield [[*PALETTIZE, "--nbits", "4", "--lut-dtype", dtype, "--target", "iOS26"]]


    for form, dtype, target in itertools.product(
        (["--cluster-dim", "2"], ["--cluster-dim", "4", "--group-size", "8"],
         ["--per-channel-scale"], ["--per-channel-scale", "--group-size", "8"]),
        ("int8", "uint8", "int4"), ([], ["--target", "iOS26"]),
    ):  # fmt: skip
        if full or (dtype == "int8" and "--group-size" not in form):
            yield [[*PALETTIZE, "--nbits", "4", *form, "--lut-dtype", dtype, *target]]


def codes(full: bool) -> Iterator[list[Step]]:
    """Ways to quantize a plain package."""
    shares = (["--granularity", "per_tensor"], [], ["--block-size", "16", "--fallback", "nearest"])
    for mode, dtype, share, scales in itertools.product(
        ("linear_symmetric", "linear"), ("int8", "uint8", "int4", "uint4"), shares,
        ("search", "minmax"),
    ):
        if full or (scales == "search") == (mode == "linear"):
            yield [[*QUANTIZE, "--mode", mode, "--dtype", dtype, *share, "--scales", scales]]


def sparse(full: bool) -> Iterator[list[Step]]:
    """Ways to prune a plain package."""
    for share in ("0.3", "0.5", "0.9") if full else ("0.5",):
        yield [[*PRUNE, "--target-sparsity", share]]
        for dim in "01":
            yield [[*PRUNE, "--target-sparsity", share, "--block-size", "2", "--dim", dim]]
    for ratio, dim in itertools.product(("2:4", "3:5") if full else ("2:4",), "01"):
        yield [[*PRUNE, "--n-m-ratio", ratio, "--dim", dim]]
    yield [[*PRUNE, "--threshold", "0.01", "--minimum-sparsity", "0.1"]]


def chains(full: bool) -> Iterator[list[Step]]:
    """Joint compression, step by step."""
    lut4, lut8 = [*PALETTIZE, "--nbits", "4"], [*PALETTIZE, "--nbits", "8"]
    grouped = [*lut4, "--group-size", "8"]
    for lut in (lut4, lut8, grouped) if full else (lut4, grouped):
        yield [lut, [*QUANTIZE, "--joint"]]
        yield [lut, [*QUANTIZE, "--joint", "--granularity", "per_tensor", "--dtype", "uint8"]]
        yield [HALF, [*lut, "--joint"]]
        yield [lut, [*HALF, "--joint"]]
        yield [HALF, [*lut, "--joint"], [*QUANTIZE, "--joint"]]
        yield [lut, [*HALF, "--joint"], [*QUANTIZE, "--joint"]]
        yield [lut, [*QUANTIZE, "--joint"], [*HALF, "--joint"]]
        yield [HALF, [*lut, "--joint", "--lut-dtype", "int8"]]
    blocks = ["--block-size", "16", "--fallback", "nearest"]
    for options in ([], ["--granularity", "per_tensor"], blocks, ["--mode", "linear"],
                    ["--dtype", "int4", *blocks]):
        int8 = [*QUANTIZE, *options]
        yield [int8, [*PALETTIZE, "--nbits", "2", "--joint"]]
        yield [HALF, [*int8, "--joint"]]
        yield [int8, [*HALF, "--joint"]]
        yield [HALF, [*int8, "--joint"], [*PALETTIZE, "--nbits", "2", "--joint"]]
    yield [[*PALETTIZE, "--nbits", "4", "--cluster-dim", "2"], [*QUANTIZE, "--joint"]]
    yield [HALF, [*lut4, "--per-channel-scale", "--joint"]]
    for target in ("iOS26",):
        for lut in (lut4, grouped, [*lut4, "--cluster-dim", "2"]):
            yield [lut, [*QUANTIZE, "--joint", "--target", target]]
        yield [HALF, [*lut4, "--joint", "--lut-dtype", "int8", "--target", target]]
        yield [[*QUANTIZE], [*PALETTIZE, "--nbits", "4", "--joint", "--target", target]]


def grid(full: bool) -> list[list[Step]]:
    """Ways to compress a package, each a list of commands of which every one reads the result of
    the one before."""
    return [way for make in (palettes, codes, sparse, chains) for way in make(full)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cmlc", required=True, type=Path)
    parser.add_argument("--judge", required=True, type=Path)
    parser.add_argument("--models", required=True, type=Path)
    parser.add_argument("--full", action="store_true", help="the whole grid")
    parser.add_argument("--once", action="store_true",
                        help="do not decompress the results and judge that too")  # fmt: skip
    parser.add_argument("--only", default="", help="packages with this in their paths")
    parser.add_argument("--ways", default="", help="ways with one of these in them, a,b")
    args = parser.parse_args()
    if not args.judge.is_file() or not args.models.is_dir():
        print("skipped: there is no judge or there are no models here")
        return SKIPPED
    judge = load_judge(args.judge)

    failed = judged = 0
    with tempfile.TemporaryDirectory() as folder:
        small, plain = Path(folder) / "small.mlpackage", Path(folder) / "plain.mlpackage"

        def judged_run(way: list[Step], package: Path, reference: object, out: Path) -> object:
            """Runs cmlc, judges the result against `reference`, and returns it (None: unreadable)."""
            nonlocal failed, judged
            judged += 1
            problems: list[str] = []
            source = package
            for number, step in enumerate(way):
                target = out if number + 1 == len(way) else Path(folder) / f"step{number}.mlpackage"
                command = [str(args.cmlc), *step, "-q", str(source), "-o", str(target)]
                run = subprocess.run(command, capture_output=True, text=True, check=False)
                if run.returncode:
                    problems = [run.stderr.strip()]
                    break
                source = target
            result = None
            if not problems:
                try:
                    _, result = judge.load_programs(out)
                    _, problems, _ = judge.compare(reference, result, float("-inf"))
                except Exception as error:
                    problems = [f"cannot be read: {type(error).__name__}: {error}"]
            if problems:
                failed += 1
                steps = " | ".join(" ".join(step) for step in way)
                print(f"FAIL {package.name} {steps}: {problems[0]}")
            return result

        for package in sorted(args.models.glob("*/*.mlpackage")):
            if args.only and args.only not in str(package):
                continue
            try:
                _, original = judge.load_programs(package)
            except Exception:  # not an ML Program
                continue
            before = judged
            judged_run([["decompress"]], package, original, plain)
            for number, way in enumerate(grid(args.full)):
                if not any(part in " ".join(step) for step in way for part in args.ways.split(",")):
                    continue
                compressed = judged_run(way, package, original, small)
                if args.once:
                    continue
                if compressed is not None and (args.full or number % 3 == 0):
                    judged_run([["decompress"]], small, compressed, plain)
            print(f"{package.parent.name}: {judged - before} results judged", flush=True)
    print(f"{judged - failed} passed, {failed} failed")
    return 1 if failed or not judged else 0


if __name__ == "__main__":
    sys.exit(main())
