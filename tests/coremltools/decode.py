"""Reads the constants of a Core ML package straight from its protobuf and weights file.

This is a second, independent reading of the format: it uses coremltools' generated protobuf
classes and nothing else of it, so that what it says can be held against both cmlc and
coremltools' own reader. Packages are only read; opening one through coremltools' MLModel would
rewrite its manifest.

    for use in Package(path).uses():
        print(use.key, use.form, use.decode().shape)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from coremltools.proto import MIL_pb2, Model_pb2

Array = np.ndarray


class FormatError(Exception):
    """The package breaks a rule of the format."""


class Kind(NamedTuple):
    """How the elements of one MIL data type lie in memory and on disk."""

    bits: int
    numpy: Any  # the type that holds one unpacked element
    blob: int  # number of the type in a weights file, 0 if it cannot lie there


_MIL = MIL_pb2.DataType
KINDS: dict[int, Kind] = {
    _MIL.BOOL: Kind(8, np.bool_, 0),
    _MIL.FLOAT16: Kind(16, np.float16, 1),
    _MIL.FLOAT32: Kind(32, np.float32, 2),
    _MIL.FLOAT64: Kind(64, np.float64, 0),
    _MIL.UINT8: Kind(8, np.uint8, 3),
    _MIL.INT8: Kind(8, np.int8, 4),
    _MIL.INT16: Kind(16, np.int16, 6),
    _MIL.UINT16: Kind(16, np.uint16, 7),
    _MIL.INT4: Kind(4, np.int8, 8),
    _MIL.UINT1: Kind(1, np.uint8, 9),
    _MIL.UINT2: Kind(2, np.uint8, 10),
    _MIL.UINT4: Kind(4, np.uint8, 11),
    _MIL.UINT3: Kind(3, np.uint8, 12),
    _MIL.UINT6: Kind(6, np.uint8, 13),
    _MIL.INT32: Kind(32, np.int32, 14),
    _MIL.UINT32: Kind(32, np.uint32, 15),
    _MIL.INT64: Kind(64, np.int64, 0),
    _MIL.UINT64: Kind(64, np.uint64, 0),
}


def unpack(raw: Array, bits: int, count: int) -> Array:
    """The first `count` codes of a stream of `bits`-bit codes, low bits first."""
    if bits == 8:
        return raw[:count]
    if bits in (1, 2, 4):
        per_byte = 8 // bits
        shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
        codes = (raw[:, None] >> shifts) & np.uint8((1 << bits) - 1)
        return codes.reshape(-1)[:count]
    stream = np.unpackbits(raw, bitorder="little")[: bits * count].reshape(count, bits)
    return (stream << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)


def elements(raw: Array, dtype: int, shape: tuple[int, ...]) -> Array:
    """A tensor from its packed bytes, checked for length and for zeros in the unused bits."""
    kind = KINDS[dtype]
    count = int(np.prod(shape, dtype=np.int64))
    need = (kind.bits * count + 7) // 8
    if raw.size != need:
        raise FormatError(f"{raw.size} bytes for {count} elements of {kind.bits} bits")
    if kind.bits >= 8:
        return raw.view(kind.numpy).reshape(shape)
    unused = 8 * need - kind.bits * count
    if unused and raw[-1] >> (8 - unused):
        raise FormatError(f"the {unused} unused bits of the last byte are not zero")
    codes = unpack(raw, kind.bits, count)
    if kind.numpy is np.int8:  # int4: two's complement in the low half
        codes = (codes ^ np.uint8(8)).astype(np.int8) - np.int8(8)
    return codes.reshape(shape)


_BLOB = np.dtype(
    [("sentinel", "<u4"), ("type", "<u4"), ("size", "<u8"), ("data", "<u8"), ("padding", "<u8")]
)


class WeightsFile:
    """A blob file of version 2, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes: Array = np.memmap(path, np.uint8, "r")
        if self.bytes.size < 64:
            raise FormatError(f"{path.name}: no room for a header")
        self.count, version = (int(v) for v in self.bytes[:8].view("<u4"))
        if version != 2:
            raise FormatError(f"{path.name}: version {version}, expected 2")
        self.used: set[int] = set()

    def record(self, offset: int) -> Any:
        """The metadata at `offset`, checked against the file."""
        if offset % 64 or offset + 64 > self.bytes.size:
            raise FormatError(f"{self.path.name}: no blob can be at {offset}")
        record = np.frombuffer(self.bytes[offset : offset + 64].tobytes(), _BLOB, 1)[0]
        if record["sentinel"] != 0xDEADBEEF:
            raise FormatError(f"{self.path.name}: no sentinel at {offset}")
        if record["data"] % 64 or record["data"] + record["size"] > self.bytes.size:
            raise FormatError(f"{self.path.name}: data of blob {offset} is outside the file")
        return record

    def tensor(self, offset: int, dtype: int, shape: tuple[int, ...]) -> Array:
        """The tensor whose metadata is at `offset`."""
        record, kind = self.record(offset), KINDS[dtype]
        if record["type"] != kind.blob:
            raise FormatError(f"blob {offset}: type {record['type']}, expected {kind.blob}")
        if kind.bits < 8:
            unused = -kind.bits * int(np.prod(shape, dtype=np.int64)) % 8
            if record["padding"] != unused:
                raise FormatError(f"blob {offset}: padding {record['padding']}, not {unused}")
        self.used.add(offset)
        start = int(record["data"])
        return elements(self.bytes[start : start + int(record["size"])], dtype, shape)

    def offsets(self) -> list[int]:
        """Where the blobs are, by walking from one to the next."""
        found, at = [], 64
        for _ in range(self.count):
            record = self.record(at)
            found.append(at)
            at = (int(record["data"]) + int(record["size"]) + 63) // 64 * 64
        return found


