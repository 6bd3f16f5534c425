#!/usr/bin/env python3
"""Checks what cmlc makes of NeuralNetwork models: of network_zoo.py's, and of those in a folder.

    network_checks.py --cmlc build/release/cmlc [--judge FILE] [--models DIR] [--full]
    network_checks.py --coremltools        the same checks of what coremltools makes of the models
    network_checks.py --write-zoo DIR      only writes the zoo

Every model is compressed in many ways: tables, codes with scales, fp16; of all weights and of those
above the usual threshold. Of each result must hold:
  - coremltools loads it, and all but weights and versions is as it was;
  - what the way asks for was taken, in the form asked for, and nothing else; what custom and
    updatable layers hold, and what is compressed already, is never touched;
  - it breaks no rule of Core ML's validator that its input keeps (network_decode.py);
  - no weight has a greater squared error than coremltools' functions give it in the same form,
    tables of k-means none greater than exact one-dimensional k-means;
  - fp16 is what rounding gives, and nothing that was finite overflows;
  - `cmlc decompress` gives just the values that network_decode.py reads, without codes;
  - what cmlc reports agrees with the file.
A judge is a Python file with a main() that takes two models and returns 1 if they do not fit.

Without --full each model sees a part of the grid, another part for each model. Prints a line for
each failure, CPU times beside those of coremltools if there is a folder of models, and at the end
"N passed, M failed". Exits with 1 if anything failed, 77 (skipped) without coremltools.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

if importlib.util.find_spec("coremltools") is None:
    print("skipped: coremltools is not installed for this Python")
    sys.exit(77)

import numpy as np
import quiet  # noqa: F401  (before coremltools)

# isort: split
import coremltools as ct
import network_zoo
from check import compare
from coremltools._deps import _kmeans1d
from coremltools.models.neural_network import quantization_utils as peer
from decode import Package
from network_decode import (
    Decoded,
    Model,
    Slot,
    Undecodable,
    broken_rules,
    decode,
    kinds,
    models,
    network,
    read,
    skeleton,
    slots,
    walk,
)
from outside_judge import load_judge

Array = np.ndarray
THRESHOLD = 2048
FP16_MAX = 65504
HUGE = 1e38
TOLERANCE = 1e-6
# Models that protobuf can read and no writer makes: messages in pieces that a reader has to join.
REFUSED = {"wire_pieces"}
EXACT_KMEANS = 1 << 23  # distinct values times entries, above which k-means takes too long


# Ways to compress -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A command of cmlc, and what it is to give."""

    command: tuple[str, ...]
    form: str  # table, linear, fp16; empty for nothing
    bits: int = 0
    mode: str = ""  # that coremltools has for it
    threshold: int = THRESHOLD

    def __str__(self) -> str:
        return " ".join(self.command)

    def searches(self) -> bool:
        """Whether scales may be better ones than those of the least and greatest value."""
        return self.form == "linear" and "minmax" not in self.command

    def networks_only(self) -> bool:
        """Whether ML Programs have no such form, so that a pipeline with one may be refused."""
        known = {"table": (1, 2, 3, 4, 6, 8), "linear": (4, 8)}
        return bool(self.form) and self.bits not in known.get(self.form, ())

    def of_coremltools(self) -> bool:
        """Whether coremltools' own function can be asked for just this."""
        symmetric = self.mode == "linear_symmetric"
        return bool(self.mode) and not self.threshold and not (symmetric and self.bits != 8)


def ways(full: bool) -> list[Way]:
    found = [Way(("null",), "")]
    bit_counts = range(1, 9) if full else (1, 2, 4, 5, 8)
    thresholds: list[tuple[tuple[str, ...], int]] = [
        ((), THRESHOLD), (("--weight-threshold", "0"), 0)]  # fmt: skip
    for bits, (extra, threshold) in itertools.product(bit_counts, thresholds):
        nbits = ("--nbits", str(bits))
        for mode, name in (("kmeans", "kmeans_lut"), ("uniform", "linear_lut")):
            command = ("palettize", *nbits, "--mode", mode, *extra)
            found.append(Way(command, "table", bits, name, threshold))
        for mode, scales in itertools.product(("linear", "linear_symmetric"), ("", "minmax")):
            command = ("quantize", *nbits, "--mode", mode)
            command += (("--scales", scales) if scales else ()) + extra
            found.append(Way(command, "linear", bits, mode, threshold))
    return [*found, *half_ways()]


