"""Reads the weights of NeuralNetwork models, and says which rules of their format a model breaks.

Weights lie in WeightParams messages: as fp32, as fp16, or as codes of 1 to 8 bits that are either
multiplied by a scale and added to a bias, or looked up in a table. What shape a weight has, and
which of its axes a scale runs along, follows from the layer that holds it, so slots(model) gives a
Slot for each weight with all that is known of it. broken_rules(model) holds a model against the
rules that Core ML's own validator enforces.

Nothing here is taken from coremltools but the message classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import quiet  # noqa: F401  (before coremltools)

# isort: split
import numpy as np
from coremltools.proto import Model_pb2

Array = np.ndarray
Model = Model_pb2.Model
NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")
STORAGES = {"floatValue": "fp32", "float16Value": "fp16", "rawValue": "codes",
            "int8RawValue": "int8"}  # fmt: skip


# Files and models -------------------------------------------------------------------------------


def spec_file(path: Path) -> Path:
    """The file of the model itself, which in a package the manifest names."""
    if not path.is_dir():
        return path
    manifest = json.loads((path / "Manifest.json").read_text())
    item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    return Path(path / "Data" / item["path"])


def read(path: Path) -> Model:
    model = Model()
    model.ParseFromString(spec_file(path).read_bytes())
    return model


def members(model: Model) -> list[Model]:
    """The models of a pipeline, of whichever kind; none if it is no pipeline."""
    kind = model.WhichOneof("Type")
    if kind not in PIPELINES:
        return []
    inside = getattr(model, kind)
    return list((inside if kind == "pipeline" else inside.pipeline).models)


def models(model: Model, path: str = "") -> Iterator[tuple[str, Model]]:
    """A model and all models in it."""
    yield path, model
    for i, member in enumerate(members(model)):
        yield from models(member, f"{path}models[{i}].")


def network(model: Model) -> Any:
    """The network that a model is; None if it is something else."""
    kind = model.WhichOneof("Type")
    return getattr(model, kind) if kind in NETWORKS else None


def kinds(model: Model) -> set[str]:
    """The kinds of all models in a model."""
    return {str(one.WhichOneof("Type")) for _, one in models(model)}


def repeated(descriptor: Any) -> bool:
    """Whether a field is repeated: older versions of protobuf have only labels, newer ones none."""
    known = getattr(descriptor, "is_repeated", None)
    return bool(descriptor.label == 3 if known is None else known)


def walk(message: Any) -> Iterator[Any]:
    """Every WeightParams below a message, whatever holds it."""
    for descriptor, value in message.ListFields():
        inside = descriptor.message_type
        if inside is None or inside.GetOptions().map_entry:
            continue
        for one in value if repeated(descriptor) else [value]:
            if inside.name == "WeightParams":
                yield one
            else:
                yield from walk(one)


# Weights ----------------------------------------------------------------------------------------


@dataclass
class Slot:
    """A weight of a layer."""

    path: str
    model: Model = field(repr=False)
    layer: Any = field(repr=False)
    kind: str
    name: str
    holder: Any = field(repr=False)  # the message with this weight and those that go with it
    weights: Any = field(repr=False)
    shape: tuple[int, ...] | None  # not known for the weights of some layers
    channels: int = 1  # so many scales may there be, or one
    axis: int = 0  # that scales run along
    codes: bool = True  # whether the format allows codes here
    half: bool = True  # whether it allows fp16
    groups: int = 1  # of a deconvolution

    def storages(self) -> list[str]:
        return [name for name in STORAGES if len(getattr(self.weights, name))]

    def storage(self) -> str:
        found = self.storages()
        return STORAGES[found[0]] if len(found) == 1 else "none" if not found else "several"

    def count(self) -> int:
        """Elements, as far as it can be told."""
        if self.shape is not None:
            return math.prod(self.shape)
        if len(self.weights.rawValue):
            return 8 * len(self.weights.rawValue) // max(1, self.weights.quantization.numberOfBits)
        return (len(self.weights.floatValue) or len(self.weights.float16Value) // 2
                or len(self.weights.int8RawValue))  # fmt: skip

    def values_are_float(self) -> bool:
        return self.storage() in ("fp32", "fp16")


@dataclass
class Decoded:
    """What a weight says: its values as fp32, and what it takes to say so."""

    values: Array
    form: str  # fp32, fp16, linear, table, int8
    bits: int
    stored_bits: int
    codes: Array | None = None


class Undecodable(Exception):
    """A weight whose message contradicts itself."""


Shape = tuple[tuple[int, ...], int]  # with the number of channels


def _volume(p: Any) -> tuple[int, ...]:
    groups = p.nGroups or 1
    kernel = (p.kernelDepth, p.kernelHeight, p.kernelWidth)
    if p.isDeconvolution:
        return (p.outputChannels // groups, p.inputChannels, *kernel)
    return (p.outputChannels, p.inputChannels // groups, *kernel)


def _by_first(shape: Any) -> Shape:
    """A shape of three axes has a scale for each channel, any other one for all."""
    shape = tuple(shape)
    return shape, shape[0] if len(shape) == 3 and shape[0] > 1 else 1


def _matrix(rows: int, columns: int) -> Shape:
    return (rows, columns), rows


def _recurrent(name: str, p: Any) -> Shape:
    x, h = p.inputVectorSize, p.outputVectorSize
    if name.lower().endswith("weightmatrix"):
        return _matrix(h, x)
    return _matrix(h, h) if name.lower().endswith("recursionmatrix") else ((h,), 1)


def _convolution(p: Any) -> tuple[int, ...]:
    size = list(p.kernelSize) + [3, 3][len(p.kernelSize) :]
    if p.isDeconvolution:
        return (p.kernelChannels, p.outputChannels // (p.nGroups or 1), *size)
    return (p.outputChannels, p.kernelChannels, *size)


# How a layer's parameters give the shapes of its weights; biases and other vectors are below.
SHAPES: dict[str, Callable[[str, Any], Shape]] = {
    "convolution": lambda name, p: (_convolution(p), p.outputChannels),
    "innerProduct": lambda name, p: _matrix(p.outputChannels, p.inputChannels),
    "embedding": lambda name, p: _matrix(p.outputChannels, p.inputDim),
    "batchnorm": lambda name, p: ((p.channels,), 1),
    "scale": lambda name, p: _by_first(p.shapeBias if name == "bias" else p.shapeScale),
    "bias": lambda name, p: _by_first(p.shape),
    "loadConstant": lambda name, p: _by_first(p.shape),
    "simpleRecurrent": _recurrent,
    "gru": _recurrent,
    "uniDirectionalLSTM": _recurrent,
    "biDirectionalLSTM": _recurrent,
    "embeddingND": lambda name, p: _matrix(p.embeddingSize, p.vocabSize),
    "batchedMatmul": lambda name, p: _matrix(p.weightMatrixSecondDimension,
                                             p.weightMatrixFirstDimension),
    "loadConstantND": lambda name, p: (tuple(p.shape), 1),
    "layerNormalization": lambda name, p: (tuple(p.normalizedShape), 1),
    "convolution3d": lambda name, p: (_volume(p), p.outputChannels),
}  # fmt: skip
# Those whose bias has an element for each output channel, and one scale.
BIASED = {"convolution", "innerProduct", "embedding", "embeddingND", "batchedMatmul",
          "convolution3d"}  # fmt: skip


def _outputs(kind: str, p: Any) -> int:
    if kind == "batchedMatmul":
        return int(p.weightMatrixSecondDimension)
    return int(p.embeddingSize if kind == "embeddingND" else p.outputChannels)


def _slot(path: str, model: Model, layer: Any, name: str, holder: Any, weights: Any) -> Slot:
    kind = layer.WhichOneof("layer")
    params = getattr(layer, kind)
    slot = Slot(f"{path}.{name}", model, layer, kind, name, holder, weights, None)
    if kind in BIASED and name == "bias":
        slot.shape = (_outputs(kind, params),)
    elif kind in SHAPES:
        slot.shape, slot.channels = SHAPES[kind](name, params)
    if kind == "convolution" and params.isDeconvolution and name == "weights":
        slot.axis, slot.groups = 1, params.nGroups or 1
    slot.codes = kind not in ("convolution3d", "layerNormalization", "custom", "activation")
    slot.half = kind not in ("layerNormalization", "custom")
    return slot


def _slots_in(net: Any, path: str, model: Model) -> Iterator[Slot]:
    for i, layer in enumerate(net.layers):
        here = f"{path}layers[{i}] {layer.name}"
        kind = layer.WhichOneof("layer")
        if kind is None:
            continue
        params = getattr(layer, kind)
        if kind == "branch":
            yield from _slots_in(params.ifBranch, f"{here}.if.", model)
            yield from _slots_in(params.elseBranch, f"{here}.else.", model)
            continue
        if kind == "loop":
            yield from _slots_in(params.conditionNetwork, f"{here}.condition.", model)
            yield from _slots_in(params.bodyNetwork, f"{here}.body.", model)
            continue
        holders = [(here, params)]
        if kind == "activation":
            which = params.WhichOneof("NonlinearityType")
            holders = [(here, getattr(params, which))] if which else []
        elif kind == "uniDirectionalLSTM":
            holders = [(here, params.weightParams)]
        elif kind == "biDirectionalLSTM":
            holders = [(f"{here}[{j}]", one) for j, one in enumerate(params.weightParams)]
        for at, holder in holders:
            for descriptor, value in holder.ListFields():
                if descriptor.message_type is None:
                    continue
                if descriptor.message_type.name != "WeightParams":
                    continue
                if kind == "custom":
                    for j, one in enumerate(value):
                        yield _slot(at, model, layer, f"weights[{j}]", holder, one)
                else:
                    yield _slot(at, model, layer, descriptor.name, holder, value)


def slots(model: Model) -> list[Slot]:
    """All weights of all networks in a model, in the order of the file."""
    found = []
    for path, one in models(model):
        if network(one) is not None:
            found += _slots_in(network(one), path, one)
    return found


def codes_of(raw: bytes, bits: int, count: int) -> Array:
    """Codes from a stream whose bytes are filled from the most significant bit down."""
    if 8 * len(raw) < bits * count:
        raise Undecodable(f"{len(raw)} bytes for {count} codes of {bits} bits")
    data = np.frombuffer(raw, np.uint8)
    if bits == 8:
        return data[:count].astype(np.int64)
    data = np.append(data, np.uint8(0)).astype(np.int64)
    at = np.arange(count, dtype=np.int64) * bits
    two = data[at >> 3] << 8 | data[np.minimum((at >> 3) + 1, len(data) - 1)]
    return (two >> (16 - bits - (at & 7))) & ((1 << bits) - 1)


def spread(slot: Slot, values: Array) -> Array:
    """Values for channels, in a shape that goes with the weight's."""
    if len(values) == 1:
        return values
    assert slot.shape is not None
    if slot.groups > 1 and len(values) == slot.shape[1] * slot.groups:
        # A row of the weight is an input channel, and belongs to one of the groups.
        rows = values.reshape(slot.groups, slot.shape[1])
        rows = np.repeat(rows, slot.shape[0] // slot.groups, axis=0)
        return rows.reshape(*slot.shape[:2], *[1] * (len(slot.shape) - 2))
    if len(values) != slot.shape[slot.axis]:
        raise Undecodable(f"{len(values)} scales for shape {slot.shape}")
    return values.reshape([-1 if i == slot.axis else 1 for i in range(len(slot.shape))])


def decode(slot: Slot, count: int | None = None) -> Decoded:
    """The values of a weight; of `count` elements where that cannot be told from the layer."""
    storage, weights = slot.storage(), slot.weights
    if storage == "fp32":
        values = np.array(weights.floatValue, np.float32)
        return Decoded(values, "fp32", 32, 32 * len(values))
    if storage == "fp16":
        values = np.frombuffer(weights.float16Value, "<f2").astype(np.float32)
        return Decoded(values, "fp16", 16, 16 * len(values))
    if storage not in ("codes", "int8"):
        raise Undecodable(f"{storage} of the storages is filled")
    quantization, count = weights.quantization, slot.count() if count is None else count
    bits = quantization.numberOfBits
    which = quantization.WhichOneof("QuantizationType")
    shape = slot.shape if slot.shape is not None else (count,)
    if not 1 <= bits <= 8 or which is None:
        raise Undecodable(f"{bits} bits, quantization {which}")
    if storage == "int8":
        codes = np.frombuffer(weights.int8RawValue, np.int8)[:count].astype(np.int64)
        stored = 8 * len(weights.int8RawValue)
    else:
        codes = codes_of(weights.rawValue, bits, count)
        stored = 8 * len(weights.rawValue)
    if which == "lookupTableQuantization":
        table = np.array(quantization.lookupTableQuantization.floatValue, np.float32)
        if len(table) != 1 << bits:
            raise Undecodable(f"table of {len(table)} entries for {bits} bits")
        return Decoded(table[codes], "table", bits, stored + 32 * len(table), codes)
    linear = quantization.linearQuantization
    scale, bias = np.array(linear.scale), np.array(linear.bias)
    if not len(scale) or len(bias) not in (0, len(scale)):
        raise Undecodable(f"{len(scale)} scales, {len(bias)} biases")
    with np.errstate(all="ignore"):
        values = codes.reshape(shape) * spread(slot, scale)
        if len(bias):
            values = values + spread(slot, bias)
        values = values.astype(np.float32).reshape(-1)
    stored += 32 * (len(scale) + len(bias))
    return Decoded(values, "int8" if storage == "int8" else "linear", bits, stored, codes)


# Rules ------------------------------------------------------------------------------------------


def _in_model(path: str, model: Model) -> Iterator[tuple[str, str, str]]:
    """(rule, where, what) for what is wrong with the frame of a model, weights aside."""
    version = model.specificationVersion
    if not 1 <= version <= 10:
        yield "1", path, f"specificationVersion is {version}"
    inside = members(model)
    newest = max((m.specificationVersion for m in inside), default=0)
    if version < newest:
        yield "version", path, f"version {version} around a member of version {newest}"
    if model.isUpdatable and version < 4:
        yield "13", path, f"updatable with version {version}"
    if inside:
        yield from _in_pipeline(path, model, inside)


def _in_pipeline(path: str, model: Model, inside: list[Model]) -> Iterator[tuple[str, str, str]]:
    known = {f.name: f.type for f in model.description.input}
    for i, member in enumerate(inside):
        for one in member.description.input:
            if one.name not in known:
                yield "17", path, f"nothing gives '{one.name}' to member {i}"
            elif known[one.name] != one.type:
                yield "17", path, f"'{one.name}' has another type for member {i}"
        known |= {f.name: f.type for f in member.description.output}
        if member.isUpdatable and (i + 1 < len(inside) or not model.isUpdatable):
            yield "17", path, f"member {i} is updatable"
    for one in model.description.output:
        if known.get(one.name) != one.type:
            yield "17", path, f"no member gives output '{one.name}' with its type"
    kind = model.WhichOneof("Type")
    frame = getattr(model, kind)
    names = list((frame if kind == "pipeline" else frame.pipeline).names)
    if names and (len(names) != len(inside) or len(set(names)) != len(names)):
        yield "17", path, f"names {names} of {len(inside)} members"


def _floor(slot: Slot) -> int:
    """The least version that can hold a weight of this storage."""
    storage = slot.storage()
    return {"fp16": 2, "codes": 3, "int8": 5}.get(storage, 1)


def _in_weight(slot: Slot) -> Iterator[tuple[str, str]]:
    """(rule, what) for what is wrong with one weight."""
    storages, storage, weights = slot.storages(), slot.storage(), slot.weights
    dynamic = getattr(getattr(slot.layer, slot.kind), "int8DynamicQuantize", False)
    if len(storages) != 1:
        yield "2", f"filled storages: {storages}"
        return
    if slot.model.specificationVersion < _floor(slot):
        yield "version", f"{storage} needs version {_floor(slot)}"
    count = slot.count()
    quantization = weights.quantization
    scales = len(quantization.linearQuantization.scale)
    biases = len(quantization.linearQuantization.bias)
    which = quantization.WhichOneof("QuantizationType")
    if storage == "fp32" and len(weights.floatValue) != count:
        yield "3", f"{len(weights.floatValue)} of {count} elements"
    if storage == "fp16" and len(weights.float16Value) != 2 * count:
        yield "3", f"{len(weights.float16Value)} bytes of fp16 for {count} elements"
    if storage == "codes":
        bits = quantization.numberOfBits
        if not weights.HasField("quantization") or not 1 <= bits <= 8 or which is None:
            yield "4", f"codes with {bits} bits, quantization {which}"
        elif len(weights.rawValue) < -(-bits * count // 8):
            yield "4", f"{len(weights.rawValue)} bytes for {count} codes of {bits} bits"
        if which == "linearQuantization" and scales not in (1, slot.channels):
            vector = slot.channels == 1
            rule = "12" if slot.groups > 1 else "8" if vector else "5"
            yield rule, f"{scales} scales for {slot.channels} channels"
        if which == "linearQuantization" and biases not in (0, scales):
            yield "5", f"{biases} biases for {scales} scales"
        table = len(quantization.lookupTableQuantization.floatValue)
        if which == "lookupTableQuantization" and table != 1 << bits:
            yield "6", f"table of {table} entries for {bits} bits"
        if slot.kind == "convolution3d":
            yield "9", "codes in convolution3d"
        if slot.groups > 1 and scales > 1:
            yield "12", f"{scales} scales in a grouped deconvolution"
        if slot.layer.isUpdatable or weights.isUpdatable:
            yield "13", "codes in an updatable layer"
        if slot.kind == "layerNormalization":
            yield "10", "codes in layerNormalization"
    if slot.kind == "layerNormalization" and storage == "fp16":
        yield "10", "fp16 in layerNormalization"
    if slot.layer.isUpdatable and slot.name in ("weights", "bias") and not weights.isUpdatable:
        yield "13", "not marked as updatable in a layer that is"
    if storage == "int8" and not dynamic and slot.kind != "custom":
        yield "11", "int8 in a layer that does not quantize its input"
    if dynamic and slot.name == "weights":
        if storage != "int8":
            yield "11", f"int8DynamicQuantize with {storage}"
        elif (quantization.numberOfBits, scales, biases) != (8, 1, 0):
            yield "11", f"{quantization.numberOfBits} bits, {scales} scales, {biases} biases"
        elif len(weights.int8RawValue) != count:
            yield "11", f"{len(weights.int8RawValue)} int8 values of {count}"


def _together(found: list[Slot]) -> Iterator[tuple[str, str, str]]:
    """Weights of one layer, or of one direction of it, may not mix fp16 and fp32."""
    holders: dict[int, list[Slot]] = {}
    for slot in found:
        holders.setdefault(id(slot.holder), []).append(slot)
    for group in holders.values():
        stored = {slot.storage() for slot in group}
        first = group[0]
        if first.kind == "custom":
            continue
        if {"fp16", "fp32"} <= stored:
            yield "7", first.path, "fp16 and fp32 in one layer"
        elif first.kind == "activation" and len(stored) > 1:
            yield "7", first.path, f"{sorted(stored)} in one activation"


def broken_rules(model: Model) -> dict[tuple[str, str], str]:
    """What is wrong with a model: by (rule, where), what it is.

    Rules: 1 version; 2 one storage; 3 element counts of fp32 and fp16; 4 codes: bits and bytes;
    5 scales and biases; 6 tables; 7 no mix of fp16 and fp32; 8 one scale for vectors; 9
    convolution3d takes no codes; 10 layerNormalization takes fp32 only; 11 int8; 12 grouped
    deconvolutions; 13 updatable layers; 17 pipelines; version: one that holds what is in there.
    """
    broken = {}
    for path, one in models(model):
        broken |= {(rule, where): what for rule, where, what in _in_model(path, one)}
    found = slots(model)  # kept: the messages of protobuf live as long as what refers to them
    for slot in found:
        broken |= {(rule, slot.path): what for rule, what in _in_weight(slot)}
    broken |= {(rule, where): what for rule, where, what in _together(found)}
    seen = sum(1 for path, one in models(model) if network(one) is not None
               for _ in walk(network(one)))  # fmt: skip
    if seen != len(found):
        broken[("2", "")] = f"{seen} weights, of which {len(found)} were understood"
    return broken


def skeleton(model: Model) -> bytes:
    """The model without weights, versions and ML Programs, unknown fields included."""
    copy = Model()
    copy.CopyFrom(model)
    for _, one in models(copy):
        one.specificationVersion = 0
        if one.WhichOneof("Type") == "mlProgram":
            one.mlProgram.Clear()
        if network(one) is None:
            continue
        for weights in list(walk(network(one))):
            updatable = weights.isUpdatable
            weights.Clear()
            if updatable:
                weights.isUpdatable = True
    return bytes(copy.SerializeToString(deterministic=True))
