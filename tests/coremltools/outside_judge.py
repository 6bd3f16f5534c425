#!/usr/bin/env python3
"""Has a judge from outside this repository look at what cmlc writes.

    outside_judge.py --cmlc build/release/cmlc --judge check_package.py --models DIR [--full]

The judge is a Python file with load_programs(path) and compare(original, compressed, min_snr), which
gives (rows, failures, snr). Every package in DIR that holds an ML Program is palettized in every way
of a grid and judged, and so is what `cmlc decompress` makes of each result: its plain constants must
equal what the judge decodes. Exits with 77 (skipped) if there is no judge.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import subprocess
import sys
import tempfile
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


def grid(full: bool) -> list[list[str]]:
    """Options of `cmlc palettize` to try."""
    ways = []
    for bits, mode, group in itertools.product(BITS, ("kmeans", "uniform"), (0, 8)):
        if not full and mode == "uniform" and bits not in (3, 4):
            continue
        ways.append(["--nbits", str(bits), "--mode", mode]
                    + (["--group-size", str(group)] if group else []))
    return ways


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cmlc", required=True, type=Path)
    parser.add_argument("--judge", required=True, type=Path)
    parser.add_argument("--models", required=True, type=Path)
    parser.add_argument("--full", action="store_true", help="the whole grid")
    args = parser.parse_args()
    if not args.judge.is_file() or not args.models.is_dir():
        print("skipped: there is no judge or there are no models here")
        return SKIPPED
    judge = load_judge(args.judge)

    failed = judged = 0
    with tempfile.TemporaryDirectory() as folder:
        small, plain = Path(folder) / "small.mlpackage", Path(folder) / "plain.mlpackage"

        def judged_run(way: list[str], package: Path, reference: object, out: Path) -> object:
            """Runs cmlc, judges the result against `reference`, and returns it (None: unreadable)."""
            nonlocal failed, judged
            judged += 1
            command = [str(args.cmlc), *way, "-q", str(package), "-o", str(out)]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            result, problems = None, [run.stderr.strip()] if run.returncode else []
            if not problems:
                try:
                    _, result = judge.load_programs(out)
                    _, problems, _ = judge.compare(reference, result, float("-inf"))
                except Exception as error:
                    problems = [f"cannot be read: {type(error).__name__}: {error}"]
            if problems:
                failed += 1
                print(f"FAIL {package.name} {' '.join(way)}: {problems[0]}")
            return result

        for package in sorted(args.models.glob("*/*.mlpackage")):
            try:
                _, original = judge.load_programs(package)
            except Exception:  # not an ML Program
                continue
            before = judged
            judged_run(["decompress"], package, original, plain)
            for options in grid(args.full):
                compressed = judged_run(["palettize", *options], package, original, small)
                if compressed is not None and options[1] in ("3", "4"):
                    judged_run(["decompress"], small, compressed, plain)
            print(f"{package.parent.name}: {judged - before} results judged", flush=True)
    print(f"{judged - failed} passed, {failed} failed")
    return 1 if failed or not judged else 0


if __name__ == "__main__":
    sys.exit(main())