def half_ways() -> list[Way]:
    """fp16, of all weights and of large ones only, which must not leave small ones beside them."""
    half = ("quantize", "--dtype", "fp16")
    return [Way(half, "fp16", 16, "fp16", 0),
            Way((*half, "--weight-threshold", "0"), "fp16", 16, "fp16", 0),
            Way((*half, "--weight-threshold", "2048"), "fp16", 16, "fp16")]  # fmt: skip


def share(every: list[Way], number: int, count: int) -> list[Way]:
    """The part of a grid that a model sees: other ways for the next one, fp16 and null for all."""
    half = half_ways()
    chosen = [every[0], half[0], half[1 + number % 2]]
    rest = [way for way in every[1:] if way not in half]
    # The stride has no divisor in common with the length, so that all get their turn.
    stride = next(s for s in range(7, 99) if np.gcd(s, len(rest)) == 1)
    return chosen + [rest[(number * count + i) * stride % len(rest)] for i in range(count)]


# What coremltools' arithmetic gives -------------------------------------------------------------


def peer_linear(values: Array, shape: tuple[int, ...], axis: int, way: Way) -> Array:
    """Values after coremltools has made codes with scales of them."""
    symmetric = way.mode == "linear_symmetric"
    codes, scale, bias = peer._quantize_channelwise_linear(
        values.reshape(shape), way.bits, axis, symmetric
    )
    along = [-1 if i == axis else 1 for i in range(len(shape))]
    if len(shape) == 1:
        along = [1]
    scale, bias = (x.astype(np.float32).astype(np.float64).reshape(along) for x in (scale, bias))
    return np.asarray(codes.reshape(shape).astype(np.uint8) * scale + bias, np.float32).reshape(-1)


def peer_uniform(values: Array, bits: int) -> Array:
    """Values after coremltools has looked them up in an evenly spaced table."""
    table, codes = peer._get_linear_lookup_table_and_weight(bits, values)
    found = np.asarray(table, np.float32)[codes.astype(np.uint8).reshape(-1)]
    return np.asarray(found, np.float32)


def exact_kmeans(values: Array, bits: int) -> Array | None:
    """Values after looking them up in the best of all tables; None if that takes too long."""
    distinct, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    entries = min(1 << bits, len(distinct))
    if len(distinct) * entries > EXACT_KMEANS:
        return None
    if entries == len(distinct):
        return values.astype(np.float32)
    found = _kmeans1d.cluster(distinct, entries, weights=counts)
    table = np.asarray(found.centroids, np.float32)
    return np.asarray(table[np.asarray(found.clusters)[where.reshape(-1)]], np.float32)


def mean_square(a: Array, b: Array) -> float:
    with np.errstate(all="ignore"):
        error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return np.inf if np.isnan(error) else error


def peer_error(slot: Slot, before: Array, way: Way) -> float | None:
    """The squared error that coremltools gives this weight with as many scales; None if none."""
    if way.mode == "kmeans_lut":
        best = exact_kmeans(before.astype(np.float64), way.bits)
        return None if best is None else mean_square(before, best)
    if way.mode == "linear_symmetric" and way.bits == 1:  # it divides by zero
        return None
    scales = len(slot.weights.quantization.linearQuantization.scale)
    shape = (len(before),) if scales == 1 or slot.shape is None else slot.shape
    axis = 0 if scales == 1 else slot.axis
    errors = []
    # It computes in fp32 or in double, depending on the version of protobuf.
    for dtype in (np.float32, np.float64):
        values = before.astype(dtype)
        with np.errstate(all="ignore"):
            made = (peer_uniform(values, way.bits) if way.mode == "linear_lut"
                    else peer_linear(values, shape, axis, way))  # fmt: skip
        errors.append(mean_square(before, made))
    # Which of the two is less is a matter of rounding. Where one fails, it is no measure.
    return min(max(errors), min(errors) * 1.001) if way.searches() else max(errors)


