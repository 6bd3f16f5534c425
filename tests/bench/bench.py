#!/usr/bin/env python3
"""Measures cmlc against `cp -r` and against coremltools, side by side, on packages made here.

    python3 tests/bench/bench.py --cmlc build/release/cmlc

Every round of a case runs `cp -r`, cmlc with one and with two threads, and coremltools where it is
installed and the package is small enough for it; the rounds are repeated and medians are shown.
See README.md beside this file for what is measured and how.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

# numpy is imported only where packages are made, in a process of its own: what this process holds
# when it starts another counts towards the peak memory that the system reports for that one.

MIB = 1 << 20
JUDGE = Path(__file__).resolve().parent.parent / "coremltools" / "check.py"


# Cases --------------------------------------------------------------------------------------------


# A compression by coremltools: takes its model, returns another.
Peer = Callable[[Any], Any]


def calls(*steps: tuple[str, str, dict[str, Any]]) -> Peer:
    """Calls of coremltools.optimize.coreml, one on the result of the other: (function, class of
    the configuration, its fields). An empty name of a class: a configuration that asks for
    nothing."""

    def run(model: Any) -> Any:
        import coremltools.optimize.coreml as cto

        for i, (function, config, fields) in enumerate(steps):
            chosen = getattr(cto, config)(**fields) if config else None
            whole = cto.OptimizationConfig(global_config=chosen)
            model = getattr(cto, function)(model, whole, joint_compression=i > 0)
        return model

    return run


@dataclass(frozen=True)
class Source:
    """A package that is made here."""

    net: str  # conv, transformer, narrow or llm
    megabytes: int
    dtype: str = "fp16"
    tails: str = "normal"  # or heavy
    spec: int = 7

    @property
    def file_name(self) -> str:
        return f"{self.net}-{self.megabytes}-{self.dtype}-{self.tails}-spec{self.spec}.mlpackage"


@dataclass(frozen=True)
class Case:
    """One package, and one command of cmlc with what coremltools does for the same."""

    name: str
    source: Source
    kind: str  # which targets it counts for: kmeans4, minmax, ...
    what: str
    command: tuple[str, ...]  # cmlc's, without input and output
    peer: Peer
    slow: bool = False  # coremltools needs so long that --peer-group-limit holds

    @property
    def megabytes(self) -> int:
        return self.source.megabytes

    def figures(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {"name": self.name, "source": asdict(self.source), "kind": self.kind,
                "what": self.what, "command": list(self.command)}  # fmt: skip


def palettize(
    name: str,
    net: str,
    megabytes: int,
    bits: int = 4,
    mode: str = "kmeans",
    group: int = 0,
    dtype: str = "fp16",
    tails: str = "normal",
) -> Case:
    """One LUT for each tensor, or for each `group` output channels."""
    command = ["palettize", "--nbits", str(bits), "--mode", mode]
    fields: dict[str, Any] = {"mode": mode, "nbits": bits}
    if group:
        command += ["--granularity", "per_grouped_channel", "--group-size", str(group)]
        fields |= {"granularity": "per_grouped_channel", "group_size": group}
    tables = f"one table per {group} channels" if group else "one table per tensor"
    kind = f"groups of {group}" if group else f"{mode} {bits} {dtype}"
    return Case(
        name,
        Source(net, megabytes, dtype, tails, 9 if group or bits == 3 else 7),
        kind,
        f"{mode}, {bits} bits, {tables}, {dtype}",
        tuple(command),
        calls(("palettize_weights", "OpPalettizerConfig", fields)),
        slow=group > 0,
    )


def others(net: str, megabytes: int) -> list[Case]:
    """The other commands, on one and the same package."""
    source = Source(net, megabytes, spec=9)

    def case(name: str, kind: str, what: str, command: str, peer: Peer) -> Case:
        words = tuple(command.split())
        return Case(f"{net}-{megabytes}-{name}", source, kind, what, words, peer)

    quantize, linear = "linear_quantize_weights", "OpLinearQuantizerConfig"
    channels = {"mode": "linear_symmetric", "dtype": "int8", "granularity": "per_channel"}
    blocks = channels | {"dtype": "int4", "granularity": "per_block", "block_size": 32}
    entries = channels | {"granularity": "per_tensor"}
    int8, int4 = "int8, one scale per channel", "int4, one scale per 32 inputs"
    four_bits = {"mode": "kmeans", "nbits": 4}
    rules = (("minmax", "", "least and greatest"), ("search", "-search", "search"))
    found = []
    for scales, ending, rule in rules:
        for short, what, command, fields in (
            ("int8", int8, "quantize --dtype int8 --granularity per_channel", channels),
            ("int4", int4, "quantize --dtype int4 --block-size 32", blocks),
        ):
            found.append(
                case(f"{short}{ending}", scales, f"{what}, {rule}", f"{command} --scales {scales}",
                     calls((quantize, linear, fields)))
            )  # fmt: skip
    found += [
        case("prune", "prune", "half of the values of each tensor to zero",
             "prune --target-sparsity 0.5",
             calls(("prune_weights", "OpMagnitudePrunerConfig", {"target_sparsity": 0.5}))),
        case("lut-int8", "lut-int8", "k-means, 4 bits, one table of int8 per tensor",
             "palettize --nbits 4 --lut-dtype int8",
             calls(("palettize_weights", "OpPalettizerConfig", four_bits),
                   (quantize, linear, entries))),
        # coremltools only copies the folder of a model that it has not changed; a call that has
        # nothing to do makes it read and write.
        case("null", "null", "read and write, nothing else", "null", calls((quantize, "", {}))),
    ]  # fmt: skip
    return found


SMALL = [
    palettize("conv-50", "conv", 50),
    palettize("conv-50-fp32", "conv", 50, dtype="fp32"),
    palettize("heavy-50-8bit", "transformer", 50, bits=8, tails="heavy"),
    palettize("heavy-50-groups", "transformer", 50, group=16, tails="heavy"),
    palettize("transformer-170", "transformer", 170),
    palettize("transformer-170-uniform", "transformer", 170, mode="uniform"),
    *others("transformer", 170),
    palettize("llm-1000", "llm", 1000),
    palettize("llm-1000-groups", "llm", 1000, group=16),
    *others("llm", 1000),
]
FULL = [
    *SMALL,
    palettize("transformer-170-groups", "transformer", 170, group=16),
    palettize("llm-1000-fp32", "llm", 1000, dtype="fp32"),
    palettize("llm-2000", "llm", 2000),
    palettize("heavy-2000-groups", "llm", 2000, group=16, tails="heavy"),
    palettize("llm-4000", "llm", 4000),
]


# A minimal protobuf writer, and the messages of an ML Program -------------------------------------


def varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def number(tag: int, n: int) -> bytes:
    return varint(tag << 3) + varint(n)


def message(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return varint(tag << 3 | 2) + varint(len(body)) + body


def text(tag: int, s: str) -> bytes:
    return message(tag, s.encode())


def entry(tag: int, key: str, value: bytes) -> bytes:
    """One entry of a map field."""
    return message(tag, text(1, key), message(2, value))


BOOL, STRING, FLOAT16, FLOAT32, INT32 = 1, 2, 10, 11, 23
ARRAY_TYPES = {FLOAT16: 65552, FLOAT32: 65568, INT32: 131104}  # the same, for a model's features
BLOB_TYPES = {"fp16": 1, "fp32": 2}
ITEM_SIZE = {"fp16": 2, "fp32": 4}


def tensor_type(dtype: int, shape: tuple[int, ...]) -> bytes:
    """A ValueType."""
    body = number(1, dtype)
    if shape:
        body += number(2, len(shape))
        body += b"".join(message(3, message(1, number(1, n))) for n in shape)
    return message(1, body)


def immediate(dtype: int, shape: tuple[int, ...], form: int, payload: bytes) -> bytes:
    """A Value that holds its elements; `form` is the field of TensorValue."""
    tensor = message(form, message(1, payload) if payload else b"")
    return message(2, tensor_type(dtype, shape)) + message(3, message(1, tensor))


def ints(*values: int) -> bytes:
    return immediate(INT32, (len(values),), 2, b"".join(map(varint, values)))


def scalar(value: int | bool | str) -> bytes:
    if isinstance(value, str):
        return immediate(STRING, (), 4, value.encode())
    dtype, form = (BOOL, 3) if isinstance(value, bool) else (INT32, 2)
    return immediate(dtype, (), form, varint(int(value)))


def blob(dtype: int, shape: tuple[int, ...], offset: int) -> bytes:
    """A Value that lies in the weights file."""
    where = text(1, "@model_path/weights/weight.bin") + number(2, offset)
    return message(2, tensor_type(dtype, shape)) + message(5, where)


def operation(
    kind: str,
    name: str,
    output: bytes,
    inputs: dict[str, str] | None = None,
    attributes: dict[str, bytes] | None = None,
) -> bytes:
    """An Operation, as a field of its Block; `output` is the ValueType of what it makes."""
    body = text(1, kind)
    for parameter, source in sorted((inputs or {}).items()):
        body += entry(2, parameter, message(1, text(1, source)))
    body += message(3, text(1, name), message(2, output))
    for key, value in sorted(({"name": scalar(name)} | (attributes or {})).items()):
        body += entry(5, key, value)
    return message(3, body)


# Networks -----------------------------------------------------------------------------------------


class Tensor(NamedTuple):
    """A constant in the weights file."""

    name: str
    shape: tuple[int, ...]
    offset: int  # of its metadata

    def count(self) -> int:
        return functools.reduce(lambda a, b: a * b, self.shape, 1)


class Writer:
    """Collects the operations of a program and lays out its weights file."""

    def __init__(self, source: Source) -> None:
        self.dtype = source.dtype
        self.float = FLOAT16 if source.dtype == "fp16" else FLOAT32
        self.spec = source.spec
        self.limit = source.megabytes * 10**6
        self.ops: list[bytes] = []
        self.tensors: list[Tensor] = []
        self.end = 64
        self.x = "x"
        self.shape: tuple[int, ...] = ()

    def full(self) -> bool:
        return self.end >= self.limit

    def weight(self, name: str, *shape: int) -> str:
        tensor = Tensor(name, shape, self.end)
        size = tensor.count() * ITEM_SIZE[self.dtype]
        self.tensors.append(tensor)
        self.end = (self.end + 64 + size + 63) // 64 * 64
        type_ = tensor_type(self.float, shape)
        value = blob(self.float, shape, tensor.offset)
        self.ops.append(operation("const", name, type_, attributes={"val": value}))
        return name

    def constant(self, name: str, value: bytes, dtype: int, *shape: int) -> str:
        type_ = tensor_type(dtype, shape)
        self.ops.append(operation("const", name, type_, attributes={"val": value}))
        return name

    def apply(self, kind: str, name: str, shape: tuple[int, ...], **inputs: str) -> None:
        """Puts an operation behind the last one."""
        self.ops.append(
            operation(kind, name, tensor_type(self.float, shape), {"x": self.x} | inputs)
        )
        self.x, self.shape = name, shape

    def linear(self, name: str, out: int) -> None:
        weight = self.weight(f"{name}_weight", out, self.shape[-1])
        bias = self.weight(f"{name}_bias", out)
        self.apply("linear", name, (*self.shape[:-1], out), weight=weight, bias=bias)

    def conv(self, name: str, out: int, kernel: int) -> None:
        weight = self.weight(f"{name}_weight", out, self.shape[1], kernel, kernel)
        bias = self.weight(f"{name}_bias", out)
        shape = (1, out, *self.shape[2:])
        shared = {p: p for p in ("strides", "pad_type", "pad", "dilations", "groups")}
        self.apply("conv", name, shape, weight=weight, bias=bias, **shared)


def conv_net(w: Writer) -> tuple[int, ...]:
    """Bottleneck blocks as in a residual network, without the residual connections."""
    w.shape = start = (1, 3, 8, 8)
    w.constant("strides", ints(1, 1), INT32, 2)
    w.constant("pad_type", scalar("same"), STRING)
    w.constant("pad", ints(0, 0, 0, 0), INT32, 4)
    w.constant("dilations", ints(1, 1), INT32, 2)
    w.constant("groups", scalar(1), INT32)
    w.conv("stem", 64, 7)
    scale = w.limit / 46e6 * 2 / ITEM_SIZE[w.dtype]  # 46 MB: a network of 50 layers in fp16
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for b in range(max(1, round(blocks * scale))):
            name = f"stage{stage}_block{b}"
            w.conv(f"{name}_reduce", width, 1)
            w.conv(f"{name}_conv", width, 3)
            w.conv(f"{name}_expand", 4 * width, 1)
    w.conv("head", 1000, 1)
    return start


def attention_and_mlp(w: Writer, name: str, inner: int) -> None:
    """The six matrices of a transformer block, one behind the other."""
    width = w.shape[-1]
    for part in ("query", "key", "value", "out"):
        w.linear(f"{name}_{part}", width)
    w.linear(f"{name}_up", inner)
    w.linear(f"{name}_down", width)


def transformer(w: Writer) -> tuple[int, ...]:
    """As wide as the base sizes of ViT and BERT."""
    w.shape = start = (1, 16, 768)
    block = 0
    while not w.full():
        attention_and_mlp(w, f"block{block}", 3072)
        block += 1
    w.linear("head", 1000)
    return start


def narrow(w: Writer) -> tuple[int, ...]:
    """The same at half the width, for tests."""
    w.shape = start = (1, 16, 384)
    block = 0
    while not w.full():
        attention_and_mlp(w, f"block{block}", 1536)
        block += 1
    w.linear("head", 1000)
    return start


def llm(w: Writer) -> tuple[int, ...]:
    """An embedding table that a gather reads, and wide blocks."""
    width, inner = (2048, 5504) if w.limit < 1500 * 10**6 else (4096, 11008)
    start = (1, 16)
    table = w.weight("embedding", 32000, width)
    inputs = {"indices": "x", "axis": w.constant("axis", scalar(0), INT32)}
    inputs["batch_dims"] = w.constant("batch_dims", scalar(0), INT32)
    if w.spec >= 8:
        inputs["validate_indices"] = w.constant("validate_indices", scalar(False), BOOL)
    w.x = table
    w.apply("gather", "rows", (*start, width), **inputs)
    block = 0
    while not w.full():
        attention_and_mlp(w, f"block{block}", inner)
        block += 1
    return start


NETS: dict[str, Callable[[Writer], tuple[int, ...]]] = {
    "conv": conv_net,
    "transformer": transformer,
    "narrow": narrow,
    "llm": llm,
}


def feature(name: str, dtype: int, shape: tuple[int, ...]) -> bytes:
    array = message(1, b"".join(map(varint, shape))) + number(2, ARRAY_TYPES[dtype])
    return text(1, name) + message(3, message(5, array))


def model_message(w: Writer, start: tuple[int, ...], input_type: int) -> bytes:
    """The Model message around a finished program."""
    opset = f"CoreML{w.spec - 1}"
    block = text(2, w.x) + b"".join(w.ops)
    function = message(1, text(1, "x"), message(2, tensor_type(input_type, start)))
    function += text(2, opset) + entry(3, opset, block)
    program = number(1, 1) + entry(2, "main", function)
    described = message(1, feature("x", input_type, start))
    described += message(10, feature(w.x, w.float, w.shape))
    return number(1, w.spec) + message(2, described) + message(502, program)


def manifest() -> str:
    items = {}
    for name, path, what in (
        ("model.mlmodel", "com.apple.CoreML/model.mlmodel", "CoreML Model Specification"),
        ("weights", "com.apple.CoreML/weights", "CoreML Model Weights"),
    ):
        key = str(uuid.uuid5(uuid.NAMESPACE_URL, path)).upper()
        author = "com.apple.CoreML"
        items[key] = {"author": author, "description": what, "name": name, "path": path}
    root = next(iter(items))
    content = {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": root}
    return json.dumps(content, indent=4, sort_keys=True) + "\n"


def make_package(source: Source, path: Path) -> None:
    """Writes a package; its weights are streamed, so memory stays small."""
    w = Writer(source)
    start = NETS[source.net](w)
    folder = path / "Data" / "com.apple.CoreML"
    (folder / "weights").mkdir(parents=True)
    (path / "Manifest.json").write_text(manifest())
    input_type = INT32 if source.net == "llm" else w.float
    (folder / "model.mlmodel").write_bytes(model_message(w, start, input_type))
    with (folder / "weights" / "weight.bin").open("wb") as file:
        write_weights(source, w.tensors, file)


def write_weights(source: Source, tensors: list[Tensor], file: BinaryIO) -> None:
    """Writes a blob file of version 2."""
    values = Values(source.tails)
    item = ITEM_SIZE[source.dtype]
    file.write(struct.pack("<II56x", len(tensors), 2))
    for number_, tensor in enumerate(tensors):
        file.write(bytes(tensor.offset - file.tell()))
        size, data = tensor.count() * item, tensor.offset + 64
        file.write(struct.pack("<IIQQQ32x", 0xDEADBEEF, BLOB_TYPES[source.dtype], size, data, 0))
        for rows in values.tensor(tensor.shape, number_):
            file.write(rows.astype(f"<f{item}"))


class Values:
    """Random weights, quickly: rows cut from a pool of random numbers, each scaled by its own."""

    POOL = 64 * MIB // 4
    PIECE = 1 << 22  # elements written at a time

    def __init__(self, tails: str) -> None:
        import numpy as np

        self.np, self.heavy = np, tails == "heavy"
        random = np.random.default_rng(1)
        pool = random.standard_normal(self.POOL, np.float32)
        if self.heavy:  # Student's t with 6 degrees of freedom
            pool *= np.sqrt(6 / (2 * random.standard_gamma(3, self.POOL, np.float32)))
        self.pool = pool

    def tensor(self, shape: tuple[int, ...], seed: int) -> Iterator[Any]:
        """The tensor in pieces of whole rows. No two tensors have equal pieces."""
        np = self.np
        random = np.random.default_rng((2, seed))
        rows, width = shape[0], max(1, functools.reduce(lambda a, b: a * b, shape[1:], 1))
        columns = np.full(width, 1 / max(16, width) ** 0.5, np.float32)
        if self.heavy:
            columns[random.random(width) < 0.005] *= 6
        step = max(1, min(rows, self.PIECE // width))
        for row in range(0, rows, step):
            count = min(step, rows - row)
            at = int(random.integers(0, self.POOL - count * width + 1))
            piece = self.pool[at : at + count * width].reshape(count, width)
            spread = 0.35 if self.heavy else 0.1
            scale = np.exp(spread * random.standard_normal((count, 1), np.float32))
            yield piece * scale * columns


# The peer -----------------------------------------------------------------------------------------


def run_peer(case: Case, source: Path, target: Path) -> None:
    """Compresses with coremltools, in this process."""
    sys.path.insert(0, str(JUDGE.parent))
    import quiet  # noqa: F401  (before coremltools)

    # isort: split
    import coremltools as ct

    model = ct.models.MLModel(str(source), skip_model_load=True)
    case.peer(model).save(str(target))


# Measuring ----------------------------------------------------------------------------------------


@dataclass
class Sample:
    """What one run of a program took."""

    cpu: float  # seconds, user and system
    wall: float
    peak: float  # MiB, with mapped files
    anonymous: float  # MiB, without them; 0 where the system does not tell
    output: str = field(default="", repr=False)


class MemoryWatch(threading.Thread):
    """Looks again and again at how much memory of its own a process holds (Linux)."""

    INTERVAL = 0.02

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.path, self.done, self.peak = Path(f"/proc/{pid}/status"), threading.Event(), 0

    def run(self) -> None:
        pause = 0.002  # shorter at first, for runs that are short
        while self.path.parent.parent.exists() and not self.done.wait(pause):
            try:
                lines = self.path.read_text().splitlines()
            except OSError:
                return
            own = sum(int(s.split()[1]) for s in lines if s.startswith(("RssAnon", "RssShmem")))
            self.peak = max(self.peak, own)
            pause = min(self.INTERVAL, pause * 1.2)


def run_measured(argv: list[str]) -> Sample:
    """Runs a program to its end; raises if it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        actions = [(os.POSIX_SPAWN_DUP2, f.fileno(), to) for f, to in ((out, 1), (err, 2))]
        begin = time.perf_counter()
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
        watch = MemoryWatch(pid)
        watch.start()
        _, status, usage = os.wait4(pid, 0)
        wall = time.perf_counter() - begin
        watch.done.set()
        watch.join()
        out.seek(0)
        err.seek(0)
        if os.waitstatus_to_exitcode(status) != 0:
            tail = err.read().decode(errors="replace")[-500:]
            code = os.waitstatus_to_exitcode(status)
            raise RuntimeError(f"{' '.join(argv[:3])} ...: exit status {code}: {tail}")
        unit = 1 if sys.platform == "darwin" else 1024
        cpu = usage.ru_utime + usage.ru_stime
        peak, own = usage.ru_maxrss * unit / MIB, watch.peak / 1024
        return Sample(cpu, wall, peak, own, out.read().decode(errors="replace"))