class Key(NamedTuple):
    """Says which constant of a package is meant, without using the constant's own name."""

    program: str  # position in a pipeline, "" outside of one
    function: str
    path: str  # operations and block numbers around a nested block
    consumer: str  # first output of the operation that reads it
    parameter: str
    position: int

    def __str__(self) -> str:
        parts = (self.program, self.function, self.path.rstrip("/"), self.consumer)
        where = "/".join(p for p in parts if p)
        return f"{where}.{self.parameter}" + (f"[{self.position}]" if self.position else "")


@dataclass
class Scope:
    """Names that operations of a block can see."""

    outer: Scope | None
    made_by: dict[str, tuple[Any, int]] = field(default_factory=dict)

    def find(self, name: str) -> tuple[Any, int] | None:
        """The operation that makes `name`, and which of its outputs it is."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.made_by:
                return scope.made_by[name]
            scope = scope.outer
        return None


def is_constant(op: Any) -> bool:
    return op.type == "const" or op.type.startswith("constexpr_")


def op_name(op: Any) -> str:
    """The name by which an operation is found again in another version of the model."""
    if op.outputs:
        return op.outputs[0].name
    return "".join(op.attributes["name"].immediateValue.tensor.strings.values) or op.type


@dataclass
class Use:
    """One place where an ordinary operation, or a block's output, reads a constant."""

    key: Key
    consumer_type: str
    op: Any | None  # what makes it; None for a literal
    output: int
    literal: Any | None
    scope: Scope
    package: Package

    @property
    def name(self) -> str:
        return self.op.outputs[self.output].name if self.op is not None else ""

    @property
    def form(self) -> str:
        """How it is stored: "const", or the constexpr operations, the last one first."""
        names: list[str] = []

        def add(op: Any) -> None:
            if op.type.startswith("constexpr_") and op.type not in names:
                names.append(op.type)
                for source in self.package.producers(op, self.scope):
                    add(source)

        if self.op is not None:
            add(self.op)
        return " <- ".join(n.removeprefix("constexpr_") for n in names) or "const"

    def decode(self) -> Any:
        """Its value: a tensor, or strings, numbers and lists of them."""
        if self.op is None:
            return self.package.value(self.literal)
        return self.package.outputs(self.op, self.scope)[self.output]

    def stored_bits(self) -> int:
        """Bits of everything that its value is computed from."""
        values: dict[bytes, Any] = {}

        def add(op: Any) -> None:
            for value in self.package.operand_values(op):
                values[value.SerializeToString(deterministic=True)] = value
            for source in self.package.producers(op, self.scope):
                add(source)

        if self.op is not None:
            add(self.op)
        return sum(bits_of(value) for value in values.values())


def tensor_shape(type_: Any) -> tuple[int, ...]:
    return tuple(int(d.constant.size) for d in type_.tensorType.dimensions)