# Models -----------------------------------------------------------------------------------------


@dataclass
class Original:
    """A model to compress."""

    name: str
    path: Path
    model: Model = field(repr=False)
    weights: list[Slot] = field(repr=False)
    values: list[Decoded] = field(repr=False)
    broken: dict[tuple[str, str], str]
    skeleton: bytes = field(repr=False)

    @staticmethod
    def load(name: str, path: Path) -> Original:
        model = read(path)
        found = slots(model)
        values = [decode(slot) for slot in found]
        return Original(name, path, model, found, values, broken_rules(model), skeleton(model))

    def has_network(self) -> bool:
        return any(network(one) is not None for _, one in models(self.model))

    def has_program(self) -> bool:
        return "mlProgram" in kinds(self.model)


def collect(zoo: Path, folder: Path | None) -> list[tuple[str, Path]]:
    """The zoo, and what there is in a folder."""
    entries, missing = network_zoo.build(zoo)
    for line in missing:
        print(f"not made: {line}")
    found = [(entry.name, entry.path) for entry in entries]
    if folder is None:
        return found
    for path in sorted([*folder.rglob("*.mlmodel"), *folder.rglob("*.mlpackage")]):
        inside = any(parent.suffix == ".mlpackage" for parent in path.parents)
        if inside or (path.is_dir() and not package_with_network(path)):
            continue
        found.append((path.parent.name, path))
    return found


def package_with_network(path: Path) -> bool:
    try:
        return any(network(one) is not None for _, one in models(read(path)))
    except Exception:  # packages without weights cannot all be read
        return False


# Who compresses ---------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of a command: an error, or nothing and perhaps a report."""

    error: str = ""
    report: dict[str, Any] | None = None


Compressor = Callable[[Way, Path, Path], Outcome]


def failure(error: Exception) -> str:
    """An exception in one line that is not too long."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


class Cmlc:
    """Runs cmlc."""

    def __init__(self, tool: Path) -> None:
        self.tool = tool

    def __call__(self, way: Way, source: Path, target: Path) -> Outcome:
        return self.run(way.command, source, target)

    def run(self, command: tuple[str, ...], source: Path, target: Path) -> Outcome:
        line = [str(self.tool), *command, "-q", "--json", str(source), "-o", str(target)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            words = done.stderr.strip() or "no message"
            return Outcome(f"exit code {done.returncode}: {words}")
        try:
            report = json.loads(done.stdout)
        except ValueError:
            report = None
        return Outcome(report=report)


def by_coremltools(way: Way, source: Path, target: Path) -> Outcome:
    """Has coremltools compress, as far as it has something for a way."""
    try:
        model = ct.models.MLModel(str(source), skip_model_load=True)
        with contextlib.redirect_stdout(io.StringIO()):
            result = peer_model(model, way)
        spec = result if isinstance(result, Model) else result.get_spec()
        ct.utils.save_spec(spec, str(target), weights_dir=model.weights_dir)
    except Exception as error:  # whatever coremltools raises
        return Outcome(failure(error))
    return Outcome()


def peer_model(model: Any, way: Way) -> Any:
    """coremltools' result for a way."""
    if way.mode == "fp16":
        return peer.quantize_weights(model, 16)
    return peer.quantize_weights(model, way.bits, way.mode)


def flat_kmeans(bits: int, weights: Array) -> tuple[Array, Array]:
    """What kmeans_lut would do if it did not make a table of two dimensions."""
    table, codes = peer._get_kmeans_lookup_table_and_weight(bits, weights)
    return table.reshape(-1), codes


# Checks -----------------------------------------------------------------------------------------


