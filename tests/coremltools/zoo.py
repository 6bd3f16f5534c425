"""Small ML Programs that between them hold every kind of weight and of compressed weight.

build(folder) makes plain models, build_compressed(folder) makes models that coremltools itself has
compressed. Both return the packages that they wrote, and say what they could not make.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import quiet  # noqa: F401  (before coremltools)

# isort: split
import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813  (its usual name)
from coremltools.converters.mil.mil import types

Array = np.ndarray
SEED = 20250101


@dataclass(frozen=True)
class Entry:
    """A package to test with."""

    name: str
    path: Path
    tags: frozenset[str] = frozenset()


class Weights:
    """Hands out random weights, with tails about as heavy as those of trained nets."""

    def __init__(self, seed: int = SEED) -> None:
        self.random = np.random.default_rng(seed)

    def __call__(self, *shape: int, scale: float = 0.05) -> Array:
        return (self.random.standard_t(6, shape) * scale).astype(np.float32)

    def of_values(self, count: int, *shape: int) -> Array:
        """Weights with exactly `count` different values."""
        values = np.unique(self.random.normal(size=4 * count).astype(np.float16))
        values = self.random.permutation(values)[:count]
        codes = self.random.integers(0, count, shape)
        codes.reshape(-1)[:count] = np.arange(count)
        return values[codes].astype(np.float32)


def spec(*shape: int, dtype: Any = types.fp32) -> Any:
    return mb.TensorSpec(shape, dtype=dtype)


# Plain models ---------------------------------------------------------------------------------


def convolutions(target: Any) -> Any:
    """conv: plain, grouped, depthwise, with an odd number of channels; and conv_transpose."""
    w = Weights()

    @mb.program(input_specs=[spec(1, 32, 12, 12)], opset_version=target)
    def program(x: Any) -> Any:
        x = mb.conv(x=x, weight=w(64, 32, 3, 3), bias=w(64), name="plain")
        x = mb.conv(x=mb.relu(x=x), weight=w(64, 16, 3, 3), groups=4, name="grouped")
        x = mb.conv(x=mb.relu(x=x), weight=w(64, 1, 7, 7), groups=64, name="depthwise")
        x = mb.conv_transpose(x=x, weight=w(64, 32, 3, 3), name="up")
        x = mb.conv_transpose(x=mb.relu(x=x), weight=w(32, 12, 4, 4), groups=2, name="up_grouped")
        x = mb.conv(x=mb.relu(x=x), weight=w(30, 24, 3, 3), name="odd_channels")
        return mb.conv(x=mb.relu(x=x), weight=w(4, 30, 1, 1), name="small")

    return program


def conv1d(target: Any) -> Any:
    """Convolutions over one and three axes."""
    w = Weights()

    @mb.program(input_specs=[spec(1, 24, 40), spec(1, 4, 6, 6, 6)], opset_version=target)
    def program(x: Any, y: Any) -> Any:
        x = mb.conv(x=x, weight=w(48, 24, 5), dilations=[2], name="one")
        y = mb.conv(x=y, weight=w(32, 4, 3, 3, 3), name="three")
        return x, y

    return program


def matrices(target: Any) -> Any:
    """linear, and matmul with the constant on either side, transposed or not; gather; add."""
    w = Weights()

    @mb.program(input_specs=[spec(16, 256), spec(1, 7, dtype=types.int32)], opset_version=target)
    def program(x: Any, ids: Any) -> Any:
        x = mb.linear(x=x, weight=w(192, 256), bias=w(192), name="wide")
        x = mb.linear(x=mb.relu(x=x), weight=w(50, 192), name="indivisible")
        x = mb.matmul(x=mb.relu(x=x), y=w(50, 64), name="y")
        x = mb.matmul(x=mb.relu(x=x), y=w(96, 64), transpose_y=True, name="y_transposed")
        x = mb.matmul(x=w(48, 16, scale=0.2), y=mb.relu(x=x), name="small_x")
        x = mb.matmul(x=w(64, 48), y=mb.relu(x=x), name="x")
        x = mb.matmul(x=w(64, 80), y=mb.relu(x=x), transpose_x=True, name="x_transposed")
        x = mb.matmul(x=mb.relu(x=x), y=w(3, 96, 32), name="batch")
        x = mb.add(x=x, y=w(80, 32), name="plus")
        rows = mb.gather(x=w(500, 48), indices=ids, axis=0, name="rows")
        return x, rows

    return program


def recurrent(target: Any) -> Any:
    """lstm and gru."""
    w, h = Weights(), 48

    @mb.program(input_specs=[spec(9, 1, 40), spec(1, 2 * h), spec(1, h)], opset_version=target)
    def program(x: Any, c: Any, h0: Any) -> Any:
        y, hidden, cell = mb.lstm(
            x=x,
            initial_h=c,
            initial_c=c,
            weight_ih=w(4 * h, 40),
            weight_hh=w(4 * h, h),
            bias=w(4 * h),
            weight_ih_back=w(4 * h, 40),
            weight_hh_back=w(4 * h, h),
            bias_back=w(4 * h),
            direction="bidirectional",
            output_sequence=True,
            name="both_ways",
        )
        z, _ = mb.gru(
            x=y,
            initial_h=h0,
            weight_ih=w(3 * h, 2 * h),
            weight_hh=w(3 * h, h),
            bias=w(3 * h),
            name="gated",
        )
        return z, hidden, cell

    return program


def nested(target: Any) -> Any:
    """Weights in the branches of a cond, in a loop, and in a cond in that loop."""
    w = Weights()

    def layer(x: Any, name: str) -> Any:
        return mb.linear(x=x, weight=w(64, 64), bias=w(64), name=name)

    @mb.program(input_specs=[spec(1, 64), spec(1)], opset_version=target)
    def program(x: Any, flag: Any) -> Any:
        positive = mb.squeeze(x=mb.greater(x=flag, y=np.float32(0)), name="positive")
        x = mb.cond(
            pred=positive,
            _true_fn=lambda: layer(x, "then"),
            _false_fn=lambda: layer(mb.relu(x=x), "otherwise"),
            name="choice",
        )

        def body(i: Any, y: Any) -> Any:
            y = layer(y, "in_loop")
            y = mb.cond(
                pred=mb.less(x=i, y=np.float32(2)),
                _true_fn=lambda: layer(y, "early"),
                _false_fn=lambda: mb.relu(x=y),
            )
            return mb.add(x=i, y=np.float32(1)), y

        _, x = mb.while_loop(
            _cond=lambda i, y: mb.less(x=i, y=np.float32(4)),
            _body=body,
            loop_vars=(np.float32(0), x),
            name="loop",
        )
        return layer(x, "last")

    return program


def classifier(target: Any) -> Any:
    """A network that ends in class labels."""
    w = Weights()

    @mb.program(input_specs=[spec(1, 96)], opset_version=target)
    def program(x: Any) -> Any:
        x = mb.relu(x=mb.linear(x=x, weight=w(128, 96), bias=w(128), name="hidden"))
        return mb.softmax(x=mb.linear(x=x, weight=w(20, 128), name="scores"), axis=-1)

    return program


def shared(target: Any) -> Any:
    """One constant read twice: along the same axis, along different axes, by unlike operations."""
    w = Weights()

    @mb.program(input_specs=[spec(3, 64), spec(1, 5, dtype=types.int32)], opset_version=target)
    def program(x: Any, ids: Any) -> Any:
        twice = mb.const(val=w(64, 64), name="twice")
        x = mb.relu(x=mb.linear(x=x, weight=twice, name="first"))
        x = mb.relu(x=mb.linear(x=x, weight=twice, name="second"))
        torn = mb.const(val=w(64, 64), name="torn")
        x = mb.relu(x=mb.linear(x=x, weight=torn, name="along_rows"))
        x = mb.relu(x=mb.matmul(x=x, y=torn, name="along_columns"))
        tied = mb.const(val=w(160, 64), name="tied")
        rows = mb.gather(x=tied, indices=ids, axis=0, name="embed")
        return mb.linear(x=x, weight=tied, name="project"), rows

    return program


def few_values(target: Any) -> Any:
    """Weights with 1, 2, 5, 16, 60, 200 and 300 different values."""
    w = Weights()

    @mb.program(input_specs=[spec(3, 64)], opset_version=target)
    def program(x: Any) -> Any:
        for count in (2, 5, 16, 60, 200, 300):
            values = w.of_values(count, 64, 64)
            x = mb.relu(x=mb.linear(x=x, weight=values, name=f"values_{count}"))
        return mb.linear(x=x, weight=np.full((64, 64), 0.25, np.float32), name="values_1")

    return program


def extremes(target: Any) -> Any:
    """Weights at the edges of the number range."""
    w = Weights()
    zero_rows, spike, signs = w(64, 64), w(64, 64), w(64, 64)
    zero_rows[8:24] = 0
    spike[5, 7] = 60000
    signs[signs > 0.05] = -0.0
    cases = {
        "zero_rows": zero_rows,
        "spike": spike,
        "negative_zeros": signs,
        "huge": w(64, 64, scale=1) * np.float32(9000),
        "subnormal": w(64, 64, scale=1) * np.float32(2e-7),
        "offset": w(64, 64, scale=1e-3) + np.float32(7),
    }

    @mb.program(input_specs=[spec(3, 64)], opset_version=target)
    def program(x: Any) -> Any:
        for name, value in cases.items():
            value = np.clip(value, -60000, 60000)
            x = mb.relu(x=mb.linear(x=x, weight=value, name=name))
        return x

    return program


def not_finite(target: Any) -> Any:
    """A NaN in one weight, infinities in another, and a sound one."""
    w = Weights()
    nan, infinite = w(64, 64), w(64, 64)
    nan[3, 3] = np.nan
    infinite[4, 4], infinite[5, 5] = np.inf, -np.inf

    @mb.program(input_specs=[spec(3, 64)], opset_version=target)
    def program(x: Any) -> Any:
        x = mb.relu(x=mb.linear(x=x, weight=nan, name="nan"))
        x = mb.relu(x=mb.linear(x=x, weight=infinite, name="infinite"))
        return mb.linear(x=x, weight=w(64, 64), name="sound")

    return program


def stateful(target: Any) -> Any:
    """Reads and writes a state."""
    w = Weights()

    @mb.program(
        input_specs=[spec(3, 64, dtype=types.fp16), mb.StateTensorSpec((3, 64), types.fp16)],
        opset_version=target,
    )
    def program(x: Any, memory: Any) -> Any:
        old = mb.read_state(input=memory)
        x = mb.linear(x=x, weight=w(64, 64).astype(np.float16), name="mix")
        new = mb.coreml_update_state(state=memory, value=mb.add(x=old, y=x))
        return mb.linear(x=new, weight=w(96, 64).astype(np.float16), name="out")

    return program


Builder = Callable[[Any], Any]
PLAIN: list[tuple[Builder, str]] = [
    (convolutions, "15h 16f 16h 17h 18f 18h"),
    (conv1d, "16h 18h"),
    (matrices, "15f 16h 17h 18f 18h 26h"),
    (recurrent, "15f 17h 18h"),
    (nested, "16f 18h"),
    (classifier, "15h 18h"),
    (shared, "16h 18h"),
    (few_values, "16h 18h"),
    (extremes, "16f 16h 18h"),
    (not_finite, "16h 18f"),
    (stateful, "18h"),
]
TARGETS = {t.name.removeprefix("iOS"): t for t in ct.target if t.name.startswith("iOS")}


def convert(program: Any, target: Any, half: bool, **options: Any) -> Any:
    precision = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=precision,
        skip_model_load=True,
        **options,
    )


def make(builder: Builder, version: str, half: bool) -> Any:
    """Builds one plain model for an iOS version."""
    target = TARGETS[version]
    options: dict[str, Any] = {}
    if builder is classifier:
        options["classifier_config"] = ct.ClassifierConfig([f"class {i}" for i in range(20)])
    return convert(builder(target), target, half, **options)


def save(model: Any, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    model.save(str(path))


def make_pipeline(folder: Path) -> Path:
    """Two ML Programs, one behind the other."""
    w, target = Weights(), TARGETS["16"]

    @mb.program(input_specs=[spec(1, 64)], opset_version=target)
    def first(x: Any) -> Any:
        return mb.linear(x=x, weight=w(96, 64), name="middle")

    @mb.program(input_specs=[spec(1, 96)], opset_version=target)
    def second(middle: Any) -> Any:
        return mb.linear(x=middle, weight=w(64, 96), name="end")

    parts = []
    for half, program in ((False, first), (False, second)):
        parts.append(convert(program, target, half))
    path = folder / "pipeline.mlpackage"
    save(ct.utils.make_pipeline(*parts), path)
    return path


def trunk_and_head(trunk: Array, head: Array, target: Any) -> Any:
    @mb.program(input_specs=[spec(1, 64)], opset_version=target)
    def program(x: Any) -> Any:
        x = mb.relu(x=mb.linear(x=x, weight=trunk, name="trunk"))
        return mb.linear(x=x, weight=head, name="head")

    return program


def make_multifunction(folder: Path) -> Path:
    """Two functions that share one of their weights."""
    w, target = Weights(), TARGETS["18"]
    common = w(96, 64)
    description = ct.utils.MultiFunctionDescriptor()
    for name in ("small", "large"):
        own = w(32, 96) if name == "small" else w(256, 96)
        part = folder / f"part-{name}.mlpackage"
        save(convert(trunk_and_head(common, own, target), target, True), part)
        description.add_function(str(part), "main", name)
    description.default_function_name = "small"
    path = folder / "multifunction.mlpackage"
    shutil.rmtree(path, ignore_errors=True)
    ct.utils.save_multifunction(description, str(path))
    return path


def build(folder: Path) -> tuple[list[Entry], list[str]]:
    """Writes the plain models. Returns them, and what could not be made and why."""
    folder.mkdir(parents=True, exist_ok=True)
    entries, missing = [], []

    def attempt(name: str, tags: str, maker: Callable[[], Path]) -> None:
        try:
            entries.append(Entry(name, maker(), frozenset(tags.split())))
        except Exception as error:  # whatever coremltools raises
            missing.append(f"{name}: {type(error).__name__}: {error}")

    for builder, kinds in PLAIN:
        for kind in kinds.split():
            name = f"{builder.__name__}-ios{kind[:2]}-{'fp16' if kind[2] == 'h' else 'fp32'}"

            def maker(name: str = name, kind: str = kind, builder: Builder = builder) -> Path:
                path = folder / f"{name}.mlpackage"
                save(make(builder, kind[:2], kind[2] == "h"), path)
                return path

            attempt(name, builder.__name__, maker)
    attempt("pipeline", "pipeline", lambda: make_pipeline(folder))
    attempt("multifunction", "multifunction", lambda: make_multifunction(folder))
    return entries, missing


# Models that coremltools has compressed ----------------------------------------------------------


def config(op: Any) -> Any:
    return cto.OptimizationConfig(global_config=op)


def quantize(joint: bool = False, **options: Any) -> Callable[[Any], Any]:
    op = cto.OpLinearQuantizerConfig(**options)
    return lambda m: cto.linear_quantize_weights(m, config(op), joint_compression=joint)


def palettize(joint: bool = False, **options: Any) -> Callable[[Any], Any]:
    op = cto.OpPalettizerConfig(**({"mode": "kmeans", "nbits": 4} | options))
    return lambda m: cto.palettize_weights(m, config(op), joint_compression=joint)


def prune(**options: Any) -> Callable[[Any], Any]:
    op = cto.OpMagnitudePrunerConfig(**options)
    return lambda m: cto.prune_weights(m, config(op))


HALF = {"target_sparsity": 0.5}
GROUPS = {"granularity": "per_grouped_channel", "group_size": 16}
BLOCKS = {"granularity": "per_block", "block_size": 16}
TABLE = {"granularity": "per_tensor", "dtype": "int8"}
COMPRESSED: list[tuple[str, str, list[Callable[[Any], Any]]]] = [
    ("int8-symmetric", "16", [quantize()]),
    ("uint8-linear", "16", [quantize(mode="linear", dtype="uint8")]),
    ("int8-per-tensor", "16", [quantize(mode="linear", granularity="per_tensor")]),
    ("palette-1", "16", [palettize(nbits=1)]),
    ("palette-4", "16", [palettize()]),
    ("palette-6", "16", [palettize(nbits=6)]),
    ("palette-8-uniform", "16", [palettize(nbits=8, mode="uniform")]),
    ("sparse", "16", [prune(**HALF)]),
    ("sparse-2-4", "16", [prune(n_m_ratio=(2, 4))]),
    ("int8", "18", [quantize()]),
    ("int4-blocks", "18", [quantize(dtype="int4", **BLOCKS)]),
    ("uint4-blocks", "18", [quantize(dtype="uint4", mode="linear", **BLOCKS)]),
    ("palette-3", "18", [palettize(nbits=3)]),
    ("palette-4-groups", "18", [palettize(**GROUPS)]),
    ("palette-4-vectors", "18", [palettize(cluster_dim=2)]),
    ("palette-4-vectors-groups", "18", [palettize(nbits=3, cluster_dim=2, **GROUPS)]),
    ("palette-4-scaled", "18", [palettize(enable_per_channel_scale=True)]),
    ("palette-4-int8", "18", [palettize(), quantize(joint=True, **TABLE)]),
    ("palette-6-int8-groups", "18", [palettize(nbits=6, **GROUPS), quantize(joint=True, **TABLE)]),
    ("sparse", "18", [prune(**HALF)]),
    ("sparse-int8", "18", [prune(**HALF), quantize(joint=True)]),
    ("sparse-int4-blocks", "18", [prune(**HALF), quantize(joint=True, dtype="int4", **BLOCKS)]),
    ("sparse-uint8", "18", [prune(**HALF), quantize(joint=True, mode="linear", dtype="uint8")]),
    ("sparse-palette-4", "18", [prune(**HALF), palettize(joint=True)]),
    ("sparse-palette-3-groups", "18", [prune(**HALF), palettize(joint=True, nbits=3, **GROUPS)]),
    ("sparse-palette-4-vectors", "18", [prune(**HALF), palettize(joint=True, cluster_dim=2)]),
    ("palette-4-sparse-int8", "18",
     [prune(**HALF), palettize(joint=True), quantize(joint=True, **TABLE)]),
    ("palette-4-scaled", "26", [palettize(enable_per_channel_scale=True)]),
    ("palette-4-int8", "26", [palettize(), quantize(joint=True, **TABLE)]),
]  # fmt: skip


def build_compressed(folder: Path) -> tuple[list[Entry], list[str]]:
    """Writes models that coremltools compressed, in every form that it knows."""
    folder.mkdir(parents=True, exist_ok=True)
    entries, missing = [], []
    # For iOS 26 coremltools gets the ranks of scales wrong where a weight has more than two axes.
    builders = {"16": matrices, "18": matrices, "26": classifier}
    bases = {(v, half): make(b, v, half) for v, b in builders.items() for half in (False, True)}
    for name, version, steps in COMPRESSED:
        for half in (True, False):
            if version == "26" and not half:
                continue
            full = f"{name}-ios{version}-{'fp16' if half else 'fp32'}"
            try:
                model = bases[version, half]
                for step in steps:
                    model = step(model)
                save(model, folder / f"{full}.mlpackage")
            except Exception as error:  # whatever coremltools raises
                missing.append(f"{full}: {type(error).__name__}: {error}")
                continue
            entries.append(Entry(full, folder / f"{full}.mlpackage", frozenset({"compressed"})))
    return entries, missing