def medians(samples: list[Sample]) -> Sample:
    """Medians of the times, largest of the memory figures."""
    return Sample(
        statistics.median(s.cpu for s in samples),
        statistics.median(s.wall for s in samples),
        max(s.peak for s in samples),
        max(s.anonymous for s in samples),
    )


def read_through(path: Path) -> None:
    """Brings a package into the page cache."""
    buffer = bytearray(4 * MIB)
    for file in path.rglob("*"):
        if file.is_file():
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass


def size_of(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def remove(path: Path) -> None:
    """Deletes an output and waits until the disk is quiet; none of it is timed."""
    shutil.rmtree(path, ignore_errors=True)
    if hasattr(os, "sync"):
        os.sync()


# One case -----------------------------------------------------------------------------------------


@dataclass
class Result:
    case: Case
    input_bytes: int
    output_bytes: dict[str, int] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)  # medians
    cpu_seconds: dict[str, list[float]] = field(default_factory=dict)  # of every round
    snr: dict[str, float] = field(default_factory=dict)  # lowest of all weights, dB
    snr_gain: float | None = None  # lowest of cmlc's minus coremltools', dB
    weights: int = 0
    remarks: list[str] = field(default_factory=list)

    def ratio(self, what: str, a: str, b: str) -> float | None:
        """samples[a].what / samples[b].what."""
        if a not in self.samples or b not in self.samples:
            return None
        below = getattr(self.samples[b], what)
        return getattr(self.samples[a], what) / below if below else None