def wanted(slot: Slot, before: Decoded, way: Way, group: list[Decoded]) -> bool:
    """Whether a way must take a weight. `group` are those that can only be fp16 together."""
    if slot.kind in ("custom", "activation") or slot.layer.isUpdatable or slot.weights.isUpdatable:
        return False
    count = len(before.values)
    if not slot.values_are_float() or count <= way.threshold:
        return False
    if way.threshold and len(slot.shape or ()) < 2:
        return False
    if way.form == "fp16":
        # Above a threshold either all of a layer's weights are taken or none, as cmlc likes.
        if way.threshold or slot.model.isUpdatable or not slot.half or before.form != "fp32":
            return False
        return all(np.all(np.abs(one.values) <= FP16_MAX) for one in group)
    if not slot.codes or not np.all(np.isfinite(before.values)):
        return False
    size = -(-way.bits * count // 8)
    size += 4 << way.bits if way.form == "table" else 8 * slot.channels
    return size + 16 < before.stored_bits // 8


def tail_is_zero(slot: Slot, count: int, bits: int) -> bool:
    """Whether codes take as many bytes as they need, and the last bits are zero."""
    raw = slot.weights.rawValue
    return len(raw) == -(-bits * count // 8) and not (
        bits * count % 8 and raw[-1] & ((1 << (8 - bits * count % 8)) - 1)
    )


def check_taken(slot: Slot, new: Slot, before: Decoded, way: Way,
                group: list[Decoded]) -> Iterator[str]:  # fmt: skip
    """What is wrong with a weight that was changed. `group` is as for wanted()."""
    if slot.kind == "custom":
        yield "weights of a custom layer were changed"
    if slot.layer.isUpdatable or slot.weights.isUpdatable:
        yield "weights of an updatable layer were changed"
    if not slot.values_are_float():
        yield f"was {slot.storage()} already, yet changed"
    count = len(before.values)
    together = group if way.form == "fp16" else [before]
    if max(len(one.values) for one in together) <= way.threshold:
        yield f"was changed, though it has only {count} elements"
    try:
        after = decode(new, count)
    except Undecodable as error:
        yield f"cannot be decoded: {error}"
        return
    if (after.form, after.bits) != (way.form, way.bits):
        yield f"is {after.form} of {after.bits} bits"
        return
    if len(after.values) != count:
        yield f"{count} elements became {len(after.values)}"
        return
    if after.stored_bits >= before.stored_bits:
        yield f"takes {after.stored_bits} bits, took {before.stored_bits}"
    finite = np.isfinite(before.values)
    if not np.array_equal(np.where(finite, 0, before.values),
                          np.where(np.isfinite(after.values), 0, after.values),
                          equal_nan=True):  # fmt: skip
        odd = int(np.sum(np.isfinite(after.values) != finite))
        yield f"{odd} values are finite that were not, or the other way round"
        return
    if way.form == "fp16":
        with np.errstate(over="ignore"):
            rounded = before.values.astype(np.float16).astype(np.float32)
        if not np.array_equal(after.values, rounded, equal_nan=True):
            yield f"{int(np.sum(after.values != rounded))} values are not the nearest fp16"
        return
    if not tail_is_zero(new, count, way.bits):
        yield "codes are followed by something"
    scales = len(new.weights.quantization.linearQuantization.scale)
    if way.form == "linear" and scales == 1 < slot.channels and slot.groups == 1:
        if -(-way.bits * count // 8) + 8 * slot.channels + 16 < before.stored_bits // 8:
            yield f"has one scale for {slot.channels} channels"
    # cmlc's codes times their scale are finite in fp32, which coremltools' are not for huge values.
    if not finite.all() or np.max(np.abs(before.values), initial=0) > HUGE:
        return
    reference = peer_error(new, before.values, way)
    if reference is None:
        return
    error = mean_square(before.values, after.values)
    rounding = (float(np.max(np.abs(before.values), initial=0)) * 2**-23) ** 2
    if error > reference * (1 + TOLERANCE) + rounding:
        yield f"squared error {error:.6g}, coremltools {reference:.6g}"


def untouched(slot: Slot, count: int) -> bytes:
    """A weight's message, less bytes behind its codes that belong to none of them."""
    weights = type(slot.weights)()
    weights.CopyFrom(slot.weights)
    weights.rawValue = weights.rawValue[: -(-weights.quantization.numberOfBits * count // 8)]
    return weights.SerializeToString(deterministic=True)


def check_weights(original: Original, found: list[Slot], way: Way, totals: Counter[str],
                  reasons: dict[int, set[str]]) -> Iterator[str]:  # fmt: skip
    """What is wrong with the weights of a result."""
    if [s.path for s in found] != [s.path for s in original.weights]:
        yield "weights have come, gone or been moved"
        return
    groups: dict[int, list[Decoded]] = {}
    for slot, before in zip(original.weights, original.values, strict=True):
        if before.form == "fp32":
            groups.setdefault(id(slot.holder), []).append(before)
    for slot, new, before in zip(original.weights, found, original.values, strict=True):
        group = groups.get(id(slot.holder), [before])
        if untouched(slot, len(before.values)) == untouched(new, len(before.values)):
            totals["left"] += 1
            if way.form and wanted(slot, before, way, group):
                said = "; ".join(sorted(reasons.get(len(before.values), ())))
                yield f"{slot.path}: was left as it is" + (f" ({said})" if said else "")
            continue
        totals["taken"] += 1
        for problem in check_taken(slot, new, before, way, group):
            yield f"{slot.path}: {problem}"


def check_version(original: Original, model: Model) -> Iterator[str]:
    for (path, old), (_, new) in zip(models(original.model), models(model), strict=True):
        if new.specificationVersion < old.specificationVersion:
            yield f"{path}version {old.specificationVersion} became {new.specificationVersion}"


def check_frame(original: Original, path: Path, model: Model,
                decompressed: bool = False) -> Iterator[str]:  # fmt: skip
    """What is wrong with a result, weights aside."""
    ct.models.MLModel(str(path), skip_model_load=True)
    ct.utils.load_spec(str(path))
    a, b = original.model, model
    same = skeleton(b) == original.skeleton
    if decompressed and not same:
        same = skeleton(without_dynamic(a)) == skeleton(without_dynamic(b))
    if not same:
        yield "something other than weights changed"
    else:
        yield from check_version(original, model)
    for (rule, where), what in broken_rules(model).items():
        if (rule, where) not in original.broken:
            yield f"{where}: rule {rule}: {what}"
    if original.has_program():
        yield from compare(Package(original.path), Package(path)).failures


def without_dynamic(model: Model) -> Model:
    """A model whose layers do not quantize their inputs."""
    copy = Model()
    copy.CopyFrom(model)
    for slot in slots(copy):
        if slot.name == "weights" and slot.kind in ("innerProduct", "batchedMatmul"):
            getattr(slot.layer, slot.kind).int8DynamicQuantize = False
    return copy


def check_report(
    report: dict[str, Any] | None, totals: Counter[str], model: Model
) -> Iterator[str]:
    """Whether cmlc says what it did."""
    if report is None:
        yield "no JSON report"
        return
    summary = report["summary"]
    if summary["weights_done"] != totals["taken"]:
        yield f"{totals['taken']} weights changed, {summary['weights_done']} are reported"
    reported = summary["specification_version"]
    if reported != model.specificationVersion:
        yield f"version {model.specificationVersion} is reported as {reported}"
    for weight in report["weights"]:
        if weight["status"] == "left" and not weight.get("reason"):
            yield f"{weight['name']}: left alone without a reason"


def reasons_in(report: dict[str, Any] | None) -> dict[int, set[str]]:
    """Why weights were left alone, by their number of elements."""
    found: dict[int, set[str]] = {}
    for weight in (report or {}).get("weights", []):
        if weight.get("reason"):
            found.setdefault(weight["elements"], set()).add(weight["reason"])
    return found


def check_plain(compressed: list[Slot], plain: Model) -> Iterator[str]:
    """What is wrong with what decompress made of weights."""
    found = slots(plain)
    if [s.path for s in found] != [s.path for s in compressed]:
        yield "decompress: weights have come, gone or been moved"
        return
    for old, new in zip(compressed, found, strict=True):
        # A layer that quantizes its input may stay as it is, or become an ordinary one.
        if old.kind == "custom" or old.storage() == new.storage() == "int8":
            if old.weights.SerializeToString() != new.weights.SerializeToString():
                yield f"{old.path}: decompress: was changed"
            continue
        if not new.values_are_float():
            yield f"{old.path}: decompress: is still {new.storage()}"
            continue
        before, after = decode(old).values, decode(new).values
        if before.shape != after.shape:
            yield f"{old.path}: decompress: {len(before)} elements became {len(after)}"
        elif not np.array_equal(before, after, equal_nan=True):
            odd = before != after
            yield (f"{old.path}: decompress: {int(np.sum(odd))} of {len(odd)} values differ, "
                   f"{before[odd][0]!r} became {after[odd][0]!r}")  # fmt: skip


# The run ----------------------------------------------------------------------------------------


class Suite:
    def __init__(self, args: argparse.Namespace, folder: Path, judge: ModuleType | None) -> None:
        self.args, self.folder, self.judge = args, folder, judge
        self.passed = self.failed = 0
        self.totals: Counter[str] = Counter()
        self.tool = Cmlc(args.cmlc) if args.cmlc else None
        self.compress: Compressor = self.tool or by_coremltools

    def count(self, name: str, what: object, problems: list[str]) -> None:
        """Counts a check and prints what is wrong, not too much of it."""
        if not problems:
            self.passed += 1
            return
        self.failed += 1
        for problem in problems[: self.args.lines]:
            print(f"FAIL {name}: {what}: {problem}")
        if len(problems) > self.args.lines:
            print(f"FAIL {name}: {what}: {len(problems) - self.args.lines} more")
        sys.stdout.flush()

    def guarded(self, name: str, what: object, problems: Iterator[str]) -> None:
        """Counts a check, whose exceptions are failures too."""
        found: list[str] = []
        try:
            found.extend(problems)
        except Exception as error:  # whatever coremltools raises
            found.append(failure(error))
        self.count(name, what, found)

    def target(self, original: Original, name: str) -> Path:
        path = self.folder / f"{name}{original.path.suffix}"
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        return path

    def refused(self, name: str, path: Path) -> None:
        """Checks that cmlc says no, in one line, and leaves nothing behind."""
        if self.tool is None:
            return
        out = self.folder / f"refused{path.suffix}"
        error = self.tool.run(("null",), path, out).error
        problems = [] if "exit code 3" in error and "in pieces" in error else [f"says '{error}'"]
        if out.exists():
            problems.append("an error, and yet there is a result")
        self.count(name, "is refused", problems)

    def way(self, original: Original, way: Way, decompress: bool) -> Iterator[str]:
        """Compresses in one way, and yields what is wrong."""
        out = self.target(original, "small")
        outcome = self.compress(way, original.path, out)
        if outcome.error:
            if original.has_network() and not (original.has_program() and way.networks_only()):
                yield outcome.error
            if out.exists():
                yield "an error, and yet there is a result"
            return
        model = read(out)
        found, totals = slots(model), Counter[str]()
        yield from check_frame(original, out, model)
        yield from check_weights(original, found, way, totals, reasons_in(outcome.report))
        self.totals += totals
        if way.form and self.tool and not original.has_program():
            yield from check_report(outcome.report, totals, model)
        if self.judge is not None and not original.has_program():
            yield from self.judged(original.path, out)
        if decompress and self.tool:
            yield from self.decompressed(original, out, found)

    def decompressed(self, original: Original, small: Path, found: list[Slot]) -> Iterator[str]:
        """Decompresses a result, and yields what is wrong."""
        assert self.tool is not None
        plain = self.target(original, "plain")
        outcome = self.tool.run(("decompress",), small, plain)
        if outcome.error:
            yield f"decompress: {outcome.error}"
            return
        model = read(plain)
        if not original.has_program():
            yield from (f"decompress: {p}" for p in check_frame(original, plain, model, True))
        yield from check_plain(found, model)

    def judged(self, original: Path, result: Path) -> Iterator[str]:
        """What the judge from outside finds."""
        assert self.judge is not None
        said, before = io.StringIO(), sys.argv
        sys.argv = ["judge", str(original), str(result)]
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                status = self.judge.main()
        finally:
            sys.argv = before
        if status:
            lines = [s for s in said.getvalue().splitlines() if s.startswith("FAIL")]
            yield f"the judge says: {'; '.join(lines[:3]) or said.getvalue().strip()}"

    def threads(self, original: Original) -> Iterator[str]:
        """Whether one thread and three give the same bytes."""
        assert self.tool is not None
        results = []
        for threads in ("1", "3"):
            out = self.target(original, f"threads{threads}")
            command = ("palettize", "--nbits", "4", "--weight-threshold", "0", "--threads", threads)
            outcome = self.tool.run(command, original.path, out)
            if outcome.error:
                yield from [outcome.error] if original.has_network() else []
                return
            results.append([p.read_bytes() for p in sorted([out, *out.rglob("*")])
                            if p.is_file() and p.name != "Manifest.json"])  # fmt: skip
        if results[0] != results[1]:
            yield "the number of threads makes a difference"

    def model(self, number: int, name: str, path: Path) -> None:
        original = Original.load(name, path)
        every = ways(self.args.full)
        if self.tool is None:
            # It has one way to find scales, the one that cmlc has another name for.
            chosen = [w for w in every if w.of_coremltools() and not w.searches()]
        else:
            chosen = every if self.args.full else share(every, number, self.args.share)
        before = path.read_bytes() if path.is_file() else b""
        for i, way in enumerate(chosen):
            if self.args.ways and not any(part in str(way) for part in self.args.ways.split(",")):
                continue
            check = self.way(original, way, decompress=self.args.full or (i + number) % 2 == 0)
            self.guarded(name, way, check)
        if self.tool is None:
            return
        if original.has_network():
            self.guarded(name, "decompress", self.decompressed(original, path, original.weights))
        if number % 4 == 0 or self.args.full:
            self.guarded(name, "threads", self.threads(original))
        if path.is_file() and path.read_bytes() != before:
            self.count(name, "all", ["the input was written to"])


def check_pair(suite: Suite, folder: Path) -> None:
    """A model that coremltools made fp16, weight by weight."""
    pair = [next(iter(sorted(folder.glob(f"es2en-char-decoder-{kind}/*.mlmodel"))), None)
            for kind in ("fp32", "fp16")]  # fmt: skip
    if pair[0] is None or pair[1] is None or suite.tool is None:
        return
    source, reference = pair

    def problems() -> Iterator[str]:
        out = suite.folder / "pair.mlmodel"
        outcome = suite.compress(half_ways()[0], source, out)
        if outcome.error:
            yield outcome.error
            return
        ours, theirs = read(out), read(reference)
        if ours.specificationVersion != theirs.specificationVersion:
            yield f"version {ours.specificationVersion}, not {theirs.specificationVersion}"
        for a, b in zip(slots(ours), slots(theirs), strict=True):
            if a.weights.SerializeToString() != b.weights.SerializeToString():
                yield f"{a.path}: differs from what coremltools made"

    suite.guarded("es2en-char-decoder", "fp16 by coremltools", problems())


# CPU time ---------------------------------------------------------------------------------------


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def time_both(suite: Suite, paths: list[tuple[str, Path]], rounds: int) -> None:
    """Prints CPU seconds of cmlc and of coremltools for the largest model that it can do."""
    moves = (("quantize --nbits 4 --mode linear", "linear"),
             ("palettize --nbits 4 --mode uniform", "linear_lut"),
             ("palettize --nbits 4 --mode kmeans", "kmeans_lut"))  # fmt: skip
    sized = sorted(((path.stat().st_size, name, path) for name, path in paths if path.is_file()),
                   reverse=True)  # fmt: skip
    for _, name, path in sized:
        model = ct.models.MLModel(str(path), skip_model_load=True)
        if not any(True for _ in walk(model.get_spec())):
            continue
        theirs = [peer_seconds(model, mode, rounds) for _, mode in moves]
        if isinstance(theirs[0], str):
            print(f"CPU time: {name}: coremltools fails: {theirs[0]}")
            continue
        for (command, _), peer_time in zip(moves, theirs, strict=True):
            line = f"CPU time: {name}: {command}: "
            if suite.tool is not None:
                ours = []
                for _ in range(rounds + 2):
                    start = children_seconds()
                    outcome = suite.tool.run(tuple(command.split()), path,
                                             suite.folder / "timed.mlmodel")  # fmt: skip
                    ours.append(children_seconds() - start)
                line += f"{outcome.error or f'cmlc {min(ours):.3f} s'}, "
            shown = peer_time if isinstance(peer_time, str) else f"{peer_time:.2f} s"
            line += f"coremltools {shown}"
            if suite.tool is not None and not isinstance(peer_time, str) and not outcome.error:
                line += f", {peer_time / max(min(ours), 1e-9):.0f} times as much"
            print(line)
        return


def peer_seconds(model: Any, mode: str, rounds: int) -> float | str:
    """CPU seconds that coremltools takes for 4 bits, or why it cannot."""
    best = np.inf
    for _ in range(rounds):
        start = time.process_time()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                if mode == "kmeans_lut":  # broken, so with its own function made to fit
                    peer.quantize_weights(model, 4, "custom_lut", lut_function=flat_kmeans)
                else:
                    peer.quantize_weights(model, 4, mode)
        except Exception as error:  # whatever it raises
            return failure(error)
        best = min(best, time.process_time() - start)
    return float(best)


def use_judge(path: Path) -> ModuleType:
    """Loads a judge. With a protobuf that has no labels any more, weights are found for it."""
    judge = load_judge(path)
    if not hasattr(Model.DESCRIPTOR.fields[0], "label"):
        judge.weights = paths_for_judge  # type: ignore[attr-defined]
    return judge


def paths_for_judge(message: Any) -> Iterator[tuple[str, Any, Any]]:
    for slot in slots(message):
        yield slot.path, slot.holder, slot.weights


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cmlc", type=Path)
    parser.add_argument("--coremltools", action="store_true", help="check what coremltools does")
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--models", type=Path, help="a folder with more models")
    parser.add_argument("--full", action="store_true", help="the whole grid")
    parser.add_argument("--share", type=int, default=4, metavar="N",
                        help="without --full: so many ways for a model, besides fp16")  # fmt: skip
    parser.add_argument("--only", default="", help="models with one of these in their names, a,b")
    parser.add_argument("--ways", default="", help="ways with one of these in them, a,b")
    parser.add_argument("--lines", type=int, default=10, help="for one model and way at most")
    parser.add_argument("--no-times", action="store_true", help="do not compare CPU times")
    parser.add_argument("--write-zoo", type=Path, metavar="DIR", help="write the zoo, do no more")
    args = parser.parse_args()
    if args.write_zoo:
        entries, missing = network_zoo.build(args.write_zoo)
        print("\n".join([f"{len(entries)} models", *(f"not made: {line}" for line in missing)]))
        return 0
    if (args.cmlc is None) != args.coremltools:
        parser.error("one of --cmlc and --coremltools is needed")
    folder = args.models if args.models and args.models.is_dir() else None
    judge = use_judge(args.judge) if args.judge and args.judge.is_file() else None

    with tempfile.TemporaryDirectory() as scratch:
        suite = Suite(args, Path(scratch), judge)
        found = collect(Path(scratch) / "zoo", folder)
        for number, (name, path) in enumerate(found):
            if name in REFUSED:
                suite.refused(name, path)
            elif any(part in name for part in args.only.split(",")):
                suite.model(number, name, path)
        if folder is not None:
            check_pair(suite, folder)
        if folder is not None and not args.no_times:
            own = [(name, path) for name, path in found if folder in path.parents]
            time_both(suite, own, 3 if args.full else 1)
    print(f"{suite.totals['taken']} weights taken, {suite.totals['left']} left")
    print(f"{suite.passed} passed, {suite.failed} failed")
    return 1 if suite.failed or not suite.passed else 0


if __name__ == "__main__":
    sys.exit(main())