def bits_of(value: Any) -> int:
    kind = KINDS.get(value.type.tensorType.dataType)
    return kind.bits * int(np.prod(tensor_shape(value.type), dtype=np.int64)) if kind else 0


class Package:
    """A package on disk: its specification and the constants of all its ML Programs."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        manifest = json.loads((self.path / "Manifest.json").read_text())
        items = manifest["itemInfoEntries"]
        for item in items.values():
            if not (self.path / "Data" / item["path"]).exists():
                raise FormatError(f"manifest names {item['path']}, which is not there")
        root = self.path / "Data" / items[manifest["rootModelIdentifier"]]["path"]
        self.spec = Model_pb2.Model()
        self.spec.ParseFromString(root.read_bytes())
        self.weights_dir = root.parent / "weights"
        self.files: dict[str, WeightsFile] = {}

    @property
    def version(self) -> int:
        return int(self.spec.specificationVersion)

    @property
    def size(self) -> int:
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())

    def programs(self) -> Iterator[tuple[str, Any]]:
        """Every model in the package that is an ML Program, with its place in the pipeline."""
        todo = [("", self.spec)]
        while todo:
            place, model = todo.pop(0)
            kind = model.WhichOneof("Type") or ""
            if kind == "mlProgram":
                yield place, model
            elif kind.startswith("pipeline"):
                inner = getattr(model, kind)
                inner = inner if kind == "pipeline" else inner.pipeline
                todo += [(f"{place}{i}:", member) for i, member in enumerate(inner.models)]

    def uses(self) -> Iterator[Use]:
        """Every use of every constant, nested blocks included."""
        for place, model in self.programs():
            for name, function in sorted(model.mlProgram.functions.items()):
                block = function.block_specializations[function.opset]
                yield from self._uses_in(block, Key(place, name, "", "", "", 0), None)

    def operations(self) -> Iterator[tuple[str, str]]:
        """Path and type of every ordinary operation, in order."""

        def visit(block: Any, path: str) -> Iterator[tuple[str, str]]:
            for op in block.operations:
                if not is_constant(op):
                    yield f"{path}/{op_name(op)}", op.type
                for i, inner in enumerate(op.blocks):
                    yield from visit(inner, f"{path}/{op_name(op)}.{i}")

        for place, model in self.programs():
            for name, function in sorted(model.mlProgram.functions.items()):
                yield from visit(function.block_specializations[function.opset], place + name)

    def _uses_in(self, block: Any, at: Key, outer: Scope | None) -> Iterator[Use]:
        scope = Scope(outer)
        for op in block.operations:
            for i, output in enumerate(op.outputs):
                scope.made_by[output.name] = (op, i)
            for i, inner in enumerate(op.blocks):
                path = f"{at.path}{op_name(op)}.{i}/"
                yield from self._uses_in(inner, at._replace(path=path), scope)
            if is_constant(op):
                continue
            for parameter, argument in sorted(op.inputs.items()):
                for i, binding in enumerate(argument.arguments):
                    key = at._replace(consumer=op_name(op), parameter=parameter, position=i)
                    yield from self._use(binding, key, op.type, scope)
        for i, name in enumerate(block.outputs):
            key = at._replace(consumer="<output>", parameter=str(i))
            binding = MIL_pb2.Argument.Binding(name=name)
            yield from self._use(binding, key, "output", scope)

    def _use(self, binding: Any, key: Key, consumer: str, scope: Scope) -> Iterator[Use]:
        if binding.WhichOneof("binding") == "value":
            yield Use(key, consumer, None, 0, binding.value, scope, self)
            return
        found = scope.find(binding.name)
        if found is not None and is_constant(found[0]):
            yield Use(key, consumer, found[0], found[1], None, scope, self)

    # Values ------------------------------------------------------------------------------------

    def weights_file(self, name: str) -> WeightsFile:
        """The weights file that a value calls `name`."""
        leaf = name.rsplit("/", 1)[-1]
        if leaf not in self.files:
            self.files[leaf] = WeightsFile(self.weights_dir / leaf)
        return self.files[leaf]

    def value(self, value: Any) -> Any:
        """The content of a Value message."""
        if value.WhichOneof("value") == "blobFileValue":
            where = value.blobFileValue
            return self.weights_file(where.fileName).tensor(
                where.offset, value.type.tensorType.dataType, tensor_shape(value.type)
            )
        immediate = value.immediateValue
        form = immediate.WhichOneof("value")
        if form == "tensor":
            return immediate_tensor(immediate.tensor, value.type)
        if form == "dictionary":
            pairs = immediate.dictionary.values
            return [(self.value(p.key), self.value(p.value)) for p in pairs]
        return [self.value(v) for v in getattr(immediate, form).values] if form else None

    def operand_values(self, op: Any) -> list[Any]:
        """The Value messages that an operation holds, its name excepted."""
        held = [v for k, v in op.attributes.items() if k != "name"]
        for argument in op.inputs.values():
            held += [b.value for b in argument.arguments if b.WhichOneof("binding") == "value"]
        return held

    def producers(self, op: Any, scope: Scope) -> list[Any]:
        """The operations that make an operation's named inputs."""
        names = [b.name for a in op.inputs.values() for b in a.arguments if b.name]
        return [found[0] for n in names if (found := scope.find(n)) is not None]

    def operands(self, op: Any, scope: Scope) -> dict[str, Any]:
        """The decoded operands of a constexpr operation, wherever it keeps them."""
        found = {k: self.value(v) for k, v in op.attributes.items() if k != "name"}
        for parameter, argument in op.inputs.items():
            (binding,) = argument.arguments
            if binding.WhichOneof("binding") == "value":
                found[parameter] = self.value(binding.value)
                continue
            source = scope.find(binding.name)
            if source is None or not is_constant(source[0]):
                raise FormatError(f"{op_name(op)}: {parameter} is not a constant")
            found[parameter] = self.outputs(source[0], scope)[source[1]]
        return found

    def outputs(self, op: Any, scope: Scope) -> list[Any]:
        """The values that a const or constexpr operation makes."""
        operands = self.operands(op, scope)
        if op.type == "const":
            made = [operands["val"]]
        else:
            rule = DECODERS.get(op.type)
            if rule is None:
                raise FormatError(f"{op_name(op)}: no decoder for {op.type}")
            made = rule(operands)
        for output, value in zip(op.outputs, made, strict=True):
            check_type(output, value)
        return made

    def unreferenced_blobs(self) -> list[str]:
        """Blobs that nothing read so far has asked for: call it after decoding all uses."""
        lost = []
        for path in sorted(self.weights_dir.glob("*.bin")):
            file = self.weights_file(path.name)
            lost += [f"{path.name}@{o}" for o in file.offsets() if o not in file.used]
        return lost


