#!/usr/bin/env python3
"""Checks cmlc against coremltools on many small models.

    run_checks.py --cmlc build/release/cmlc [--models DIR] [--quick | --full] [--only GROUP]

Groups of checks:
  info         cmlc info reads every package
  palettize    what cmlc writes loads, holds every weight, and only weights have changed
  peer         no weight has a lower SNR than coremltools gives it with the same options
  decompress   cmlc decompress gives the values that coremltools decodes
  same         the same input gives the same bytes; compressing twice changes nothing
  untouched    no input was written to

Prints a line for each group and model, each failure, and at the end a line that says only
"N passed, M failed, K skipped".
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import quiet  # noqa: F401  (before coremltools)
from check import (
    Comparison,
    compare,
    coremltools_constants,
    graph_changes,
    load_programs,
    same_bits,
)
from decode import Package, Use
from zoo import Entry, build, build_compressed

ROOT = Path(__file__).resolve().parent.parent.parent
THRESHOLD = 2048  # weights with this many elements or fewer are left alone
ALLOWANCE = 0.001  # dB
SHOWN = 40  # lines about failures in a group
TIMEOUT = 120  # seconds, for one run of cmlc


@dataclass(frozen=True)
class Options:
    """One way to palettize."""

    mode: str
    bits: int = 0  # 0: as many as needed (unique)
    group: int = 0

    def __str__(self) -> str:
        bits = f"{self.bits} bits " if self.bits else ""
        return f"{self.mode} {bits}" + (f"by {self.group}" if self.group else "per tensor")

    @property
    def version(self) -> int:
        """The specification that the form needs."""
        return 9 if self.group or self.bits == 3 else 7

    def arguments(self) -> list[str]:
        found = ["--mode", self.mode]
        if self.bits:
            found += ["--nbits", str(self.bits)]
        if self.group:
            found += ["--granularity", "per_grouped_channel", "--group-size", str(self.group)]
        return found

    def config(self) -> Any:
        """The same for coremltools."""
        import coremltools.optimize.coreml as cto

        settings: dict[str, Any] = {"mode": self.mode}
        if self.bits:
            settings["nbits"] = self.bits
        if self.group:
            settings |= {"granularity": "per_grouped_channel", "group_size": self.group}
        return cto.OptimizationConfig(global_config=cto.OpPalettizerConfig(**settings))


FOUR = Options("kmeans", 4)
QUICK = [
    FOUR,
    Options("kmeans", 1),
    Options("kmeans", 8),
    Options("kmeans", 6, 16),
    Options("kmeans", 3, 4),
    Options("uniform", 4),
    Options("uniform", 2, 4),
    Options("unique"),
]
FULL = [
    Options(mode, bits, group)
    for mode in ("kmeans", "uniform")
    for bits in (1, 2, 3, 4, 6, 8)
    for group in (0, 4, 16)
] + [Options("unique"), Options("unique", 0, 16)]


# Bookkeeping ----------------------------------------------------------------------------------


@dataclass
class Tally:
    """Counts checks, and prints a line for each group."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    group: str = ""
    before: tuple[int, int, int] = (0, 0, 0)
    failures: list[str] = field(default_factory=list)
    started: float = 0

    def counts(self) -> tuple[int, int, int]:
        return self.passed, self.failed, self.skipped

    def begin(self, group: str) -> None:
        self.group, self.before, self.failures = group, self.counts(), []
        self.started = time.monotonic()

    def end(self) -> None:
        p, f, s = (now - then for now, then in zip(self.counts(), self.before, strict=True))
        skipped = f", {s} skipped" if s else ""
        took = time.monotonic() - self.started
        print(f"{'FAIL' if f else 'ok':5}{self.group}: {p} of {p + f}{skipped} ({took:.1f} s)")
        for line in self.failures[:SHOWN]:
            print(f"     {line}")
        if len(self.failures) > SHOWN:
            print(f"     ... and {len(self.failures) - SHOWN} lines more")
        sys.stdout.flush()

    def check(self, what: str, problems: list[str]) -> None:
        """One check: it passed if there are no problems."""
        if not problems:
            self.passed += 1
            return
        self.failed += 1
        more = [f"... and {len(problems) - 4} more"] if len(problems) > 4 else []
        lines = [" ".join(p.split()) for p in problems[:4] + more]
        self.failures += [f"FAIL {self.group}: {what}: {line}" for line in lines]

    def skip(self, what: str, why: str) -> None:
        self.skipped += 1
        self.failures.append(f"skip {what}: {why.strip().splitlines()[0][:200]}")