CP, ONE, TWO, PEER = "cp -r", "cmlc, 1 thread", "cmlc, 2 threads", "coremltools"


class Bench:
    """Runs cases in a work folder."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.peer = importlib.util.find_spec("coremltools") is not None

    def wants_peer(self, case: Case) -> bool:
        limit = self.args.peer_limit
        if case.slow:
            limit = min(limit, self.args.peer_group_limit)
        return self.peer and case.megabytes <= limit

    def package(self, case: Case) -> Path:
        """The input of a case, made if the case before had another."""
        path = self.folder / "input" / case.source.file_name
        if not path.exists():
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir()
            source = json.dumps(asdict(case.source))
            subprocess.run([*myself("--make", source), str(path)], check=True)
        return path

    def commands(self, case: Case, source: Path) -> dict[str, list[str]]:
        """What to run, by name; the output of each goes to output(name)."""
        compress = [self.args.cmlc, case.command[0], str(source), *case.command[1:]]
        copy = str(source)
        found = {CP: ["cp", "-r", copy, str(self.output(CP))]}
        for name, threads in ((ONE, "1"), (TWO, "2")):
            out = str(self.output(name))
            found[name] = [*compress, "-o", out, "--threads", threads, "--json", "-q"]
        if self.wants_peer(case):
            # It rewrites the manifest of what it opens, with the same content.
            found[PEER] = [*myself("--peer", case.name), str(source), str(self.output(PEER))]
        return found

    def output(self, name: str) -> Path:
        return self.folder / f"out-{name.replace(' ', '').replace(',', '-')}.mlpackage"

    def run(self, case: Case) -> Result:
        """All rounds of one case."""
        source = self.package(case)
        result = Result(case, size_of(source))
        samples: dict[str, list[Sample]] = {}
        read_through(source)
        commands = self.commands(case, source)
        for round_ in range(-1, self.args.runs):  # round -1 warms up and is not counted
            for name, argv in commands.items():
                if name == PEER and not 0 <= round_ < self.args.peer_runs:
                    continue
                remove(self.output(name))
                sample = run_measured(argv)
                if round_ >= 0:
                    samples.setdefault(name, []).append(sample)
                    result.output_bytes[name] = size_of(self.output(name))
        result.samples = {name: medians(runs) for name, runs in samples.items()}
        result.cpu_seconds = {name: [s.cpu for s in runs] for name, runs in samples.items()}
        self.read_report(result, samples[ONE][-1].output)
        self.compare(result, source)
        for name in commands:
            remove(self.output(name))
        return result

    def read_report(self, result: Result, output: str) -> None:
        """What cmlc says itself about the weights."""
        weights = [w for w in json.loads(output)["weights"] if w["status"] == "done"]
        result.weights = len(weights)
        known = [float(w["snr_db"]) for w in weights if w.get("snr_db") is not None]
        if known:
            result.snr["cmlc's report"] = min(known)

    def compare(self, result: Result, source: Path) -> None:
        """Decodes both outputs, where there are two, and compares them weight by weight."""
        if not self.peer or result.case.megabytes > self.args.peer_limit:
            return
        mine = self.decoded(result, source, ONE)
        if PEER not in result.samples:
            return
        theirs = self.decoded(result, source, PEER)
        both = mine.keys() & theirs.keys()
        if result.case.kind == "prune":
            # With numpy 2.0 to 2.2 it gives large fp16 tensors a mask and prunes nothing.
            same = {k for k in both if theirs[k] == float("inf")}
            if same:
                result.remarks.append(f"the peer kept all values of {len(same)} weights")
            both -= same
        if both:
            result.snr_gain = min(mine[k] - theirs[k] for k in both)
        if mine.keys() != theirs.keys():
            result.remarks.append(f"cmlc compressed {len(mine)} weights, the peer {len(theirs)}")

    def decoded(self, result: Result, source: Path, name: str) -> dict[str, float]:
        call = [sys.executable, str(JUDGE), str(source), str(self.output(name)), "--json"]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout)[-300:].strip()
            result.remarks.append(f"{name}: check.py: {said}")
        if done.returncode == 2:
            return {}
        snr = {w["key"]: float(w["snr_db"]) for w in json.loads(done.stdout)["weights"]}
        if snr:
            result.snr[name] = min(snr.values())
        return snr


def myself(mode: str, what: str) -> list[str]:
    """The start of a command line that does one job in a process of its own."""
    return [sys.executable, str(Path(__file__).resolve()), mode, what]


# Report -------------------------------------------------------------------------------------------


def show(result: Result) -> None:
    """Prints the table of one case."""
    case = result.case
    size = result.input_bytes / 1e6
    print(f"\n{case.name}: {case.what}, {size:.0f} MB, {result.weights} weights compressed")
    print(f"  {'':18}{'CPU s':>9}{'wall s':>9}{'peak MiB':>10}{'own MiB':>9}{'MB out':>9}")
    for name, s in result.samples.items():
        out = result.output_bytes[name] / 1e6
        print(f"  {name:18}{s.cpu:9.3f}{s.wall:9.3f}{s.peak:10.1f}{s.anonymous:9.1f}{out:9.1f}")
    lines = [
        ("CPU, cmlc : cp", result.ratio("cpu", ONE, CP)),
        ("CPU, coremltools : cmlc", result.ratio("cpu", PEER, ONE)),
        ("wall, coremltools : cmlc with 2 threads", result.ratio("wall", PEER, TWO)),
        ("wall, 1 thread : 2 threads", result.ratio("wall", ONE, TWO)),
        ("peak memory, coremltools : cmlc", result.ratio("peak", PEER, TWO)),
    ]
    for label, value in lines:
        if value is not None:
            print(f"  {label:42}{value:8.2f}")
    rate = result.input_bytes / result.samples[ONE].wall / 1e9
    print(f"  {'GB of weights per second, 1 thread':42}{rate:8.2f}")
    for name, value in result.snr.items():
        print(f"  {'lowest SNR of a weight, ' + name:42}{value:8.2f} dB")
    if result.snr_gain is not None:
        print(f"  {'lowest SNR difference to coremltools':42}{result.snr_gain:+8.3f} dB")
    for remark in result.remarks:
        print(f"  note: {remark}")


@dataclass
class Target:
    """A goal for all cases that it applies to; the worst of them counts."""

    text: str
    bound: float
    at_least: bool
    figure: Callable[[Result], float | None]

    def judge(self, results: list[Result]) -> dict[str, Any]:
        found = [(v, r.case.name) for r in results if (v := self.figure(r)) is not None]
        if not found:
            return {"target": self.text, "verdict": "not measured"}
        value, name = min(found) if self.at_least else max(found)
        met = value >= self.bound if self.at_least else value <= self.bound
        verdict = "met" if met else "missed"
        return {"target": self.text, "verdict": verdict, "figure": value, "case": name}


def computes(r: Result) -> bool:
    """Whether cmlc with one thread is busy all the time, and long enough to tell."""
    s = r.samples[ONE]
    return s.wall >= 0.3 and s.cpu >= 0.9 * s.wall


def peer_ratio(r: Result, kinds: tuple[str, ...]) -> float | None:
    """CPU time of coremltools : cmlc with one thread, at 170 MB."""
    if r.case.kind not in kinds or r.case.megabytes != 170:
        return None
    return r.ratio("cpu", PEER, ONE)


def copy_ratio(r: Result, kinds: tuple[str, ...]) -> float | None:
    """CPU time of cmlc with one thread : cp, at 1 GB and more."""
    if r.case.kind not in kinds or r.case.megabytes < 1000:
        return None
    return r.ratio("cpu", ONE, CP)


def largest_own(r: Result) -> float | None:
    found = [r.samples[name].anonymous for name in (ONE, TWO)]
    return max(found) if all(found) else None


def faster(text: str, bound: float, *kinds: str) -> Target:
    full = f"{text}, 170 MB: coremltools' CPU time >= {bound:g} x cmlc's"
    return Target(full, bound, True, lambda r: peer_ratio(r, kinds))


def near_copy(text: str, bound: float, *kinds: str) -> Target:
    full = f"{text}, 1 GB and more: CPU time <= {bound:g} x that of cp, one thread"
    return Target(full, bound, False, lambda r: copy_ratio(r, kinds))


KMEANS = "kmeans 4 fp16"
TARGETS = [
    faster("k-means, 4 bits, per tensor", 100, KMEANS),
    faster("int8 and int4, least and greatest", 50, "minmax"),
    faster("int8 and int4, search", 10, "search"),
    faster("pruning", 50, "prune"),
    faster("k-means, 4 bits, LUT of int8", 50, "lut-int8"),
    faster("reading and writing", 20, "null"),
    near_copy("k-means, 4 bits, per tensor", 2, KMEANS),
    near_copy("int8, int4 by least and greatest, pruning", 3, "minmax", "prune"),
    Target(
        "groups of 16 channels: coremltools' CPU time >= 20 x cmlc's",
        20,
        True,
        lambda r: r.ratio("cpu", PEER, ONE) if r.case.kind == "groups of 16" else None,
    ),
    Target(
        "where cmlc computes: two threads >= 1.6 x as fast as one",
        1.6,
        True,
        lambda r: r.ratio("wall", ONE, TWO) if computes(r) else None,
    ),
    Target("memory of its own < 200 MiB at every size", 200, False, largest_own),
    Target(
        "no weight with a lower SNR than coremltools' (0.001 dB allowed)",
        -0.001,
        True,
        lambda r: r.snr_gain,
    ),
]


def show_targets(results: list[Result]) -> list[dict[str, Any]]:
    print("\ntargets")
    verdicts = [t.judge(results) for t in TARGETS]
    for v in verdicts:
        figure = f"  {v['figure']:.3g} ({v['case']})" if "figure" in v else ""
        print(f"  {v['verdict']:13}{v['target']}{figure}")
    return verdicts


# Command line -------------------------------------------------------------------------------------


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cmlc", default="build/release/cmlc", help="the program to measure")
    parser.add_argument("--sizes", choices=("small", "full"), default="small")
    parser.add_argument("--cases", default="",
                        help="only these cases, a,b: names, or what is in the names of several")
    parser.add_argument("--runs", type=int, default=5, help="rounds per case")
    parser.add_argument("--peer-runs", type=int, default=1, help="rounds with coremltools")
    parser.add_argument("--peer-limit", type=int, default=200, metavar="MB")
    parser.add_argument("--peer-group-limit", type=int, default=60, metavar="MB")
    parser.add_argument("--work-dir", type=Path, help="where packages are made; needs free space")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args(argv)


def chosen(args: argparse.Namespace) -> list[Case]:
    cases = SMALL if args.sizes == "small" else FULL
    parts = [p for p in args.cases.split(",") if p]
    names = {c.name for c in cases}
    return [c for c in cases
            if not parts or any(p == c.name or (p not in names and p in c.name) for p in parts)]  # fmt: skip


def run_all(args: argparse.Namespace, folder: Path) -> tuple[list[Result], int]:
    """Runs the chosen cases; returns their results and how many failed."""
    bench, results, failed = Bench(args, folder), [], 0
    if not bench.peer:
        print("coremltools is not installed for this Python: compared with cp only")
    for case in chosen(args):
        need = 4 * case.megabytes * 10**6
        if shutil.disk_usage(folder).free < need:
            print(f"\n{case.name}: left out, needs {need / 1e9:.1f} GB of free space in {folder}")
            continue
        try:
            results.append(bench.run(case))
            show(results[-1])
        except (RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            failed += 1
            print(f"\n{case.name}: FAILED: {type(error).__name__}: {error}")
        sys.stdout.flush()
    return results, failed


def main(argv: list[str]) -> int:
    if argv[:1] == ["--make"]:
        make_package(Source(**json.loads(argv[1])), Path(argv[2]))
        return 0
    if argv[:1] == ["--peer"]:
        (case,) = (c for c in FULL if c.name == argv[1])
        run_peer(case, Path(argv[2]), Path(argv[3]))
        return 0
    args = parse(argv)
    program = shutil.which(args.cmlc)
    if program is None:
        print(f"error: {args.cmlc}: not a program", file=sys.stderr)
        return 2
    args.cmlc = str(Path(program).resolve())
    print(f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}")
    with tempfile.TemporaryDirectory(prefix="cmlc-bench-", dir=args.work_dir) as name:
        results, failed = run_all(args, Path(name))
    verdicts = show_targets(results)
    if args.json:
        rows = [asdict(r) | {"case": r.case.figures()} for r in results]
        args.json.write_text(json.dumps({"results": rows, "targets": verdicts}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
