#!/usr/bin/env python3
"""Holds every weight that cmlc compresses against what coremltools makes of it.

    weight_checks.py --cmlc build/release/cmlc [--models DIR] [--full] [--only GROUP] [--strict]

Both compress the same packages with the same options: the ML Programs in DIR, as they are and
raised to iOS 18, and transformer blocks with heavy-tailed random weights from the benchmark. The
results are decoded by decode.py, and no weight of cmlc's may have a lower SNR, or take more bytes.
Every result must also load in coremltools, and `cmlc decompress` must give what decode.py decodes.

Groups of checks:
  vectors    codes and scales of known rows, with --scales minmax
  quantize   dtypes, modes and granularities; fp32 with --scales minmax is bit-equal
  prune      by share, in blocks of channels, n:m
  palettize  vectors, scales for channels, LUTs of integers in one step
  joint      one compression on top of another
  totals     figures over many weights: int4 in blocks, LUTs of integers

Without --full each model sees a part of the grid, another part for each model, and the heavy-tailed
weights are smaller. What is known to be worse (KNOWN below) is told and counted as skipped as long
as it gets no worse; with --strict it fails. Prints a line for each model, each failure, and at the
end a line that says only "N passed, M failed, K skipped". Exits with 1 if anything failed, 77
without coremltools.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if importlib.util.find_spec("coremltools") is None:
    print("skipped: coremltools is not installed for this Python")
    sys.exit(77)

import numpy as np
import quiet  # noqa: F401  (before coremltools)

# isort: split
import coremltools as ct
import coremltools.optimize.coreml as cto
import zoo
from check import Comparison, compare, graph_changes, load_programs, same_bits
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813  (its usual name)
from decode import Package, Use
from run_checks import ALLOWANCE, ROOT, Suite
from zoo import Entry

sys.path.insert(0, str(ROOT / "tests" / "bench"))
import bench  # noqa: E402

Array = np.ndarray
IOS16, IOS18 = 7, 9


# Ways to compress -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Move:
    """One command of cmlc, and the call of coremltools that asks for the same."""

    command: tuple[str, ...]
    function: str
    config: str
    settings: tuple[tuple[str, Any], ...]
    joint: bool = False

    def joined(self) -> Move:
        """The same on top of another compression."""
        command = (*self.command, "--joint")
        return Move(command, self.function, self.config, self.settings, joint=True)

    def call(self, model: Any) -> Any:
        """Has coremltools do it."""
        settings = getattr(cto, self.config)(**dict(self.settings))
        config = cto.OptimizationConfig(global_config=settings)
        return getattr(cto, self.function)(model, config, joint_compression=self.joint)


def quantize(mode: str, dtype: str, granularity: str, block: int = 0) -> Move:
    settings: dict[str, Any] = {"mode": mode, "dtype": dtype, "granularity": granularity}
    command = ["quantize", "--mode", mode, "--dtype", dtype, "--granularity", granularity]
    if block:
        settings["block_size"] = block
        command += ["--block-size", str(block)]
    called = tuple(settings.items())
    return Move(tuple(command), "linear_quantize_weights", "OpLinearQuantizerConfig", called)


def prune(command: str, **settings: Any) -> Move:
    words = ("prune", *command.split())
    return Move(words, "prune_weights", "OpMagnitudePrunerConfig", tuple(settings.items()))


def palettize(bits: int, command: str = "", **settings: Any) -> Move:
    words = ("palettize", "--nbits", str(bits), *command.split())
    called = (("mode", "kmeans"), ("nbits", bits), *settings.items())
    return Move(words, "palettize_weights", "OpPalettizerConfig", called)


@dataclass(frozen=True)
class Way:
    """A way to compress a package: coremltools makes all moves. cmlc does too, or needs one
    command for all of them."""

    group: str
    name: str
    moves: tuple[Move, ...]
    version: int = IOS18  # of the specification that coremltools wants
    commands: tuple[tuple[str, ...], ...] = ()  # for cmlc, if not those of the moves
    # coremltools takes over cmlc's result after so many moves, and only the rest is compared. It
    # prunes ties, and with some versions of numpy nothing at all; and which of two different LUTs
    # suffers less from rounding is a matter of luck, as long as indices stay what they are.
    follow: int = 0

    def steps(self) -> tuple[tuple[str, ...], ...]:
        return self.commands or tuple(m.command for m in self.moves)


MODES = ("linear_symmetric", "linear")
DTYPES = ("int8", "uint8", "int4", "uint4")
SHARES = ("per_tensor", "per_channel", "per_block")
INT4_BLOCKS = "linear_symmetric int4 per_block"


def quantize_ways() -> list[Way]:
    found = []
    for share, dtype, mode in itertools.product(SHARES, DTYPES, MODES):
        older = dtype in ("int8", "uint8") and share != "per_block"
        move = quantize(mode, dtype, share, 32 if share == "per_block" else 0)
        version = IOS16 if older else IOS18
        found.append(Way("quantize", f"{mode} {dtype} {share}", (move,), version))
    return found


HALF = prune("--target-sparsity 0.5", target_sparsity=0.5)


def prune_ways() -> list[Way]:
    def way(name: str, move: Move) -> Way:
        return Way("prune", name, (move,), IOS16)

    three_quarters = prune("--target-sparsity 0.75", target_sparsity=0.75)
    blocks = "--target-sparsity 0.5 --block-size 4"
    return [
        way("0.5", HALF),
        way("0.75", three_quarters),
        way("2:4", prune("--n-m-ratio 2:4", n_m_ratio=(2, 4))),
        way("2:4 of outputs", prune("--n-m-ratio 2:4 --dim 0", n_m_ratio=(2, 4), dim=0)),
        way("blocks of 4", prune(blocks, target_sparsity=0.5, block_size=4)),
        way("blocks of 4 inputs", prune(blocks + " --dim 1", target_sparsity=0.5, block_size=4,
                                        dim=1)),
    ]  # fmt: skip


LUT_TO_INT8 = quantize("linear_symmetric", "int8", "per_tensor").joined()


def lut_name(bits: int) -> str:
    return f"{bits} bits, LUT int8"


def palettize_ways(full: bool) -> list[Way]:
    found = []
    for dim, bits in ((2, 4), (4, 4), (2, 2), (4, 6)) if full else ((2, 4), (4, 4)):
        move = palettize(bits, f"--cluster-dim {dim}", cluster_dim=dim)
        found.append(Way("palettize", f"{bits} bits, vectors of {dim}", (move,)))
    for bits in (4, 6) if full else (4,):
        move = palettize(bits, "--per-channel-scale", enable_per_channel_scale=True)
        found.append(Way("palettize", f"{bits} bits, channel scales", (move,)))
    for bits in (4, 6, 8):
        one = ("palettize", "--nbits", str(bits), "--lut-dtype", "int8")
        moves = (palettize(bits), LUT_TO_INT8)
        found.append(Way("palettize", lut_name(bits), moves, commands=(one,)))
    return found


def joint_ways(full: bool) -> list[Way]:
    """Second and third compressions, from where coremltools takes over."""
    pruned_int8 = quantize("linear_symmetric", "int8", "per_channel").joined()
    pruned_uint8 = quantize("linear", "uint8", "per_tensor").joined()
    pruned_int4 = quantize("linear_symmetric", "int4", "per_block", 32).joined()
    in_one = (HALF.command, ("palettize", "--nbits", "6", "--lut-dtype", "int8", "--joint"))
    found = [
        Way("joint", "prune, palettize 4", (HALF, palettize(4).joined()), follow=1),
        Way("joint", "prune, int8 per channel", (HALF, pruned_int8), follow=1),
        Way("joint", "palettize 4, LUT int8", (palettize(4), LUT_TO_INT8), follow=1),
        Way("joint", "prune, palettize 4, LUT int8",
            (HALF, palettize(4).joined(), LUT_TO_INT8), follow=2),
        Way("joint", "prune, 6 bits with LUT int8 in one step",
            (HALF, palettize(6).joined(), LUT_TO_INT8), commands=in_one, follow=1),
    ]  # fmt: skip
    if full:
        found += [
            Way("joint", "prune, palettize 8", (HALF, palettize(8).joined()), follow=1),
            Way("joint", "prune, uint8 linear per tensor", (HALF, pruned_uint8), follow=1),
            Way("joint", "prune, int4 in blocks", (HALF, pruned_int4), follow=1),
            Way("joint", "palettize 6, LUT int8", (palettize(6), LUT_TO_INT8), follow=1),
            Way("joint", "palettize 8, LUT int8", (palettize(8), LUT_TO_INT8), follow=1),
        ]
    return found


@dataclass(frozen=True)
class Known:
    """Ways in which cmlc is known to be worse, and by how much. Beyond that they fail, and with
    --strict they fail at once. To be deleted with the reason for it."""

    ways: tuple[str, ...]  # parts of names
    reason: str
    allowance: float = ALLOWANCE  # dB
    per_bit: float = 0  # dB for each bit that coremltools' form takes more for a weight


BIT = 20 * float(np.log10(2))  # what a bit more for each weight is worth, in dB

KNOWN = (
    Known(("channel scales",), "one scale for each output channel; coremltools stores one for each "
          "input position, each with a LUT of its own", per_bit=BIT),
)  # fmt: skip


def known(way: Way) -> Known | None:
    return next((k for k in KNOWN if any(part in way.name for part in k.ways)), None)


# Results ----------------------------------------------------------------------------------------


@dataclass
class Decoded:
    """A compressed package, decoded and held against the original."""

    package: Package
    comparison: Comparison
    uses: dict[str, Use]
    snr: dict[str, float] = field(init=False)
    bits: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        weights = [w for w in self.comparison.weights if self.uses[w.key].form != "const"]
        self.snr = {w.key: w.snr_db for w in weights}
        self.bits = {w.key: w.bits_per_weight for w in weights}

    def zeros(self, key: str) -> int:
        value = self.uses[key].decode()
        return int(value.size - np.count_nonzero(value))


def decode(original: Package, path: Path) -> Decoded:
    package = Package(path)
    uses = {str(use.key): use for use in package.uses()}
    return Decoded(package, compare(original, package), uses)


@dataclass
class Pair:
    """What both made of a package in one way."""

    entry: Entry
    way: Way
    original: dict[str, Use]
    mine: Decoded
    theirs: Decoded

    def common(self) -> list[str]:
        return sorted(self.mine.snr.keys() & self.theirs.snr.keys())

    def tell(self, key: str) -> str:
        use = self.original[key]
        return f"{key} {use.decode().dtype} {list(use.decode().shape)}"

    def comparable(self, key: str) -> bool:
        """Whether coremltools let at least as many values go, where values go."""
        return self.way.group != "prune" or self.mine.zeros(key) <= self.theirs.zeros(key)

    def same_form(self, key: str) -> bool:
        """Whether both have to take the same number of bytes."""
        return self.way.group != "prune" or self.mine.zeros(key) == self.theirs.zeros(key)


def quality_problems(pair: Pair, allowance: float = ALLOWANCE, per_bit: float = 0) -> list[str]:
    """Weights of a lower SNR than coremltools', or of more bytes, or that it alone did."""
    mine, theirs = pair.mine, pair.theirs
    found = [f"{pair.tell(k)}: compressed by coremltools only"
             for k in sorted(theirs.snr.keys() - mine.snr.keys())]  # fmt: skip
    for key in pair.common():
        if not pair.comparable(key):
            continue
        a, b = mine.snr[key], theirs.snr[key]
        least = b - allowance - per_bit * max(0, theirs.bits[key] - mine.bits[key])
        if not (a == np.inf or np.isnan(b) or a >= least):
            bits = ""
            if abs(theirs.bits[key] - mine.bits[key]) > 1e-3:
                bits = f"; {mine.bits[key]:.3f} bits per weight, not {theirs.bits[key]:.3f}"
            found.append(f"{pair.tell(key)}: {a:.4f} dB, coremltools {b:.4f} dB{bits}")
        if pair.same_form(key) and mine.bits[key] > theirs.bits[key] + 1e-3:
            found.append(f"{pair.tell(key)}: {mine.bits[key]} bits per weight, "
                         f"coremltools {theirs.bits[key]}")  # fmt: skip
    return found