def fingerprint(path: Path) -> dict[str, str]:
    """A hash of every file of a package."""
    return {
        str(f.relative_to(path)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(path.rglob("*"))
        if f.is_file()
    }


class Tool:
    """Runs cmlc."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder = program, folder

    def run(self, *arguments: str | Path) -> str:
        """What it printed; raises if it failed."""
        call = [str(self.program), *map(str, arguments)]
        done = subprocess.run(call, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if done.returncode:
            said = done.stderr.strip()[-300:] or done.stdout.strip()[-300:]
            raise RuntimeError(f"exit status {done.returncode}: {said}")
        return done.stdout

    def output(self, name: str) -> Path:
        path = self.folder / f"{name}.mlpackage"
        shutil.rmtree(path, ignore_errors=True)
        return path

    def palettize(
        self, source: Path, name: str, options: Options, *more: str
    ) -> tuple[Path, dict[str, Any]]:
        """The compressed package, and cmlc's report about it."""
        out = self.output(name)
        text = self.run("palettize", source, "-o", out, *options.arguments(), "--json", "-q", *more)
        return out, json.loads(text)

    def decompress(self, source: Path, name: str) -> Path:
        out = self.output(name)
        self.run("decompress", source, "-o", out)
        return out


def target_for(source: Path, options: Options) -> list[str]:
    """Asks for iOS 18 where a form needs it and the model is for an older system."""
    version = max(p.specificationVersion for _, p in Package(source).programs())
    return ["--target", "iOS18"] if version < options.version == 9 else []


# What a palettized package must be ------------------------------------------------------------


def is_candidate(use: Use) -> bool:
    """Whether palettize is expected to compress a constant, going by its type and size."""
    if use.form != "const" or use.op is None or use.consumer_type == "output":
        return False
    value = use.decode()
    return (
        isinstance(value, np.ndarray)
        and value.dtype.kind == "f"
        and value.ndim >= 2
        and value.size > THRESHOLD
    )


def version_problems(
    original: Package, out: Package, fresh: set[str], options: Options
) -> list[str]:
    """Every program has the version that its new constants need, and no higher one."""
    found = []
    for (place, old), (_, new) in zip(original.programs(), out.programs(), strict=True):
        was, now = old.specificationVersion, new.specificationVersion
        needs = {options.version}
        if options.group:  # one group in all: the older form can hold that
            needs.add(7)
        allowed = {max(was, need) for need in needs}
        if not any(key.startswith(place) for key in fresh):
            allowed.add(was)
        if now not in allowed:
            found.append(f"specification {now}, expected {sorted(allowed)}")
        for name, function in new.mlProgram.functions.items():
            if function.opset != f"CoreML{now - 1}":
                found.append(f"function {name}: opset {function.opset} in specification {now}")
    return found


def report_problems(report: dict[str, Any], original: Package, result: Comparison) -> list[str]:
    """Holds what cmlc says against what is in the file."""

    def rows(use: Use, status: str) -> list[dict[str, Any]]:
        function = use.key.program + use.key.function  # "0:main" in a pipeline
        here = [r for r in report["weights"] if r["function"] == function]
        return [r for r in here if r["status"] == status and r["name"] == use.name]

    found = [f"{r['name']}: left without a reason" for r in report["weights"]
             if r["status"] == "left" and not r.get("reason")]  # fmt: skip
    compressed = {w.key: w for w in result.weights}
    for use in original.uses():
        weight = compressed.get(str(use.key))
        if weight is None:
            if is_candidate(use) and not rows(use, "left"):
                found.append(f"{use.key} ({use.name}): not compressed, and not reported as left")
        elif use.form == "const":
            said = [r.get("snr_db") for r in rows(use, "done")]
            if not any(same_snr(s, weight.snr_db) for s in said):
                found.append(f"{use.key}: SNR {weight.snr_db:.3f} dB, reported as {said}")
    return found


def same_snr(said: float | None, is_: float) -> bool:
    """An SNR that is not finite may be reported as nothing."""
    return abs(said - is_) < 0.01 if said is not None and np.isfinite(said) else np.isinf(is_)


def palette_problems(result: Comparison, fresh: set[str], options: Options) -> list[str]:
    """Weights that were plain are tables now; those that were compressed are what they were."""
    found = []
    for w in result.weights:
        if w.key not in fresh:
            if w.snr_db != np.inf:
                found.append(f"{w.key}: was compressed already, yet changed")
        elif w.form != "lut_to_dense":
            found.append(f"{w.key}: is a {w.form}")
        elif options.mode == "unique" and w.snr_db != np.inf:
            found.append(f"{w.key}: unique lost something, {w.snr_db:.2f} dB")
    return found


def judge(entry: Entry, out: Path, report: dict[str, Any], options: Options) -> Comparison:
    """All checks of one palettized package; what is wrong ends up among the failures."""
    original, package = Package(entry.path), Package(out)
    result = compare(original, package)
    plain = {str(use.key) for use in original.uses() if use.form == "const"}
    fresh = {w.key for w in result.weights} & plain
    problems = result.failures
    rewritten = bool(report["summary"].get("rewrites"))
    problems += graph_changes(original, package, result, rewritten)
    problems += version_problems(original, package, fresh, options)
    problems += report_problems(report, original, result)
    problems += palette_problems(result, fresh, options)
    load_programs(package)
    if "not_finite" in entry.tags:
        names = [w.name for w in result.weights]
        problems += [f"{n}: compressed" for n in names if "nan" in n or "infinite" in n]
    return result


# The peer --------------------------------------------------------------------------------------


class Peer:
    """coremltools' palettizer, on copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entry: Entry | None = None
        self.model: Any = None

    def snr(self, entry: Entry, options: Options) -> dict[str, float]:
        """SNR of every weight that coremltools compresses; raises if it cannot."""
        import coremltools as ct
        import coremltools.optimize.coreml as cto

        if self.entry != entry:
            copy = self.folder / "peer-input.mlpackage"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(entry.path, copy)
            self.model = ct.models.MLModel(str(copy), skip_model_load=True)
            self.entry = entry
        out = self.folder / "peer-output.mlpackage"
        shutil.rmtree(out, ignore_errors=True)
        cto.palettize_weights(self.model, options.config()).save(str(out))
        return compare(Package(entry.path), Package(out)).snr()


def cannot(entry: Entry, options: Options) -> str:
    """Why coremltools cannot be asked, or nothing."""
    if entry.tags & {"pipeline", "multifunction", "not_finite", "compressed"}:
        return "no such models"
    if options.version > max(7, Package(entry.path).version):
        return "needs an iOS 18 model"
    return ""


def peer_problems(mine: dict[str, float], theirs: dict[str, float]) -> list[str]:
    """Weights that are worse than, or missing from, what coremltools makes."""
    found = [f"{k}: compressed by coremltools only" for k in sorted(theirs.keys() - mine.keys())]
    for key in sorted(theirs.keys() & mine.keys()):
        a, b = mine[key], theirs[key]
        if not (a == np.inf or np.isnan(b) or a >= b - ALLOWANCE):
            found.append(f"{key}: {a:.4f} dB, coremltools {b:.4f} dB")
    return found


# Groups ----------------------------------------------------------------------------------------


class Suite:
    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.tally = args, Tally()
        self.tool, self.peer = Tool(args.cmlc, folder), Peer(folder)
        self.grid = FULL if args.full else QUICK
        self.plain: list[Entry] = []
        self.compressed: list[Entry] = []

    def wants(self, group: str) -> bool:
        return not self.args.only or group in self.args.only.split(",")

    def collect(self, folder: Path) -> None:
        """Makes and finds the packages to test with."""
        self.tally.begin("models made with coremltools")
        self.plain, missing = build(folder / "plain")
        self.compressed, more = build_compressed(folder / "compressed")
        for line in missing + more:
            self.tally.skip(*line.split(": ", 1))
        digits = ROOT / "examples" / "digits" / "digits.mlpackage"
        if digits.exists():
            self.plain.append(Entry("digits", digits))
        for path in sorted(self.args.models.glob("*/*.mlpackage")) if self.args.models else []:
            self.add_found(path)
        self.tally.passed += len(self.plain) + len(self.compressed)
        self.tally.end()

    def add_found(self, path: Path) -> None:
        package = Package(path)
        programs = list(package.programs())
        if not programs:
            return
        pipeline = {"pipeline"} if programs[0][0] else set()
        if any(use.form != "const" for use in package.uses()):
            tags = frozenset({"compressed"} | pipeline)
            self.compressed.append(Entry(path.parent.name, path, tags))
        else:
            self.plain.append(Entry(path.parent.name, path, frozenset(pipeline)))

    def run(self) -> None:
        inputs = {e.path: fingerprint(e.path) for e in self.plain + self.compressed}
        if self.wants("info"):
            self.info()
        for entry in self.plain:
            if self.wants("palettize") or self.wants("peer"):
                self.palettize(entry, self.grid)
        for group, check in (("palettize", self.leave_compressed), ("decompress", self.decompress),
                             ("same", self.same)):  # fmt: skip
            if self.wants(group):
                check()
        self.tally.begin("untouched")
        for path, old in inputs.items():
            self.tally.check(path.name, [] if fingerprint(path) == old else ["was written to"])
        self.tally.end()

    def guarded(self, what: str, problems: Iterator[list[str]]) -> None:
        """Counts one check, whose exceptions are failures too."""
        try:
            self.tally.check(what, [p for part in problems for p in part])
        except Exception as error:  # whatever coremltools or cmlc raises
            self.tally.check(what, [f"{type(error).__name__}: {error}"])

    def info(self) -> None:
        self.tally.begin("info")

        def attempt(entry: Entry) -> Iterator[list[str]]:
            shown = json.loads(self.tool.run("info", entry.path, "--json"))
            yield [] if isinstance(shown, dict) else ["not a JSON object"]

        for entry in self.plain + self.compressed:
            self.guarded(entry.name, attempt(entry))
        self.tally.end()

    def palettize(self, entry: Entry, grid: list[Options]) -> None:
        """The grid of options on one model, and the same with coremltools."""
        self.tally.begin(f"palettize {entry.name}")
        for options in grid:
            found: list[Comparison] = []
            self.guarded(str(options), self.palettized(entry, options, found))
            if found and self.wants("peer"):
                self.compare_with_peer(entry, options, found[0].snr())
        self.tally.end()

    def palettized(
        self, entry: Entry, options: Options, found: list[Comparison]
    ) -> Iterator[list[str]]:
        more = target_for(entry.path, options)
        out, report = self.tool.palettize(entry.path, "palettized", options, *more)
        found.append(judge(entry, out, report, options))
        yield found[0].failures

    def compare_with_peer(self, entry: Entry, options: Options, mine: dict[str, float]) -> None:
        if cannot(entry, options):
            return
        try:
            theirs = self.peer.snr(entry, options)
        except Exception as error:  # whatever it raises
            self.tally.skip(f"peer, {options}", f"{type(error).__name__}: {error}")
            return
        self.tally.check(f"peer, {options}", peer_problems(mine, theirs))

    def leave_compressed(self) -> None:
        """Weights that are compressed already stay as they are."""
        self.tally.begin("palettize compressed models")

        def attempt(entry: Entry) -> Iterator[list[str]]:
            out, report = self.tool.palettize(entry.path, "again", FOUR)
            yield judge(entry, out, report, FOUR).failures

        for entry in self.compressed:
            self.guarded(entry.name, attempt(entry))
        self.tally.end()

    def decompress(self) -> None:
        self.tally.begin("decompress what coremltools compressed")
        for entry in self.compressed:
            self.guarded(entry.name, self.decompressed(entry.path))
        self.tally.end()
        self.tally.begin("decompress what cmlc palettized")
        for entry in self.plain:
            grid = self.grid if self.args.full else [FOUR, Options("kmeans", 3, 4)]
            for options in grid:
                self.guarded(f"{entry.name}, {options}", self.there_and_back(entry, options))
        self.tally.end()

    def there_and_back(self, entry: Entry, options: Options) -> Iterator[list[str]]:
        more = target_for(entry.path, options)
        out, _ = self.tool.palettize(entry.path, "palettized", options, *more)
        yield from self.decompressed(out)

    def decompressed(self, source: Path) -> Iterator[list[str]]:
        """Decompresses a package and compares with coremltools' decoding of it."""
        original = Package(source)
        expected = coremltools_constants(original)
        plain = Package(self.tool.decompress(source, "decompressed"))
        uses = {use.key: use for use in plain.uses()}
        for key in [use.key for use in original.uses() if use.key in expected]:
            use, value = uses.get(key), expected[key]
            if use is None:
                yield [f"{key}: is gone"]
            elif use.form != "const":
                yield [f"{key}: still a {use.form}"]
            elif isinstance(value, np.ndarray) and not same_bits(use.decode(), value):
                yield [f"{key}: not the value that coremltools decodes"]
        yield graph_changes(original, plain, compare(original, plain))
        load_programs(plain)

    def same(self) -> None:
        self.tally.begin("same bytes")
        for entry in self.plain if self.args.full else self.plain[::3]:
            for options in (FOUR, Options("kmeans", 3, 4), Options("uniform", 6)):
                self.guarded(f"{entry.name}, {options}", self.repeated(entry, options))
        self.tally.end()

    def repeated(self, entry: Entry, options: Options) -> Iterator[list[str]]:
        """Runs with one and two threads, again, and on its own output."""
        raised = target_for(entry.path, options)
        outputs = {}
        for name, threads in (("first", "1"), ("again", "1"), ("with 2 threads", "2")):
            more = [*raised, "--threads", threads]
            out, _ = self.tool.palettize(entry.path, name.replace(" ", "-"), options, *more)
            outputs[name] = fingerprint(out)
        first = self.tool.folder / "first.mlpackage"
        out, _ = self.tool.palettize(first, "twice", options)
        outputs["compressed twice"] = fingerprint(out)
        for name, found in outputs.items():
            differ = [f for f in found.keys() | outputs["first"].keys()
                      if found.get(f) != outputs["first"].get(f)]  # fmt: skip
            yield [f"{name}: {', '.join(sorted(differ))} differ"] if differ else []


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cmlc", required=True, help="the program to check")
    parser.add_argument("--models", type=Path, help="a folder of folders with packages")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few ways to compress (default)")
    size.add_argument("--full", action="store_true", help="all of them")
    parser.add_argument("--only", default="", help="groups to run, a,b")
    args = parser.parse_args()
    program = shutil.which(args.cmlc)
    if program is None:
        parser.error(f"{args.cmlc}: not a program")
    args.cmlc = Path(program).resolve()
    with tempfile.TemporaryDirectory(prefix="cmlc-checks-") as name:
        suite = Suite(args, Path(name))
        suite.collect(Path(name))
        suite.run()
    tally = suite.tally
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