def check_type(output: Any, value: Any) -> None:
    """Raises unless a decoded value has the type that its operation declares."""
    declared = output.type
    if declared.WhichOneof("type") != "tensorType" or not isinstance(value, np.ndarray):
        return
    kind = KINDS.get(declared.tensorType.dataType)
    if kind is None:
        return
    if value.shape != tensor_shape(declared) or value.dtype != np.dtype(kind.numpy):
        want = f"{np.dtype(kind.numpy)} {tensor_shape(declared)}"
        raise FormatError(f"{output.name}: {value.dtype} {value.shape}, declared as {want}")


def immediate_tensor(tensor: Any, type_: Any) -> Any:
    """An immediate tensor; strings come as a list, or as one string if it is a scalar."""
    form = tensor.WhichOneof("value")
    shape, dtype = tensor_shape(type_), type_.tensorType.dataType
    payload = getattr(tensor, form).values if form else b""
    if form == "strings":
        return list(payload) if shape else payload[0]
    if form == "bytes":
        return elements(np.frombuffer(payload, np.uint8), dtype, shape)
    return np.array(list(payload), KINDS[dtype].numpy).reshape(shape)


# Decoders of the constexpr operations --------------------------------------------------------


def spread(blocks: Array, shape: tuple[int, ...]) -> Array:
    """Gives every element of a tensor of `shape` the value of its block."""
    for axis, size in enumerate(shape):
        have = blocks.shape[axis]
        if have not in (1, size):
            if size % have:
                raise FormatError(f"{have} blocks do not divide {size} along axis {axis}")
            blocks = np.repeat(blocks, size // have, axis)
    return np.broadcast_to(blocks, shape)


def shift_scale(data: Array, scale: Array, offset: Array | None) -> Array:
    """scale * (data - offset), rounded once to scale's type if data and offset are integers."""
    if data.dtype.kind == "f":
        moved = data if offset is None else (data - offset.astype(data.dtype))
        return (moved.astype(np.float64) * scale).astype(scale.dtype)
    moved = data.astype(np.float64) if offset is None else data - offset.astype(np.float64)
    return (moved * scale.astype(np.float64)).astype(scale.dtype)


def affine(p: dict[str, Any]) -> list[Array]:
    """iOS 16: scale and zero point are scalars, or vectors along one axis."""
    data = p["quantized_data"]
    along = [1] * data.ndim
    along[int(p["axis"])] = -1
    scale, zero = (np.asarray(p[k]).reshape(along) for k in ("scale", "zero_point"))
    return [shift_scale(data, scale, zero.astype(np.float64))]


def blockwise(p: dict[str, Any]) -> list[Array]:
    data, offset = p["data"], p.get("offset")
    wide = None if offset is None else spread(offset, data.shape)
    return [shift_scale(data, spread(p["scale"], data.shape), wide)]


def table_rows(indices: Array, lut: Array) -> Array:
    """The table entries, one vector for each index, as a new last axis."""
    groups, entries = lut.shape[:-2], lut.shape[-2]
    group = np.arange(int(np.prod(groups))).reshape(groups)
    flat = lut.reshape(-1, lut.shape[-1])
    at = spread(group, indices.shape) * entries
    return flat[at + indices]


def look_up(indices: Array, lut: Array, axis: Any) -> Array:
    """The dense tensor of an iOS 18 table."""
    rows = table_rows(indices, lut)
    if rows.shape[-1] == 1:
        return rows[..., 0]
    where = int(axis) % indices.ndim
    shape = list(indices.shape)
    shape[where] *= rows.shape[-1]
    return np.moveaxis(rows, -1, where + 1).reshape(shape)


def lut_to_dense(p: dict[str, Any]) -> list[Array]:
    indices, lut = p["indices"], p["lut"]
    if "shape" not in p:
        if lut.ndim != indices.ndim + 2:
            raise FormatError(f"table of rank {lut.ndim} for indices of rank {indices.ndim}")
        return [look_up(indices, lut, p.get("vector_axis", 0))]
    shape = tuple(int(n) for n in p["shape"])
    count, bits = int(np.prod(shape)), int(lut.size).bit_length() - 1
    if indices.size != (bits * count + 7) // 8:
        raise FormatError(f"{indices.size} bytes of indices for {count} of {bits} bits")
    return [lut[unpack(indices, bits, count)].reshape(shape)]


def fill(mask: Array, values: Array) -> Array:
    """Puts `values`, in order, where the mask is set, and zeros elsewhere."""
    dense = np.zeros(mask.shape, values.dtype)
    if int(np.count_nonzero(mask)) != values.size:
        raise FormatError(f"{values.size} values for {np.count_nonzero(mask)} places")
    dense[mask != 0] = values
    return dense


def sparse_to_dense(p: dict[str, Any]) -> list[Array]:
    mask = p["mask"]
    if "shape" in p:
        shape = tuple(int(n) for n in p["shape"])
        mask = unpack(mask, 1, int(np.prod(shape))).reshape(shape)
    return [fill(mask, p["nonzero_data"])]


def lut_to_sparse(p: dict[str, Any]) -> list[Array]:
    mask, lut, axis = p["indices_mask"], p["lut"], int(p.get("vector_axis", 0))
    dense = look_up(fill(mask, p["indices_nonzero_data"]), lut, axis)
    wide = np.repeat(mask, lut.shape[-1], axis) if lut.shape[-1] > 1 else mask
    return [wide, dense[wide != 0]]


def sparse_blockwise(p: dict[str, Any]) -> list[Array]:
    mask = p["data_mask"]
    here = {"data": fill(mask, p["nonzero_data"]), "scale": p["scale"]}
    (dense,) = blockwise(here | ({"offset": p["offset"]} if "offset" in p else {}))
    return [mask, dense[mask != 0]]


def cast(p: dict[str, Any]) -> list[Array]:
    return [p["source_val"].astype(np.float32)]


DECODERS: dict[str, Callable[[dict[str, Any]], list[Array]]] = {
    "constexpr_affine_dequantize": affine,
    "constexpr_blockwise_shift_scale": blockwise,
    "constexpr_cast": cast,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_lut_to_sparse": lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": sparse_blockwise,
    "constexpr_sparse_to_dense": sparse_to_dense,
}