def gain_problems(pair: Pair) -> list[str]:
    """Scales of channels fit rows of unequal size; coremltools' run along the other axis."""
    if "heavy" not in pair.entry.tags or "channel scales" not in pair.way.name:
        return []
    return [f"{pair.tell(k)}: no better than coremltools, {pair.mine.snr[k]:.3f} dB"
            for k in pair.common() if pair.mine.snr[k] <= pair.theirs.snr[k]]  # fmt: skip


def sparsity_problems(pair: Pair) -> list[str]:
    """The share that was asked for goes, and no more, unless the weight had more zeros before.
    coremltools lets all ties go that it meets."""
    settings = dict(pair.way.moves[0].settings)
    target = settings.get("target_sparsity")
    if target is None:
        return []
    found = []
    for key in pair.mine.snr:
        value = pair.original[key].decode()
        before = value.size - np.count_nonzero(value)
        zeros, wanted = pair.mine.zeros(key), max(before, target * value.size)
        # A block goes as a whole, and its channels may hold zeros anyway.
        slack = settings["block_size"] + before if "block_size" in settings else 1
        if abs(zeros - wanted) > slack:
            found.append(f"{pair.tell(key)}: {zeros} zeros, expected {wanted}")
    return found


def ratio_problems(pair: Pair) -> list[str]:
    """n:m: what is left is what coremltools leaves, to the bit, where no magnitudes tie."""
    if "n_m_ratio" not in dict(pair.way.moves[0].settings):
        return []
    found = []
    for key in pair.common():
        a, b = pair.mine.uses[key].decode(), pair.theirs.uses[key].decode()
        original = pair.original[key].decode()
        differ = (a != b) & (np.abs(original) != 0)
        # A tie may fall on either side: then as many magnitudes are left, and the same ones.
        left = [np.sort(np.abs(v[differ].astype(np.float32))) for v in (a, b)]
        if not np.array_equal(*left):
            found.append(f"{pair.tell(key)}: {int(differ.sum())} values differ beyond ties")
    return found


