#!/usr/bin/env python3
"""Checks `cmlc activations` against coremltools, and on recorded samples.

    activation_checks.py --cmlc build/release/cmlc [--models DIR] [--judge FILE] [--only GROUP]

Groups of checks:
  peer      given the same ranges, the same values are quantized as by coremltools' passes, with the
            same scales and zero points; on small nets of every pattern, and on the ML Programs of
            DIR
  loads     coremltools reads the results, and nothing but pairs was added
  order     activations before weights give the same bytes as after them; done twice is done once
  digits    W8A8 and A8W4 of the example model: at most 0.5 points of accuracy less
  samples   every sample set of DIR calibrates its model; ranges by least squared error are not
            worse than all that was seen by more than 0.1 dB at any output

Where cmlc differs from coremltools on purpose, DIFFERENCES says how and why, and the checks take it
into account. Prints a line for each group and model, each failure, and at the end a line that says
only "N passed, M failed, K skipped".
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import quiet  # noqa: F401  (before coremltools)

# isort: split
import coremltools as ct
import coremltools.optimize.coreml as cto
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813  (its usual name)
from coremltools.converters.mil.mil import types
from coremltools.optimize import _utils as peer_utils
from coremltools.optimize.coreml import _post_training_quantization as peer
from outside_judge import load_judge
from run_checks import Tally, Tool, fingerprint
from zoo import Weights, spec

DIFFERENCES = """
  - coremltools computes ranges, scales and zero points in fp16 (W-07: wrong beyond 512). Here both
    get ranges in fp32 and the scale is rounded once, to the type of the value.
  - coremltools gives the pair behind an op an fp16 scale even where the value is fp32, and then fails:
    here its scale gets the type of the value.
  - coremltools does not quantize what is constant in all samples (scale 0 is an error): cmlc uses 1.
  - a scale of an fp16 value is never below the least normal number; coremltools stores denormal
    ones, and fails where they become 0.
  - coremltools leaves zero point -128 of int8 where two dequantizes read the codes; cmlc makes it
    uint8 without one, which is the same.
  - coremltools makes a pair for each reader in front of ops, cmlc one for all of them.
  - sigmoid_hard behind an op is an activation for cmlc (coremltools' list has another name for it).
  - coremltools puts a pair behind an op of which a block inside the program is an output and read
    elsewhere; cmlc leaves outputs alone.
  - ranges of values that ops only move are shared by default (--tied all); coremltools shares those of
    concat only, before its passes, so here cmlc runs with --tied none and the same ranges.
"""
ALLOWANCE = 0.1  # dB
LEAST_FP16 = 2.0**-14  # of normal numbers
POINTS = 0.005  # of accuracy
SAMPLES = 8  # of a recording
ROOT = Path(__file__).resolve().parent.parent.parent
DIGITS = ROOT / "examples/digits"

Array = np.ndarray


# Small nets -----------------------------------------------------------------------------------


def conv(x: Any, w: Weights, channels: int = 8, **more: Any) -> Any:
    return mb.conv(x=x, weight=w(channels, x.shape[1], 3, 3), pad_type="same", **more)


def net(build: Callable[[Any, Weights], Any], shape: tuple[int, ...] = (1, 4, 8, 8)) -> Any:
    """A program of one input."""
    weights = Weights(len(build.__name__))

    @mb.program(input_specs=[spec(*shape)], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        return build(x, weights)

    return program


def conv_only(x: Any, w: Weights) -> Any:
    return mb.softmax(x=conv(x, w), axis=1)


def conv_output(x: Any, w: Weights) -> Any:
    return conv(x, w)


def conv_activations(x: Any, w: Weights) -> Any:
    x = mb.relu(x=conv(x, w))
    x = mb.leaky_relu(x=conv(x, w), alpha=0.1)
    x = mb.tanh(x=conv(x, w))
    x = mb.scaled_tanh(x=conv(x, w), alpha=1.5, beta=0.5)
    x = mb.sigmoid(x=conv(x, w))
    x = mb.relu6(x=conv(x, w))
    x = mb.silu(x=conv(x, w))
    return mb.softmax(x=conv(x, w), axis=1)


def activation_output(x: Any, w: Weights) -> Any:
    return mb.tanh(x=conv(mb.relu(x=conv(x, w)), w))


def forked_activations(x: Any, w: Weights) -> Any:
    made = conv(x, w)
    return mb.mul(x=mb.relu(x=made), y=mb.sigmoid(x=made))


def several_readers(x: Any, w: Weights) -> Any:
    x = mb.relu(x=x)
    return mb.concat(values=[conv(x, w), conv(x, w), mb.exp(x=x)], axis=1)


def linear(x: Any, w: Weights) -> Any:
    x = mb.reshape(x=x, shape=[1, 256])
    x = mb.relu(x=mb.linear(x=x, weight=w(32, 256), bias=w(32)))
    return mb.softmax(x=mb.linear(x=x, weight=w(10, 32)), axis=1)


def adds(x: Any, w: Weights) -> Any:
    made = mb.relu(x=conv(x, w))
    made = mb.add(x=conv(made, w), y=made)
    other = mb.relu(x=mb.add(x=conv(made, w), y=made))
    return mb.softmax(x=mb.add(x=other, y=np.float32(3)), axis=1)


def add_of_one(x: Any, w: Weights) -> Any:
    made = conv(x, w)
    return mb.relu(x=conv(mb.relu(x=mb.add(x=made, y=made)), w))


def pools(x: Any, w: Weights) -> Any:
    x = mb.relu(x=conv(x, w))
    x = mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")
    x = conv(x, w)
    x = mb.avg_pool(x=x, kernel_sizes=[2, 2], strides=[1, 1], pad_type="same")
    return mb.softmax(x=x, axis=1)


def concats(x: Any, w: Weights) -> Any:
    left, right = mb.relu(x=conv(x, w)), conv(x, w)
    x = mb.concat(values=[left, right], axis=1)
    return mb.exp(x=conv(x, w))


def reshapes(x: Any, w: Weights) -> Any:
    x = mb.relu(x=conv(x, w))
    x = mb.reshape(x=x, shape=[1, 512])
    return mb.exp(x=mb.linear(x=x, weight=w(16, 512)))


NETS: dict[str, Any] = {
    build.__name__: build
    for build in (
        conv_only, conv_output, conv_activations, activation_output, forked_activations,
        several_readers, linear, adds, add_of_one, pools, concats, reshapes,
    )
}  # fmt: skip


def make(program: Any, half: bool, path: Path) -> None:
    model = ct.convert(
        program,
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    model.save(str(path))


# What is quantized ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """A value as an op reads it."""

    value: str
    scale: float = 0  # 0: in float
    zero_point: int = 0
    dtype: str = ""


def plain(name: str) -> str:
    return name.removesuffix("_normalized")


def source_of(var: Any) -> Read:
    """Through a dequantize and the quantize before it."""
    if var.op is None or var.op.op_type != "dequantize":
        return Read(plain(var.name))
    scale, codes = var.op.scale.val, var.op.input
    zero = var.op.zero_point.val if var.op.zero_point is not None else 0
    dtype = types.builtin_to_string(codes.dtype)
    if dtype == "int8" and zero == -128:  # the same as uint8 without a zero point
        zero, dtype = 0, "uint8"
    reshapes = ""
    while codes.op is not None and codes.op.op_type == "reshape":
        codes = codes.op.x
        reshapes += "reshape of "
    assert codes.op is not None and codes.op.op_type == "quantize", codes
    return Read(reshapes + plain(codes.op.input.name), float(scale), int(zero), dtype)


def quantized_values(path: Path) -> dict[tuple[str, str, int], Read]:
    """By op (its output), parameter and position: what each op of the original reads."""
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(path), skip_model_load=True)
    members = [model.get_spec()]
    while members and members[0].WhichOneof("Type") == "pipeline":
        members = [m for m in members[0].pipeline.models if m.WhichOneof("Type") == "mlProgram"]
    program = load(
        members[0],
        specification_version=members[0].specificationVersion,
        file_weights_dir=model.weights_dir,
    )
    found: dict[tuple[str, str, int], Read] = {}

    def visit(block: Any) -> None:
        for op in block.operations:
            for inner in op.blocks:
                visit(inner)
            if not op.outputs or op.op_type in ("const", "quantize", "dequantize"):
                continue
            out = plain(op.outputs[0].name)
            for parameter, given in op.inputs.items():
                for i, var in enumerate(given if isinstance(given, (list, tuple)) else [given]):
                    if var is None or var.op is not None and (
                        var.op.op_type == "const" or var.op.op_type.startswith("constexpr")
                    ):
                        continue
                    # A reshape of codes has another name with coremltools.
                    if op.op_type == "reshape" and types.is_int(op.outputs[0].dtype):
                        continue
                    found[(out, parameter, i)] = source_of(var)

    for function in program.functions.values():
        visit(function)
    return found


class Peer:
    """coremltools' passes over activations with given ranges (and with what DIFFERENCES says)."""

    def __init__(self, ranges: dict[str, dict[str, float]], half: bool) -> None:
        self.ranges, self.kind = ranges, np.float16 if half else np.float32

    def run(self, source: Path, mode: str, dtype: str, out: Path) -> None:
        model = ct.models.MLModel(str(source), skip_model_load=True)
        config = cto.OptimizationConfig(
            global_config=cto.OpLinearQuantizerConfig(mode=mode, dtype=dtype)
        )
        kept = (
            peer._get_activation_calibration_stats,
            peer_utils.get_min_and_max_values,
            peer_utils.quantize_weight,
        )
        original = peer_utils.quantize_weight

        def rounded(*given: Any, **named: Any) -> Any:
            codes, scale, zero_point = original(*given, **named)
            return codes, scale.astype(self.kind), zero_point

        peer._get_activation_calibration_stats = lambda *_: self.ranges
        peer_utils.get_min_and_max_values = lambda stats, var_name: np.array(
            [stats[var_name]["rmin"], stats[var_name]["rmax"]], np.float32
        )
        peer_utils.quantize_weight = rounded
        try:
            made = cto.linear_quantize_activations(model, config, [])
        finally:
            (
                peer._get_activation_calibration_stats,
                peer_utils.get_min_and_max_values,
                peer_utils.quantize_weight,
            ) = kept
        made.save(str(out))


def ulp(value: float, half: bool) -> float:
    return float(np.spacing(np.float16(value) if half else np.float32(value)))


def differences(mine: dict[Any, Read], theirs: dict[Any, Read], half: bool) -> list[str]:
    found = []
    ops = {key[0] for key in theirs}

    def behind(read: Read | None) -> Read | None:
        """Through ops that coremltools found to do nothing and took out."""
        while read is not None and not read.scale and read.value not in ops:
            next_read = mine.get((read.value, "x", 0))
            if next_read is None:
                return read
            read = next_read
        return read

    for key in sorted(mine.keys() | theirs.keys()):
        if key[0] not in ops:
            continue
        a, b = behind(mine.get(key)), theirs.get(key)
        # Passes that coremltools runs as well fold constants and join ops that stay in float.
        if all(read is None or not read.scale for read in (a, b)):
            continue
        if a is None or b is None:
            found.append(f"{key}: {a} here, {b} by coremltools")
            continue
        if half and a.scale == LEAST_FP16 > b.scale > 0:
            continue
        same = (
            a.value == b.value
            and a.dtype == b.dtype
            and abs(a.scale - b.scale) <= 2 * ulp(max(a.scale, b.scale), half)
            and abs(a.zero_point - b.zero_point) <= (1 if half else 0)
        )
        if not same:
            found.append(f"{key}: {a} here, {b} by coremltools")
    return found


# Groups ---------------------------------------------------------------------------------------


class Checks:
    def __init__(self, tool: Tool, folder: Path, models: Path | None, judge: Path | None) -> None:
        self.tool, self.folder, self.models, self.judge = tool, folder, models, judge
        self.tally = Tally()
        self.nets: dict[str, Path] = {}

    def packages(self) -> list[Path]:
        return sorted(self.models.glob("*/*.mlpackage")) if self.models else []

    def calibrated(self) -> Iterator[tuple[str, Path, Path]]:
        """The example model and every ML Program: name, package, statistics of random inputs."""
        for path in [DIGITS / "digits.mlpackage", *self.packages()]:
            kind = json.loads(self.tool.run("info", path, "--json"))["kind"]
            if kind in ("mlProgram", "pipeline"):
                yield path.parent.name, path, self.statistics(path, path.parent.name)

    def net(self, name: str, half: bool) -> Path:
        key = f"{name}_{'fp16' if half else 'fp32'}"
        if key not in self.nets:
            path = self.folder / f"{key}.mlpackage"
            make(net(NETS[name]), half, path)
            self.nets[key] = path
        return self.nets[key]

    def statistics(self, source: Path, name: str, *data: str) -> Path:
        path = self.folder / f"{name}.stats"
        if not path.exists():
            self.tool.run("calibrate", source, *(data or ("--random", "3")), "-q", "-o", path)
        return path

    def ranges(self, stats: Path) -> dict[str, dict[str, float]]:
        values = json.loads(self.tool.run("stats", "show", stats, "--json"))["values"]
        return {v["name"]: {"rmin": v["least"], "rmax": v["greatest"]} for v in values}

    def against_peer(self, source: Path, name: str, half: bool, mode: str, dtype: str) -> list[str]:
        stats = self.statistics(source, name)
        mine = self.tool.output("mine")
        self.tool.run(
            "activations", source, "--stats", stats, "--ranges", "minmax", "--tied", "none",
            "--mode", mode, "--dtype", dtype, "-q", "-o", mine,
        )  # fmt: skip
        theirs = self.tool.output("theirs")
        ranges = self.ranges(stats)
        Peer(ranges, half).run(source, mode, dtype, theirs)
        return differences(quantized_values(mine), quantized_values(theirs), half)

    def peer(self) -> None:
        ways = [(m, d) for m in ("linear_symmetric", "linear") for d in ("int8", "uint8")]
        self.tally.begin("peer: small nets")
        for name in NETS:
            for half in (True, False):
                for mode, dtype in ways:
                    what = f"{name}, {'fp16' if half else 'fp32'}, {mode} {dtype}"
                    try:
                        source = self.net(name, half)
                        problems = self.against_peer(source, source.stem, half, mode, dtype)
                    except Exception as error:  # noqa: BLE001  (whatever coremltools raises)
                        problems = [f"{type(error).__name__}: {error}"]
                    self.tally.check(what, problems)
        self.tally.end()


    def peer_models(self) -> None:
        self.tally.begin("peer: models")
        for path in self.packages():
            name = path.parent.name
            for mode in ("linear_symmetric", "linear"):
                what = f"{name}, {mode}"
                try:
                    info = json.loads(self.tool.run("info", path, "--json"))
                    ops = {op for program in info["programs"] for op in program["ops"]}
                    if not ops & {"conv", "linear", "avg_pool", "max_pool", "add"}:
                        continue
                    if info["kind"] != "mlProgram":
                        self.tally.skip(what, "coremltools does not quantize pipelines")
                        continue
                    if ops & {"while_loop", "cond"}:
                        self.tally.skip(what, "coremltools fails on control flow")
                        continue
                    half = "fp16" in {w["dtype"] for w in info["weights"]}
                    problems = self.against_peer(path, name, half, mode, "int8")
                except Exception as error:  # noqa: BLE001
                    if "scale cannot be 0" in str(error):
                        self.tally.skip(what, f"coremltools fails: {error}")
                        continue
                    problems = [f"{type(error).__name__}: {error}"]
                self.tally.check(what, problems)
        self.tally.end()

    def loads(self) -> None:
        """With the options that people use; constants and graph as they were."""
        self.tally.begin("loads")
        judge = None
        if self.judge is not None and self.judge.exists():
            judge = load_judge(self.judge)
        for name, path, stats in self.calibrated():
            if judge is not None:
                _, original = judge.load_programs(path)
            for way in (
                ["activations", "--mode", "linear"],
                ["run", "--preset", "w8a8"],
                ["run", "--preset", "a8w4"],
            ):
                problems = []
                out = self.tool.output("loads")
                try:
                    self.tool.run(way[0], path, *way[1:], "--stats", stats, "-q", "-o", out)
                    if judge is None:
                        quantized_values(out)
                    else:
                        _, made = judge.load_programs(out)
                        _, problems, _ = judge.compare(original, made, float("-inf"))
                except Exception as error:  # noqa: BLE001
                    problems = [f"{type(error).__name__}: {error}"]
                self.tally.check(f"{name}: {' '.join(way)}", problems)
        self.tally.end()

    def order(self) -> None:
        self.tally.begin("order")
        for name, path, stats in self.calibrated():
            first, last = self.tool.output("first"), self.tool.output("last")
            for weights in ("quantize", "palettize:nbits=4,lut_dtype=int8,group_size=16"):
                passes = ["--pass", "activations", "--pass", weights]
                for out, order in ((first, passes), (last, passes[2:] + passes[:2])):
                    self.tool.run("run", path, *order, "--stats", stats, "-q", "-o", out)
                same = fingerprint(first) == fingerprint(last)
                self.tally.check(f"{name}: {weights}", [] if same else ["the order matters"])
            self.tool.run("activations", path, "--stats", stats, "-q", "-o", first)
            self.tool.run("activations", first, "--random", "2", "-q", "-o", last)
            same = fingerprint(first) == fingerprint(last)
            self.tally.check(f"{name}: twice", [] if same else ["the second time changed it"])
        self.tally.end()

    def digits(self) -> None:
        self.tally.begin("digits")
        source, samples = DIGITS / "digits.mlpackage", DIGITS / "samples"
        data = [str(samples / "images.npy"), "--batched"]
        for preset in ("w8a8", "a8w4"):
            out = self.tool.output(preset)
            self.tool.run("run", source, "--preset", preset, "--data", *data, "-q", "-o", out)
            report = json.loads(
                self.tool.run("compare", source, out, "--input", *data, "--json",
                              "--labels", samples / "labels.npy")
            )  # fmt: skip
            (output,) = report["outputs"]
            before, after = output["accuracy_a"], output["accuracy_b"]
            print(f"     {preset}: accuracy {before:.4f} -> {after:.4f}")
            lost = before - after
            self.tally.check(preset, [] if lost < POINTS else [f"{lost} of accuracy lost"])
        self.tally.end()

    def samples(self) -> None:
        self.tally.begin("samples")
        try:
            from sample_sets import Model
        except ImportError as error:
            self.tally.skip("all", str(error))
            self.tally.end()
            return
        for path in self.packages():
            if path.parent.name.startswith("silero-vad-"):
                continue  # the same net with other weights
            try:
                model = Model(path, self.models / "samples")
                recordings = model.recordings(self.tool.program, SAMPLES)
            except (ValueError, KeyError):
                continue  # no ML Program
            if not recordings:
                continue
            data = []
            for i, sample in enumerate(recordings):
                file = self.folder / f"{path.parent.name}_{i}.npz"
                np.savez(file, **sample)
                data += ["--data", str(file)]
            stats = self.statistics(path, f"{path.parent.name}_recorded", *data)
            found: dict[str, dict[str, float]] = {}
            for ranges in ("minmax", "mse"):
                out = self.tool.output("samples")
                self.tool.run("activations", path, "--stats", stats, "--ranges", ranges, "-q",
                              "-o", out)  # fmt: skip
                report = json.loads(self.tool.run("compare", path, out, *data, "--json"))
                found[ranges] = {o["name"]: o["snr_db"]["mean"] for o in report["outputs"]}
            for name, snr in found["minmax"].items():
                other = found["mse"][name]
                print(f"     {path.parent.name} {name}: minmax {snr}, mse {other} dB")
                problems = []
                if snr is not None and (other is None or other < snr - ALLOWANCE):
                    problems = [f"mse {other} dB, minmax {snr} dB"]
                self.tally.check(f"{path.parent.name} {name}", problems)
        self.tally.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cmlc", type=Path, required=True)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--only", default="", help="a group")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checks = Checks(Tool(options.cmlc.resolve(), folder), folder, options.models, options.judge)
        for group in ("peer", "peer_models", "loads", "order", "digits", "samples"):
            if options.only in group:
                getattr(checks, group)()
    print("%d passed, %d failed, %d skipped" % checks.tally.counts())
    return 1 if checks.tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