PARTS = (("quantized_data", "data"), ("scale",), ("zero_point", "offset"))


def stored_parts(use: Use) -> list[Array | None]:
    """Codes, scales and zero points of a quantized weight, as they are stored."""
    held = use.package.operands(use.op, use.scope)
    return [next((np.asarray(held[n]) for n in names if n in held), None) for names in PARTS]


def per_element(part: Array, shape: tuple[int, ...], axis: int) -> Array:
    """A scale or zero point for every element; those of iOS 16 are scalars or lie along an axis."""
    if part.ndim == len(shape):
        for d, (have, want) in enumerate(zip(part.shape, shape, strict=True)):
            part = np.repeat(part, want // have, d)
        return part
    return np.broadcast_to(part.reshape([-1 if d == axis else 1 for d in range(len(shape))]), shape)


def parts_problems(what: str, mine: Use, theirs: Use) -> list[str]:
    """Whether two quantized weights are stored alike, to the bit. Blocks of zeros are left out:
    coremltools gives them a scale of 0 and codes that depend on the processor."""
    if mine.form != theirs.form:
        return [f"{what}: is {mine.form}, coremltools' {theirs.form}"]
    found = []
    axis = int(mine.package.operands(mine.op, mine.scope).get("axis", 0))
    a, b = stored_parts(mine), stored_parts(theirs)
    shape = b[0].shape  # type: ignore[union-attr]
    dead = per_element(b[1], shape, axis) == 0  # type: ignore[arg-type]
    for name, x, y in zip(("codes", "scales", "zero points"), a, b, strict=True):
        if x is None or y is None:
            if x is not y:
                found.append(f"{what}: {name} in one of them only")
            continue
        if x.shape != y.shape or x.dtype != y.dtype:
            found.append(f"{what}: {name} are {x.dtype}{list(x.shape)}, "
                         f"not {y.dtype}{list(y.shape)}")  # fmt: skip
            continue
        differ = (per_element(x, shape, axis) != per_element(y, shape, axis)) & ~dead
        if differ.any():
            at = tuple(int(i) for i in np.argwhere(differ)[0])
            here, there = (per_element(v, shape, axis)[at] for v in (x, y))
            found.append(f"{what}: {int(differ.sum())} {name} differ, first at {list(at)}: "
                         f"{here!r}, coremltools {there!r}")  # fmt: skip
    return found


# Known rows -------------------------------------------------------------------------------------

# Rows of four values, each quantized as a block, with coremltools' codes and zero points; "mixed"
# and "small" have the same ones in fp16 and fp32.
ROWS: dict[str, list[float]] = {"mixed": [1, -2, 3, 0.5], "small": [0.1, 0.2, -0.3, 0.37]}
FLOAT_ROWS = ROWS | {"ramp": [1, 2, 3, 4]}
# In mode linear coremltools' fp16 arithmetic overflows for "wide", and every code is the same.
HALF_ROWS = ROWS | {"wide": [600, -600, 10, 0]}
CODES = {
    ("mixed", "int8", "linear_symmetric"): ([42, -85, 127, 21], 0),
    ("mixed", "int8", "linear"): ([25, -128, 127, 0], -26),
    ("mixed", "uint8", "linear_symmetric"): ([169, 42, 254, 148], 127),
    ("mixed", "uint8", "linear"): ([153, 0, 255, 128], 102),
    ("mixed", "int4", "linear_symmetric"): ([2, -5, 7, 1], 0),
    ("mixed", "int4", "linear"): ([1, -8, 7, 0], -2),
    ("mixed", "uint4", "linear_symmetric"): ([9, 2, 14, 8], 7),
    ("mixed", "uint4", "linear"): ([9, 0, 15, 8], 6),
    ("small", "int8", "linear_symmetric"): ([34, 69, -103, 127], 0),
    ("small", "int8", "linear"): ([24, 62, -128, 127], -14),
    ("small", "uint8", "linear_symmetric"): ([161, 196, 24, 254], 127),
    ("small", "uint8", "linear"): ([152, 190, 0, 255], 114),
    ("small", "int4", "linear_symmetric"): ([2, 4, -6, 7], 0),
    ("small", "int4", "linear"): ([1, 3, -8, 7], -1),
    ("small", "uint4", "linear_symmetric"): ([9, 11, 1, 14], 7),
    ("small", "uint4", "linear"): ([9, 11, 0, 15], 7),
    ("ramp", "int8", "linear_symmetric"): ([32, 64, 95, 127], 0),
    ("ramp", "int8", "linear"): ([-64, -1, 63, 127], -128),
    ("ramp", "uint8", "linear_symmetric"): ([159, 191, 222, 254], 127),
    ("ramp", "uint8", "linear"): ([64, 127, 191, 255], 0),
    ("ramp", "int4", "linear_symmetric"): ([2, 3, 5, 7], 0),
    ("ramp", "int4", "linear"): ([-4, -1, 3, 7], -8),
    ("ramp", "uint4", "linear_symmetric"): ([9, 10, 12, 14], 7),
    ("ramp", "uint4", "linear"): ([4, 7, 11, 15], 0),
    ("wide", "int8", "linear_symmetric"): ([127, -127, 2, 0], 0),
    ("wide", "uint8", "linear_symmetric"): ([254, 0, 129, 127], 127),
}
# fp16, exact, by row, width of the codes and mode. cmlc divides in fp32 and rounds once. That is
# coremltools' scale, but for "small" in mode linear: there it rounds the range 0.67016602 to
# 0.66992188 before it divides, and ends one step of fp16 lower.
HALF_SCALES = {
    ("mixed", 8, "linear_symmetric"): 0.02362060546875,
    ("mixed", 8, "linear"): 0.0196075439453125,
    ("mixed", 4, "linear_symmetric"): 0.428466796875,
    ("mixed", 4, "linear"): 0.333251953125,
    ("small", 8, "linear_symmetric"): 0.0029144287109375,
    ("small", 8, "linear"): 0.002628326416015625,
    ("small", 4, "linear_symmetric"): 0.052886962890625,
    ("small", 4, "linear"): 0.044677734375,
}
FLOAT_SCALES = {
    ("mixed", 8, "linear_symmetric"): 0.0236220472,
    ("mixed", 8, "linear"): 0.0196078438,
    ("mixed", 4, "linear_symmetric"): 0.4285714328,
    ("mixed", 4, "linear"): 0.3333333433,
}


def rows_model(rows: list[list[float]], half: bool, path: Path) -> Path:
    """A model whose weight has these rows."""
    weight = np.array(rows, np.float32)

    @mb.program(input_specs=[zoo.spec(1, weight.shape[1])], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return mb.linear(x=x, weight=weight, name="rows")

    zoo.save(zoo.convert(program, ct.target.iOS18, half), path)
    return path


# Groups -------------------------------------------------------------------------------------------


@dataclass
class Sums:
    """Squared error of a model's weights in one way; mine and coremltools'."""

    mine: float = 0
    theirs: float = 0
    weights: int = 0


class Weights(Suite):
    """All the checks; models and bookkeeping are those of run_checks.py."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        super().__init__(args, folder)
        self.folder = folder
        self.ways = (quantize_ways() + prune_ways() + palettize_ways(args.full)
                     + joint_ways(args.full))  # fmt: skip
        self.blocks: dict[str, Sums] = {}  # int4 in blocks, by model
        self.gains: dict[str, list[float]] = {}  # of integer LUTs on heavy tails, by way
        self.number = 0

    def collect(self, folder: Path) -> None:
        self.tally.begin("models")
        if self.args.models:
            for path in sorted(self.args.models.glob("*/*.mlpackage")):
                self.add_found(path)
        for entry in self.compressed:
            self.tally.skip(entry.name, "is compressed already")
        self.compressed = []
        for entry in [e for e in self.plain if "pipeline" in e.tags]:
            self.tally.skip(entry.name, "coremltools refuses pipelines")
            self.plain.remove(entry)
        older = [e for e in self.plain if Package(e.path).version < IOS18]
        for entry in older:
            raised = folder / f"{entry.name}-raised.mlpackage"
            self.tool.run("null", entry.path, "-o", raised, "--target", "iOS18")
            self.plain.append(Entry(f"{entry.name}, raised", raised))
        for dtype, megabytes in (("fp16", 10), ("fp32", 20)) if self.args.full else (
            ("fp16", 4), ("fp32", 4)):  # fmt: skip
            net = "transformer" if self.args.full else "narrow"
            source = bench.Source(net, megabytes, dtype=dtype, tails="heavy", spec=IOS18)
            path = folder / f"heavy-{dtype}.mlpackage"
            bench.make_package(source, path)
            self.plain.append(Entry(f"heavy {dtype}", path, frozenset({"heavy"})))
        self.tally.passed += len(self.plain)
        self.tally.end()

    def chosen(self, entry: Entry) -> list[Way]:
        """The ways for one model. A model that was raised is not done again in older forms unless
        all is asked for, and the parts of the grid take turns."""
        version = max(IOS16, Package(entry.path).version)
        fit = [w for w in self.ways if w.version <= version and self.wants(w.group)]
        if self.args.full:
            return fit
        self.number += 1
        parts = 3 if "heavy" in entry.tags else 6
        kept = fit[self.number % parts :: parts]
        always = [INT4_BLOCKS]
        if entry.name == "heavy fp16":  # in fp32 coremltools needs a minute for 8 bits
            always += map(lut_name, (4, 6, 8))
            kept = fit[0::2]
        return [w for w in fit if w in kept or w.name in always]

    def run(self) -> None:
        if self.wants("vectors"):
            self.vectors()
        for entry in self.plain:
            if self.args.model in entry.name:
                self.model(entry)
        if self.wants("totals"):
            self.totals()

    def model(self, entry: Entry) -> None:
        """All ways for one model."""
        self.tally.begin(entry.name)
        original = Package(entry.path)
        for way in self.chosen(entry):
            self.guarded(f"{way.group}: {way.name}", self.one_way(entry, original, way))
        self.tally.end()

    def model_of(self, path: Path, copy: Path) -> Any:
        """A package as coremltools has it; its own copy, because the manifest is rewritten."""
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(path, copy)
        return ct.models.MLModel(str(copy), skip_model_load=True)

    def compress(self, source: Path, steps: tuple[tuple[str, ...], ...]) -> list[Path]:
        """Runs cmlc's commands, each on the result of the one before; returns all results."""
        results: list[Path] = []
        for i, step in enumerate(steps):
            out = self.tool.output(f"mine-{i}")
            before = results[-1] if results else source
            self.tool.run(step[0], before, "-o", out, *step[1:], "-q")
            results.append(out)
        return results

    def peer_result(self, entry: Entry, way: Way, mine: list[Path]) -> Path:
        start = mine[way.follow - 1] if way.follow else entry.path
        model = self.model_of(start, self.folder / "peer-input.mlpackage")
        for move in way.moves[way.follow :]:
            model = move.call(model)
        out = self.tool.output("theirs")
        model.save(str(out))
        return out

    def one_way(self, entry: Entry, original: Package, way: Way) -> Iterator[list[str]]:
        """Compresses with both, and compares."""
        results = self.compress(entry.path, way.steps())
        mine = decode(original, results[-1])
        yield mine.comparison.failures
        yield graph_changes(original, mine.package, mine.comparison)
        yield from self.readable(results[-1], mine)
        try:
            theirs = decode(original, self.peer_result(entry, way, results))
        except Exception as error:  # whatever it raises
            self.tally.skip(f"{way.group}: {way.name}", f"{type(error).__name__}: {error}")
            return
        uses = {str(use.key): use for use in original.uses()}
        pair = Pair(entry, way, uses, mine, theirs)
        if not pair.common():
            self.tally.skip(f"{way.group}: {way.name}", "no weight that coremltools compresses")
        yield self.quality(pair)
        if way.group == "prune":
            apart = [k for k in pair.common() if not pair.comparable(k)]
            if apart:
                self.tally.skip(f"{way.group}: {way.name}",
                                f"coremltools let fewer values go of {len(apart)} weights, e.g. "
                                f"{pair.tell(apart[0])}: {theirs.zeros(apart[0])}, "
                                f"cmlc {mine.zeros(apart[0])}")  # fmt: skip
            yield sparsity_problems(pair)
            yield ratio_problems(pair)
        if way.group == "quantize":
            yield self.min_max_problems(pair)
        self.add_up(pair)

    def quality(self, pair: Pair) -> list[str]:
        """What is worse than coremltools' result, what is known of it left out."""
        problems, known_ = quality_problems(pair) + gain_problems(pair), known(pair.way)
        if known_ is None or not problems or self.args.strict:
            return problems
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        self.tally.skip(f"{pair.way.group}: {pair.way.name}",
                        f"known: {known_.reason}: {problems[0]}{more}")  # fmt: skip
        return quality_problems(pair, known_.allowance, known_.per_bit)

    def readable(self, path: Path, mine: Decoded) -> Iterator[list[str]]:
        """coremltools reads a result, and `cmlc decompress` decodes it as decode.py does."""
        load_programs(mine.package)
        plain = Package(self.tool.decompress(path, "decompressed"))
        values = {str(use.key): use for use in plain.uses()}
        for key in mine.snr:
            if key not in values or values[key].form != "const":
                yield [f"{key}: not decompressed"]
            elif not same_bits(values[key].decode(), mine.uses[key].decode()):
                yield [f"{key}: decompressed to other values than decode.py gives"]
        ct.models.MLModel(str(path), skip_model_load=True)  # last: it rewrites the manifest

    def min_max_problems(self, pair: Pair) -> list[str]:
        """--scales minmax stores what coremltools stores, for fp32 weights."""
        single = [k for k in pair.common() if pair.original[k].decode().dtype == np.float32]
        if not single:
            return []
        out = self.tool.output("min-max")
        (step,) = pair.way.steps()
        self.tool.run(step[0], pair.entry.path, "-o", out, *step[1:], "--scales", "minmax", "-q")
        uses = {str(use.key): use for use in Package(out).uses()}
        found = []
        for key in single:
            what = f"minmax: {pair.tell(key)}"
            found += parts_problems(what, uses[key], pair.theirs.uses[key])
        return found

    def add_up(self, pair: Pair) -> None:
        if pair.way.name == INT4_BLOCKS:
            sums = self.blocks.setdefault(pair.entry.name, Sums())
            for key in pair.common():
                value = pair.original[key].decode().astype(np.float64)
                signal = float(np.sum(value * value))
                sums.mine += signal / 10 ** (pair.mine.snr[key] / 10)
                sums.theirs += signal / 10 ** (pair.theirs.snr[key] / 10)
                sums.weights += 1
        if "heavy" in pair.entry.tags and pair.way.commands:
            gains = [pair.mine.snr[k] - pair.theirs.snr[k] for k in pair.common()]
            self.gains.setdefault(pair.way.name, []).extend(gains)

    def totals(self) -> None:
        """What the search for scales and the choice of entries under rounding gain."""
        self.tally.begin("totals")
        for name, sums in self.blocks.items():
            if not sums.weights:
                continue
            share = sums.mine / sums.theirs if sums.theirs else 0
            problem = [] if share <= 0.9 else [f"{share:.4f} of coremltools' squared error"]
            self.tally.check(f"int4 in blocks of 32, {name}, {sums.weights} weights", problem)
            if self.args.verbose:
                print(f"     int4 in blocks of 32, {name}: {share:.4f} of coremltools' error")
        for bits, least in ((4, 0.1), (6, 1.0), (8, 2.0)):
            gains = self.gains.get(lut_name(bits), [])
            if not gains:
                continue
            mean = sum(gains) / len(gains)
            problem = [] if mean >= least else [f"{mean:.3f} dB on average, expected {least}"]
            self.tally.check(f"{lut_name(bits)}, {len(gains)} heavy-tailed weights", problem)
            if self.args.verbose:
                print(f"     {lut_name(bits)}: {mean:+.3f} dB on average")
        self.tally.end()

    def vectors(self) -> None:
        """Known rows; and one that coremltools gets wrong, which must come out right."""
        self.tally.begin("vectors")
        for half in (True, False):
            rows, dtype = (HALF_ROWS, "fp16") if half else (FLOAT_ROWS, "fp32")
            path = rows_model(list(rows.values()), half, self.folder / f"rows-{dtype}.mlpackage")
            for code, mode in itertools.product(DTYPES, MODES):
                what = f"{dtype} {code} {mode}"
                self.guarded(what, self.known_rows(path, half, code, mode))
        self.tally.end()

    def known_rows(self, path: Path, half: bool, code: str, mode: str) -> Iterator[list[str]]:
        out = self.tool.output("rows-quantized")
        self.tool.run("quantize", path, "-o", out, "--dtype", code, "--mode", mode,
                      "--scales", "minmax", "--weight-threshold", "0")  # fmt: skip
        (use,) = (u for u in Package(out).uses() if u.form != "const")
        codes, scales, zeros = stored_parts(use)
        assert codes is not None and scales is not None
        value = use.decode().astype(np.float64)
        for row, (name, given) in enumerate((HALF_ROWS if half else FLOAT_ROWS).items()):
            zero = 0 if zeros is None else int(zeros.reshape(-1)[row])
            is_ = (codes[row].tolist(), zero)
            if is_ != CODES.get((name, code, mode), is_):
                yield [f"{name}: codes {is_}, expected {CODES[name, code, mode]}"]
            # Half a step and the rounding of the scale, however the codes were found.
            off = np.abs(value[row] - given).max()
            if off > scales.astype(np.float64).reshape(-1)[row] / 2 + 1e-3 * np.abs(given).max():
                yield [f"{name}: decoded to {value[row].tolist()}, expected {given}"]
            exact = (HALF_SCALES if half else FLOAT_SCALES).get((name, int(code[-1]), mode))
            scale = scales.reshape(-1)[row]
            if exact is not None and scale != scale.dtype.type(exact):
                yield [f"{name}: scale {scale!r}, expected {exact}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cmlc", required=True, help="the program to check")
    parser.add_argument("--models", type=Path, help="a folder of folders with packages")
    parser.add_argument("--full", action="store_true", help="the whole grid on every model")
    parser.add_argument("--strict", action="store_true", help="what is known fails too")
    parser.add_argument("--only", default="", help="groups to run, a,b")
    parser.add_argument("--model", default="", help="only models whose names hold this")
    parser.add_argument("--verbose", action="store_true", help="print the totals")
    args = parser.parse_args()
    program = shutil.which(args.cmlc)
    if program is None:
        parser.error(f"{args.cmlc}: not a program")
    args.cmlc = Path(program).resolve()
    with tempfile.TemporaryDirectory(prefix="cmlc-weights-") as name:
        suite = Weights(args, Path(name))
        suite.collect(Path(name))
        suite.run()
    tally = suite.tally
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
