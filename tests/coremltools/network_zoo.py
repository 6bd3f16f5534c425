"""Small NeuralNetwork models that between them hold every layer with weights, in every storage.

build(folder) writes them as .mlmodel files, and some as packages, and returns what it wrote.
Weights are random with a fixed seed, so that the same files come out every time, packages except
for their identifiers.

    python3 network_zoo.py FOLDER
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import quiet  # noqa: F401  (before coremltools)

# isort: split
import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813  (its usual name)
from coremltools.models.tree_ensemble import TreeEnsembleRegressor
from coremltools.proto import FeatureTypes_pb2, Model_pb2
from network_decode import repeated, walk
from zoo import Entry, Weights, spec

Array = np.ndarray
Model = Model_pb2.Model
FLOAT32, INT32 = (getattr(FeatureTypes_pb2.ArrayFeatureType, n) for n in ("FLOAT32", "INT32"))


# Stored weights ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Codes:
    """Quantized weights: `values` are unsigned codes of `bits` bits, of a table or linear ones."""

    values: Array
    bits: int
    table: Array | None = None
    scale: Array | None = None
    bias: Array | None = None
    extra: int = 0  # bytes behind the codes, which readers put up with

    def write(self, to: Any) -> None:
        stream = (self.values.reshape(-1, 1) >> np.arange(self.bits)[::-1]) & 1
        to.rawValue = np.packbits(stream.astype(np.uint8)).tobytes() + b"\xa5" * self.extra
        to.quantization.numberOfBits = self.bits
        if self.table is not None:
            to.quantization.lookupTableQuantization.floatValue.extend(self.table)
        else:
            to.quantization.linearQuantization.scale.extend(self.scale)
            if self.bias is not None:
                to.quantization.linearQuantization.bias.extend(self.bias)


@dataclass(frozen=True)
class Signed:
    """int8 codes with one scale, of layers that quantize their inputs while they run."""

    values: Array
    scale: float

    def write(self, to: Any) -> None:
        to.int8RawValue = self.values.astype(np.int8).tobytes()
        to.quantization.numberOfBits = 8
        to.quantization.linearQuantization.scale.append(self.scale)


def fill(message: Any, settings: dict[str, Any]) -> Any:
    """Sets fields of a message: arrays are weights (float32 or float16), dicts are messages."""
    message.SetInParent()
    for name, value in settings.items():
        target = getattr(message, name) if not np.isscalar(value) else None
        if isinstance(value, (Codes, Signed)):
            value.write(target)
        elif isinstance(value, np.ndarray):
            if value.dtype == np.float16:
                target.float16Value = value.tobytes()
            else:
                target.floatValue.extend(value.reshape(-1).astype(np.float32))
        elif isinstance(value, dict):
            fill(target, value)
        elif isinstance(value, (list, tuple)):
            for one in value:
                if isinstance(one, dict):
                    fill(target.add(), one)
                elif isinstance(one, np.ndarray):
                    target.add().floatValue.extend(one.reshape(-1))
                else:
                    target.append(one)
        else:
            setattr(message, name, value)
    return message


# Models -----------------------------------------------------------------------------------------


def feature(to: Any, name: str, kind: Any) -> None:
    """Describes an input or output: a shape of floats, or the name of a type."""
    to.name = name
    if isinstance(kind, str):
        getattr(to.type, kind).SetInParent()
        if kind == "dictionaryType":
            to.type.dictionaryType.stringKeyType.SetInParent()
    else:
        to.type.multiArrayType.dataType = FLOAT32
        to.type.multiArrayType.shape.extend(kind)


Features = dict[str, Any]


class Net:
    """A NeuralNetwork in the making."""

    def __init__(self, inputs: Features, outputs: Features, version: int = 1,
                 kind: str = "neuralNetwork") -> None:  # fmt: skip
        self.model = Model(specificationVersion=version)
        description = self.model.description
        for name, what in inputs.items():
            feature(description.input.add(), name, what)
        for name, what in outputs.items():
            feature(description.output.add(), name, what)
        description.metadata.shortDescription = "a model to test with"
        description.metadata.userDefined["seed"] = "none"
        self.net = getattr(self.model, kind)
        self.net.SetInParent()
        if version >= 4:
            self.net.arrayInputShapeMapping = 1  # exact, not rank 5

    def layer(self, kind: str, inputs: str, outputs: str, **settings: Any) -> Any:
        """Appends a layer of the names of its inputs and outputs; gives the layer."""
        return add_layer(self.net, kind, inputs, outputs, **settings)


def add_layer(net: Any, kind: str, inputs: str, outputs: str, **settings: Any) -> Any:
    layer = net.layers.add()
    layer.name = f"{kind}_{len(net.layers)}"
    layer.input.extend(inputs.split())
    layer.output.extend(outputs.split())
    fill(getattr(layer, kind), settings)
    return layer


def convolution(weights: Any, bias: Any = None, groups: int = 1, **settings: Any) -> dict[str, Any]:
    """Settings of a convolution with weights [out, in/groups, kh, kw]."""
    shape = weights.values.shape if isinstance(weights, Codes) else weights.shape
    found = {"outputChannels": shape[0], "kernelChannels": shape[1], "nGroups": groups,
             "kernelSize": list(shape[2:]), "valid": {}, "weights": weights}  # fmt: skip
    return found | ({} if bias is None else {"hasBias": True, "bias": bias}) | settings


def deconvolution(weights: Any, bias: Any = None, groups: int = 1) -> dict[str, Any]:
    """Settings of a deconvolution with weights [in, out/groups, kh, kw]."""
    shape = weights.values.shape if isinstance(weights, Codes) else weights.shape
    found = convolution(weights, bias, groups, isDeconvolution=True, stride=[2, 2])
    return found | {"kernelChannels": shape[0], "outputChannels": shape[1] * groups}


def dense(weights: Any, bias: Any = None) -> dict[str, Any]:
    """Settings of an inner product with weights [out, in]."""
    shape = (weights.values if isinstance(weights, (Codes, Signed)) else weights).shape
    found = {"inputChannels": shape[1], "outputChannels": shape[0], "weights": weights}
    return found | ({} if bias is None else {"hasBias": True, "bias": bias})


def one_dense(weights: Any, bias: Any = None, version: int = 1) -> Model:
    """A model of one inner product."""
    return dense_chain([(weights, bias)], version)


def dense_chain(layers: list[tuple[Any, Any]], version: int = 1) -> Model:
    """Inner products that all read the same input."""
    first = layers[0][0]
    columns = (first.values if isinstance(first, (Codes, Signed)) else first).shape[1]
    outputs: Features = {}
    for i, (weights, _) in enumerate(layers):
        shape = (weights.values if isinstance(weights, (Codes, Signed)) else weights).shape
        outputs[f"y{i}"] = (shape[0],)
    net = Net({"x": (columns,)}, outputs, version)
    for i, (weights, bias) in enumerate(layers):
        net.layer("innerProduct", "x", f"y{i}", **dense(weights, bias))
    return net.model


ZOO: dict[str, Callable[[], Any]] = {}


def entry(make: Callable[[], Any]) -> Callable[[], Any]:
    """Puts a maker of a model, or of the bytes of one, into the zoo."""
    ZOO[make.__name__] = make
    return make


# Layers -----------------------------------------------------------------------------------------


@entry
def convolutions() -> Model:
    """Plain, grouped, depthwise, of one channel; deconvolutions; with and without bias."""
    w = Weights()
    net = Net({"x": (16, 24, 24)}, {"y": (32, 64, 64), "one": (1, 22, 22)})
    net.layer("convolution", "x", "plain", **convolution(w(32, 16, 3, 3), w(32)))
    net.layer("activation", "plain", "a", ReLU={})
    net.layer("convolution", "a", "grouped", **convolution(w(48, 8, 3, 3), groups=4))
    net.layer("activation", "grouped", "b", leakyReLU={"alpha": 0.1})
    net.layer("convolution", "b", "deep", **convolution(w(96, 1, 5, 5), w(96), groups=48))
    net.layer("activation", "deep", "c", ReLU={})
    net.layer("convolution", "c", "up", **deconvolution(w(96, 24, 2, 2), w(24)))
    net.layer("activation", "up", "d", ReLU={})
    net.layer("convolution", "d", "y", **deconvolution(w(24, 8, 4, 4), groups=4))
    net.layer("convolution", "x", "one", **convolution(w(1, 16, 3, 3), w(1)))
    return net.model


@entry
def deconvolutions() -> Model:
    """Channels of different ranges, so that scales put at the wrong channel show."""
    w = Weights()
    ranges = np.geomspace(0.01, 10, 24, dtype=np.float32)
    net = Net({"x": (40, 8, 8)}, {"y": (24, 16, 16), "z": (48, 16, 16), "s": (24, 16, 16)})
    net.layer("convolution", "x", "y", **deconvolution(w(40, 24, 3, 3) * ranges[:, None, None]))
    grouped = w(40, 24, 2, 2) * ranges[:, None, None]
    net.layer("convolution", "x", "z", **deconvolution(grouped, w(48), groups=2))
    net.layer("convolution", "y", "s", **deconvolution(w(24, 24, 3, 3) * ranges[:, None, None]))
    return net.model


@entry
def convolution_defaults() -> Model:
    """Kernel size, groups, strides and dilations not said: 3 x 3, 1, 1, 1."""
    w = Weights()
    net = Net({"x": (16, 12, 12)}, {"y": (24, 12, 12)})
    net.layer("convolution", "x", "y", outputChannels=24, kernelChannels=16, hasBias=True,
              weights=w(24, 16, 3, 3), bias=w(24), same={})  # fmt: skip
    return net.model


@entry
def convolution_fused() -> Model:
    """A convolution, batch norm, scale and bias in a row; an inner product and a bias."""
    w = Weights()
    net = Net({"x": (8, 12, 12)}, {"y": (40,)})
    net.layer("convolution", "x", "a", **convolution(w(64, 8, 3, 3), w(64)))
    net.layer("batchnorm", "a", "b", channels=64, epsilon=1e-5, gamma=1 + w(64), beta=w(64),
              mean=w(64), variance=1 + np.abs(w(64)))  # fmt: skip
    net.layer("scale", "b", "c", shapeScale=[64], scale=1 + w(64), hasBias=True, shapeBias=[64],
              bias=w(64))  # fmt: skip
    net.layer("bias", "c", "d", shape=[64], bias=w(64))
    net.layer("pooling", "d", "e", type=1, globalPooling=True, valid={})
    net.layer("innerProduct", "e", "f", **dense(w(40, 64), w(40)))
    net.layer("bias", "f", "y", shape=[40], bias=w(40))
    return net.model


@entry
def denses() -> Model:
    """Inner products: with bias, without, of one output, of one input."""
    w = Weights()
    net = Net({"x": (72,)}, {"y": (2500,)})
    net.layer("innerProduct", "x", "a", **dense(w(64, 72), w(64)))
    net.layer("activation", "a", "b", sigmoid={})
    net.layer("innerProduct", "b", "c", **dense(w(50, 64)))
    net.layer("innerProduct", "c", "d", **dense(w(1, 50), w(1)))
    net.layer("innerProduct", "d", "y", **dense(w(2500, 1), w(2500)))
    return net.model


@entry
def embeddings() -> Model:
    w = Weights()
    net = Net({"x": (1,)}, {"y": (16,), "z": (24,)})
    net.layer("embedding", "x", "y", inputDim=301, outputChannels=16, weights=w(16, 301))
    net.layer("embedding", "x", "z", inputDim=150, outputChannels=24, hasBias=True,
              weights=w(24, 150), bias=w(24))  # fmt: skip
    return net.model


@entry
def batchnorms() -> Model:
    """With statistics, and without: instance norm."""
    w, c = Weights(), 2100
    net = Net({"x": (c, 4, 4)}, {"y": (c, 4, 4)})
    net.layer("batchnorm", "x", "a", channels=c, epsilon=1e-5, gamma=1 + w(c), beta=w(c), mean=w(c),
              variance=np.abs(w(c)) + 0.01)  # fmt: skip
    net.layer("batchnorm", "a", "y", channels=c, epsilon=1e-3, computeMeanVar=True,
              instanceNormalization=True, gamma=1 + w(c), beta=w(c))  # fmt: skip
    return net.model


@entry
def scales() -> Model:
    """scale, bias and loadConstant of every shape that they may have."""
    w, (c, h, width) = Weights(), (12, 14, 15)
    net = Net({"x": (c, h, width)}, {"y": (c, h, width)})
    net.layer("scale", "x", "a", shapeScale=[1], scale=1 + w(1))
    net.layer("scale", "a", "b", shapeScale=[c, 1, 1], scale=1 + w(c), hasBias=True,
              shapeBias=[c, 1, 1], bias=w(c))  # fmt: skip
    net.layer("scale", "b", "c", shapeScale=[c, h, width], scale=1 + w(c, h, width), hasBias=True,
              shapeBias=[1, h, width], bias=w(h, width))  # fmt: skip
    net.layer("scale", "c", "d", shapeScale=[c], scale=1 + w(c), hasBias=True, shapeBias=[1],
              bias=w(1))  # fmt: skip
    net.layer("bias", "d", "e", shape=[1], bias=w(1))
    net.layer("bias", "e", "f", shape=[c], bias=w(c))
    net.layer("bias", "f", "g", shape=[1, h, width], bias=w(h, width))
    net.layer("bias", "g", "h", shape=[c, h, width], bias=w(c, h, width))
    net.layer("loadConstant", "", "i", shape=[c, h, width],
              data=w(c, h, width) * np.geomspace(0.1, 10, c)[:, None, None])  # fmt: skip
    net.layer("add", "h i", "j")
    net.layer("loadConstant", "", "k", shape=[1, 60, 40], data=w(60, 40))
    net.layer("multiply", "j", "y", alpha=2.0)
    return net.model


def lstm(w: Weights, x: int, h: int, bias: bool = True, peepholes: bool = True) -> dict[str, Any]:
    """The weights of one direction of an LSTM."""
    gates = ("inputGate", "forgetGate", "blockInput", "outputGate")
    found = {f"{gate}WeightMatrix": w(h, x) for gate in gates}
    found |= {f"{gate}RecursionMatrix": w(h, h) for gate in gates}
    if bias:
        found |= {f"{gate}BiasVector": w(h) for gate in gates}
    if peepholes:
        found |= {f"{gate}PeepholeVector": w(h) for gate in gates if gate != "blockInput"}
    return found


ACTIVATIONS: list[dict[str, Any]] = [{"sigmoid": {}}, {"tanh": {}}, {"tanh": {}}]


@entry
def recurrent() -> Model:
    w, x, h = Weights(), 44, 48
    states = {"h0": (h,), "h1": (h,), "h2": (h,), "c2": (h,)}
    outputs = {"y": (h,), "h0o": (h,), "h1o": (h,), "h2o": (h,), "c2o": (h,)}
    net = Net({"x": (x,)} | states, outputs)
    net.layer("simpleRecurrent", "x h0", "a h0o", inputVectorSize=x, outputVectorSize=h,
              activation={"tanh": {}}, hasBiasVector=True, weightMatrix=w(h, x),
              recursionMatrix=w(h, h), biasVector=w(h))  # fmt: skip
    gates = ("updateGate", "resetGate", "outputGate")
    matrices = {f"{gate}WeightMatrix": w(h, h) for gate in gates}
    matrices |= {f"{gate}RecursionMatrix": w(h, h) for gate in gates}
    matrices |= {f"{gate}BiasVector": w(h) for gate in gates}
    net.layer("gru", "a h1", "b h1o", inputVectorSize=h, outputVectorSize=h, hasBiasVectors=True,
              activations=[{"sigmoid": {}}, {"tanh": {}}], **matrices)  # fmt: skip
    net.layer("uniDirectionalLSTM", "b h2 c2", "y h2o c2o", inputVectorSize=h, outputVectorSize=h,
              activations=ACTIVATIONS, params={"hasBiasVectors": True, "hasPeepholeVectors": True},
              weightParams=lstm(w, h, h))  # fmt: skip
    return net.model


@entry
def recurrent_bare() -> Model:
    """Without biases; an LSTM that goes both ways."""
    w, x, h = Weights(), 56, 48
    states = {name: (h,) for name in ("h0", "h1", "hf", "cf", "hb", "cb")}
    outputs = {name + "o": (h,) for name in states} | {"y": (2 * h,), "r": (h,), "g": (h,)}
    net = Net({"x": (x,)} | states, outputs)
    net.layer("simpleRecurrent", "x h0", "r h0o", inputVectorSize=x, outputVectorSize=h,
              activation={"linear": {}}, weightMatrix=w(h, x), recursionMatrix=w(h, h))  # fmt: skip
    gates = ("updateGate", "resetGate", "outputGate")
    matrices = {f"{gate}WeightMatrix": w(h, x) for gate in gates}
    matrices |= {f"{gate}RecursionMatrix": w(h, h) for gate in gates}
    net.layer("gru", "x h1", "g h1o", inputVectorSize=x, outputVectorSize=h,
              activations=[{"sigmoid": {}}, {"tanh": {}}], **matrices)  # fmt: skip
    net.layer("biDirectionalLSTM", "x hf cf hb cb", "y hfo cfo hbo cbo", inputVectorSize=x,
              outputVectorSize=h, activationsForwardLSTM=ACTIVATIONS,
              activationsBackwardLSTM=ACTIVATIONS, params={},
              weightParams=[lstm(w, x, h, False, False) for _ in range(2)])  # fmt: skip
    return net.model


@entry
def lstm_both_ways() -> Model:
    """An LSTM that goes both ways, with biases and peepholes."""
    w, x, h = Weights(), 44, 48
    states = {name: (h,) for name in ("hf", "cf", "hb", "cb")}
    net = Net({"x": (x,)} | states, {name + "o": (h,) for name in states} | {"y": (2 * h,)})
    net.layer("biDirectionalLSTM", "x hf cf hb cb", "y hfo cfo hbo cbo", inputVectorSize=x,
              outputVectorSize=h, activationsForwardLSTM=ACTIVATIONS,
              activationsBackwardLSTM=ACTIVATIONS,
              params={"hasBiasVectors": True, "hasPeepholeVectors": True},
              weightParams=[lstm(w, x, h) for _ in range(2)])  # fmt: skip
    return net.model


@entry
def any_rank() -> Model:
    """Layers of iOS 13: embeddingND, batchedMatmul, loadConstantND, layerNormalization."""
    w = Weights()
    net = Net({"ids": (7, 1), "x": (7, 60)}, {"y": (7, 48), "z": (7, 32), "n": (7, 60)}, version=4)
    net.layer("embeddingND", "ids", "a", vocabSize=200, embeddingSize=48, weights=w(48, 200))
    net.layer("embeddingND", "ids", "b", vocabSize=90, embeddingSize=48, hasBias=True,
              weights=w(48, 90), bias=w(48))  # fmt: skip
    net.layer("addBroadcastable", "a b", "y")
    # Of 60 x 48, stored column by column, so row by row it is 48 x 60: one scale per column.
    ranges = np.geomspace(0.01, 10, 48, dtype=np.float32)
    net.layer("batchedMatmul", "x", "c", weightMatrixFirstDimension=60, hasBias=True,
              weightMatrixSecondDimension=48, weights=w(48, 60) * ranges[:, None],
              bias=w(48))  # fmt: skip
    net.layer("batchedMatmul", "c", "d", weightMatrixFirstDimension=48,
              weightMatrixSecondDimension=64, weights=w(64, 48))  # fmt: skip
    for i, shape in enumerate([(64,), (32, 80), (4, 8, 80), (2, 2, 8, 80), (1, 2, 2, 8, 80)]):
        net.layer("loadConstantND", "", f"k{i}", shape=list(shape), data=w(*shape))
    net.layer("loadConstantND", "", "m", shape=[32, 64], data=w(32, 64))
    net.layer("batchedMatmul", "d m", "z", transposeB=True)
    net.layer("layerNormalization", "x", "n", normalizedShape=[60], eps=1e-5, gamma=1 + w(60),
              beta=w(60))  # fmt: skip
    net.layer("layerNormalization", "k2", "k", normalizedShape=[4, 8, 80], eps=1e-5,
              gamma=1 + w(4, 8, 80), beta=w(4, 8, 80))  # fmt: skip
    return net.model


@entry
def convolution_volumes() -> Model:
    """convolution3d takes no codes."""
    w = Weights()
    net = Net({"x": (1, 8, 10, 10, 10)}, {"y": (1, 12, 10, 10, 10)}, version=5)
    common = {"paddingType": 2}
    for axis in ("Depth", "Height", "Width"):
        common |= {f"kernel{axis}": 3, f"stride{axis}": 1, f"dilation{axis}": 1}
    net.layer("convolution3d", "x", "a", outputChannels=16, inputChannels=8, nGroups=1,
              hasBias=True, weights=w(16, 8, 3, 3, 3), bias=w(16), **common)  # fmt: skip
    net.layer("convolution3d", "a", "b", outputChannels=24, inputChannels=16, nGroups=4,
              weights=w(24, 4, 3, 3, 3), **common)  # fmt: skip
    net.layer("convolution3d", "b", "y", outputChannels=12, inputChannels=24, nGroups=2,
              isDeconvolution=True, hasBias=True, weights=w(24, 6, 3, 3, 3), bias=w(12),
              **common)  # fmt: skip
    return net.model


@entry
def activations() -> Model:
    """PReLU and parametric softplus, with more channels than the usual threshold and with fewer."""
    w = Weights()
    net = Net({"x": (2100, 2, 2)}, {"y": (30, 2, 2)})
    net.layer("activation", "x", "a", PReLU={"alpha": np.abs(w(2100))})
    net.layer("activation", "a", "b",
              parametricSoftplus={"alpha": w(2100), "beta": 1 + w(2100)})  # fmt: skip
    net.layer("convolution", "b", "c", **convolution(w(30, 2100, 1, 1)))
    net.layer("activation", "c", "d", PReLU={"alpha": np.abs(w(30))})
    net.layer("activation", "d", "y", parametricSoftplus={"alpha": w(30), "beta": w(30)})
    return net.model


@entry
def custom() -> Model:
    """A layer of the app's own with weights, and one without; nobody knows what they mean."""
    w = Weights()
    net = Net({"x": (8, 4, 4)}, {"y": (8, 4, 4)}, version=3)
    net.layer("custom", "x", "a", className="Mine", description="what it does",
              weights=[w(50, 60), w(7)])  # fmt: skip
    net.net.layers[0].custom.parameters["gain"].doubleValue = 0.5
    net.net.layers[0].custom.weights.add().float16Value = w(2500).astype(np.float16).tobytes()
    Codes(np.arange(3000) % 16, 4, table=w(16)).write(net.net.layers[0].custom.weights.add())
    net.layer("custom", "a", "b", className="Bare")
    net.layer("convolution", "b", "y", **convolution(w(8, 8, 7, 7), w(8)))
    return net.model


@entry
def branches() -> Model:
    """Networks in networks: both sides of a branch, condition and body of a loop, a loop in it."""
    w = Weights()
    net = Net({"x": (50,), "flag": (1,)}, {"y": (50,), "z": (50,)}, version=4)
    branch = net.layer("branch", "flag", "").branch
    add_layer(branch.ifBranch, "innerProduct", "x", "y", **dense(w(50, 50), w(50)))
    add_layer(branch.elseBranch, "innerProduct", "x", "h", **dense(w(60, 50)))
    add_layer(branch.elseBranch, "innerProduct", "h", "y", **dense(w(50, 60), w(50)))
    net.layer("copy", "x", "z")
    loop = net.layer("loop", "", "", maxLoopIterations=3, conditionVar="go").loop
    add_layer(loop.conditionNetwork, "innerProduct", "z", "f", **dense(w(60, 50)))
    add_layer(loop.conditionNetwork, "reduceMean", "f", "go", reduceAll=True)
    inner = add_layer(loop.bodyNetwork, "loop", "", "", maxLoopIterations=2).loop
    add_layer(inner.bodyNetwork, "innerProduct", "z", "t", **dense(w(50, 50)))
    add_layer(inner.bodyNetwork, "copy", "t", "z")
    add_layer(loop.bodyNetwork, "loadConstantND", "", "k", shape=[50, 50], data=w(50, 50))
    net.layer("innerProduct", "z", "q", **dense(w(50, 50), w(50)))
    return net.model


@entry
def updatable() -> Model:
    """The last inner product and a convolution can be trained on the device, the others cannot."""
    w = Weights()
    net = Net({"x": (8, 10, 10)}, {"p": (10,)}, version=4)
    net.net.arrayInputShapeMapping = 0
    net.model.isUpdatable = True
    net.layer("convolution", "x", "a", **convolution(w(32, 8, 3, 3), w(32)))
    net.layer("activation", "a", "b", ReLU={})
    train = [net.layer("convolution", "b", "c", **convolution(w(16, 32, 3, 3), w(16)))]
    net.layer("flatten", "c", "d")
    net.layer("innerProduct", "d", "e", **dense(w(64, 16 * 36), w(64)))
    net.layer("activation", "e", "f", ReLU={})
    train.append(net.layer("innerProduct", "f", "g", **dense(w(50, 64), w(50))))
    net.layer("innerProduct", "g", "h", **dense(w(10, 50)))
    net.layer("softmax", "h", "p")
    for layer in train:
        layer.isUpdatable = True
        inside = getattr(layer, layer.WhichOneof("layer"))
        inside.weights.isUpdatable = inside.bias.isUpdatable = True
    fill(net.net.updateParams, {
        "lossLayers": [{"name": "loss", "categoricalCrossEntropyLossLayer":
                        {"input": "p", "target": "p_true"}}],
        "optimizer": {"sgdOptimizer": {
            name: {"defaultValue": value, "range": {"minValue": 0.0, "maxValue": 1.0}}
            for name, value in (("learningRate", 0.01), ("momentum", 0.9))}
            | {"miniBatchSize": {"defaultValue": 8, "set": {"values": [8]}}}},
        "epochs": {"defaultValue": 5, "set": {"values": [5]}},
        "shuffle": {"defaultValue": True}})  # fmt: skip
    feature(net.model.description.trainingInput.add(), "x", (8, 10, 10))
    target = net.model.description.trainingInput.add()
    feature(target, "p_true", (1,))
    target.type.multiArrayType.dataType = INT32
    return net.model


# Storages ---------------------------------------------------------------------------------------


@entry
def int8_dynamic() -> Model:
    """Layers that quantize their input as they run: int8 weights, one scale, no bias of codes."""
    w, random = Weights(), np.random.default_rng(3)
    net = Net({"x": (7, 60)}, {"y": (7, 48)}, version=5)
    net.layer("innerProduct", "x", "a", int8DynamicQuantize=True,
              **dense(Signed(random.integers(-127, 128, (50, 60)), 0.01), w(50)))  # fmt: skip
    net.layer("batchedMatmul", "a", "b", int8DynamicQuantize=True, weightMatrixFirstDimension=50,
              weightMatrixSecondDimension=52, hasBias=True, bias=w(52),
              weights=Signed(random.integers(-127, 128, (52, 50)), 0.02))  # fmt: skip
    net.layer("innerProduct", "b", "y", **dense(w(48, 52), w(48)))
    return net.model


@entry
def quantized_linear() -> Model:
    """Codes of 1 to 8 bits with scales for channels or for all, with biases and without."""
    w, random = Weights(), np.random.default_rng(5)
    layers: list[tuple[Any, Any]] = []
    for bits, channels, bias in itertools.product(range(1, 9), (41, 1), (True, False)):
        codes = random.integers(0, 1 << bits, (41, 59))
        scale = np.abs(w(channels)) + 0.01
        layers.append((Codes(codes, bits, scale=scale, bias=w(channels) if bias else None),
                       w(41) if bits % 2 else None))  # fmt: skip
    layers.append((w(45, 59), Codes(np.arange(45) % 8, 3, scale=w(1), bias=w(1))))
    return dense_chain(layers, version=3)


@entry
def quantized_table() -> Model:
    """Codes of 1 to 8 bits into tables; tables with equal and with unused entries."""
    w, random = Weights(), np.random.default_rng(7)
    layers: list[tuple[Any, Any]] = []
    for bits in range(1, 9):
        codes = random.integers(0, 1 << bits, (41, 59))
        layers.append((Codes(codes, bits, table=w(1 << bits)), w(41)))
    layers.append((Codes(random.integers(0, 3, (41, 59)), 4, table=np.zeros(16) + 0.5), None))
    layers.append((Codes(random.integers(0, 3, (41, 59)), 5, table=w(32), extra=3), w(41)))
    return dense_chain(layers, version=3)


@entry
def quantized_layers() -> Model:
    """Codes in convolutions, deconvolutions, a batch norm and a constant."""
    w, random = Weights(), np.random.default_rng(11)

    def codes(bits: int, *shape: int) -> Array:
        return random.integers(0, 1 << bits, shape)

    net = Net({"x": (16, 12, 12)}, {"y": (24, 49, 49)}, version=3)
    net.layer("convolution", "x", "a", **convolution(
        Codes(codes(5, 24, 16, 3, 3), 5, scale=np.abs(w(24)), bias=w(24)),
        Codes(codes(8, 24), 8, scale=np.abs(w(1)), bias=w(1))))  # fmt: skip
    net.layer("convolution", "a", "b", **deconvolution(
        Codes(codes(7, 24, 20, 3, 3), 7, scale=np.abs(w(20)), bias=w(20)), w(20)))  # fmt: skip
    net.layer("batchnorm", "b", "c", channels=20, epsilon=1e-5,
              gamma=Codes(codes(6, 20), 6, table=w(64)), beta=w(20), mean=w(20),
              variance=np.abs(w(20)))  # fmt: skip
    net.layer("convolution", "c", "y", **deconvolution(
        Codes(codes(3, 20, 6, 4, 4), 3, table=w(8)), w(24), groups=4))  # fmt: skip
    net.layer("loadConstant", "", "k", shape=[12, 15, 14], data=Codes(
        codes(4, 12, 15, 14), 4, scale=np.abs(w(12)), bias=w(12)))  # fmt: skip
    return net.model


@entry
def half() -> Model:
    """Weights stored as fp16."""
    model = Model()
    model.CopyFrom(convolutions())
    for other in (recurrent(), denses()):
        model.neuralNetwork.layers.MergeFrom(other.neuralNetwork.layers)
        model.description.input.MergeFrom(other.description.input)
    model.specificationVersion = 2
    for weights in walk(model):
        values = np.asarray(weights.floatValue, np.float16)
        weights.ClearField("floatValue")
        weights.float16Value = values.tobytes()
    # Layers of three models with names of their own.
    for number, layer in enumerate(model.neuralNetwork.layers):
        layer.name = f"{layer.name}_{number}"
    return model


# Kinds of models ----------------------------------------------------------------------------------


@entry
def classifier() -> Model:
    w, labels = Weights(), [f"kind {i}" for i in range(30)]
    net = Net({"x": (80,)}, {"classLabel": "stringType", "p": "dictionaryType"}, 1,
              "neuralNetworkClassifier")  # fmt: skip
    net.layer("innerProduct", "x", "a", **dense(w(64, 80), w(64)))
    net.layer("innerProduct", "a", "b", **dense(w(30, 64), w(30)))
    net.layer("softmax", "b", "p")
    net.net.stringClassLabels.vector.extend(labels)
    net.net.labelProbabilityLayerName = "p"
    net.model.description.predictedFeatureName = "classLabel"
    net.model.description.predictedProbabilitiesName = "p"
    return net.model


@entry
def regressor() -> Model:
    w = Weights()
    net = Net({"x": (80,)}, {"y": "doubleType"}, 1, "neuralNetworkRegressor")
    net.layer("innerProduct", "x", "a", **dense(w(64, 80), w(64)))
    net.layer("innerProduct", "a", "y", **dense(w(1, 64), w(1)))
    net.model.description.predictedFeatureName = "y"
    return net.model


@entry
def preprocessed() -> Model:
    """A mean image of floats, which is no weight."""
    w = Weights()
    net = Net({"image": (3, 30, 30)}, {"y": (24, 28, 28)})
    image = net.model.description.input[0].type.imageType
    image.width, image.height, image.colorSpace = 30, 30, 20
    net.layer("convolution", "image", "y", **convolution(w(24, 3, 7, 7)))
    net.net.preprocessing.add(featureName="image").meanImage.meanImage.extend(w(2700))
    return net.model


def describe(to: Model, inputs: Any, outputs: Any) -> None:
    to.description.input.extend(inputs)
    to.description.output.extend(outputs)


def pipeline(members: list[Model], kind: str = "pipeline", names: bool = False) -> Model:
    """A pipeline of models. Its inputs are those that no member gives, its outputs the last's."""
    model, known = Model(), set()
    model.specificationVersion = max(m.specificationVersion for m in members)
    for member in members:
        wanted = [f for f in member.description.input if f.name not in known]
        describe(model, wanted, [])
        known |= {f.name for f in [*wanted, *member.description.output]}
    last = members[-1].description
    describe(model, [], last.output)
    model.description.predictedFeatureName = last.predictedFeatureName
    model.description.predictedProbabilitiesName = last.predictedProbabilitiesName
    inside = getattr(model, kind) if kind == "pipeline" else getattr(model, kind).pipeline
    inside.models.extend(members)
    if names:
        inside.names.extend(f"stage {i}" for i in range(len(members)))
    return model


def features(name: str = "x", size: int = 80, inputs: str = "image") -> Model:
    """A network that gives a vector, for others to go on with."""
    w = Weights()
    net = Net({inputs: (8, 12, 12)}, {name: (size,)})
    net.layer("convolution", inputs, "a", **convolution(w(size, 8, 3, 3), w(size)))
    net.layer("pooling", "a", name, type=1, globalPooling=True, valid={})
    return net.model


def tree(source: str = "age", target: str = "score") -> Model:
    builder = TreeEnsembleRegressor([(source, ct.models.datatypes.Double())], target)
    builder.set_default_prediction_value(0.0)
    builder.add_branch_node(0, 0, 0, 0.5, "BranchOnValueLessThanEqual", 1, 2)
    builder.add_leaf_node(0, 1, 1.0)
    builder.add_leaf_node(0, 2, 2.0)
    model = Model()
    model.CopyFrom(builder.spec)
    return model


@entry
def pipeline_plain() -> Model:
    return pipeline([features(), one_dense(Weights()(50, 80), Weights()(50))], names=True)


@entry
def pipeline_classifier() -> Model:
    return pipeline([features(), classifier()], "pipelineClassifier")


@entry
def pipeline_regressor() -> Model:
    return pipeline([features(), regressor()], "pipelineRegressor", names=True)


@entry
def pipeline_tree() -> Model:
    """A tree ensemble beside networks of different versions; one x takes another one's place."""
    return pipeline([tree(), any_rank(), features(), one_dense(Weights()(50, 80))])


@entry
def pipeline_nested() -> Model:
    return pipeline([pipeline([features()], names=True),
                     pipeline([features("z", 24, "other"), classifier()], "pipelineClassifier")],
                    "pipelineClassifier", names=True)  # fmt: skip


@entry
def pipeline_updatable() -> Model:
    first = Net({"image": (8, 10, 10)}, {"x": (8, 10, 10)})
    first.layer("convolution", "image", "x", **convolution(Weights()(8, 8, 7, 7), same={}))
    model = pipeline([first.model, updatable()])
    model.isUpdatable = True
    for one in updatable().description.trainingInput:
        model.description.trainingInput.add().CopyFrom(one)
    model.description.trainingInput[0].name = "image"
    return model


@entry
def tree_alone() -> Model:
    return tree()


@entry
def no_weights() -> Model:
    """A network of layers without weights, and a convolution that gets its weights as an input."""
    net = Net({"x": (1, 8, 8, 8), "w": (8, 8, 3, 3)}, {"y": (1, 8, 6, 6)}, version=4)
    net.layer("activation", "x", "a", ReLU={})
    net.layer("convolution", "a w", "b", outputChannels=8, kernelChannels=8, kernelSize=[3, 3],
              nGroups=1, valid={})  # fmt: skip
    net.layer("batchedMatmul", "b b", "y", transposeB=True)
    return net.model


# Values -----------------------------------------------------------------------------------------


@entry
def overflowing() -> Model:
    """Beyond the range of fp16: in the weights only, in the bias only, in both, and just below."""
    w = Weights()

    def with_one(value: float, *shape: int) -> Array:
        values = w(*shape)
        values.reshape(-1)[shape[0] // 2] = value
        return values

    return dense_chain([(with_one(1e5, 50, 60), w(50)), (w(50, 60), with_one(-7e4, 50)),
                        (with_one(65504, 50, 60), with_one(-65504, 50)),
                        (with_one(65519, 50, 60), w(50)), (with_one(65520, 50, 60), w(50)),
                        (with_one(3e38, 50, 60), with_one(-3e38, 50))])  # fmt: skip


@entry
def overflowing_layers() -> Model:
    """The same in layers of many weights, which must not mix fp16 and fp32."""
    model = recurrent()
    model.neuralNetwork.layers.MergeFrom(batchnorms().neuralNetwork.layers)
    model.description.input.MergeFrom(batchnorms().description.input)
    model.description.input[-1].name = "images"
    model.neuralNetwork.layers[3].input[0] = "images"
    layers = model.neuralNetwork.layers
    layers[0].simpleRecurrent.biasVector.floatValue[3] = 1e6
    layers[1].gru.resetGateRecursionMatrix.floatValue[100] = -1e5
    layers[2].uniDirectionalLSTM.weightParams.outputGatePeepholeVector.floatValue[0] = 8e4
    layers[3].batchnorm.variance.floatValue[7] = 1e9
    return model


@entry
def not_finite() -> Model:
    """Infinities and NaN among the weights."""
    w, layers = Weights(), []
    for value in (np.inf, -np.inf, np.nan):
        weights, bias = w(50, 60), w(50)
        weights[7, 7] = value
        layers.append((weights, bias))
    bias = w(50)
    bias[3] = np.nan
    return dense_chain([*layers, (w(50, 60), bias), (np.full((50, 60), np.nan, np.float32), None)])


@entry
def constants() -> Model:
    """Weights that are all the same, all zero, one value a channel, of few values."""
    w = Weights()
    rows = np.repeat(w(50, 1), 60, axis=1)
    zero_row = w(50, 60)
    zero_row[3] = 0
    return dense_chain([(np.full((50, 60), 0.3, np.float32), w(50)),
                        (np.full((50, 60), -7.0, np.float32), np.full(50, -0.25, np.float32)),
                        (np.zeros((50, 60), np.float32), np.zeros(50, np.float32)),
                        (np.full((50, 60), -0.0, np.float32), None),
                        (rows, None), (zero_row, None),
                        (w.of_values(2, 50, 60), w.of_values(2, 50)),
                        (w.of_values(3, 50, 60), None), (w.of_values(16, 50, 60), None),
                        (w.of_values(17, 50, 60), None), (w.of_values(256, 50, 60), None),
                        (np.sign(w(50, 60)) * 0.125, None)])  # fmt: skip


@entry
def ranges() -> Model:
    """Huge and tiny values, channels of very different sizes, an outlier, denormal numbers."""
    w = Weights()
    sizes = np.geomspace(1e-9, 1e4, 50, dtype=np.float32)[:, None]
    outlier = w(50, 60)
    outlier[20, 20] = 1000
    offset = w(50, 60) * 1e-3 + 5
    return dense_chain([(w(50, 60) * 1e30, None), (w(50, 60) * 1e-5, w(50) * 1e-7),
                        (w(50, 60) * 1e-9, None), (w(50, 60) * 1e-30, None),
                        (w(50, 60) * np.float32(1e-41), None), (w(50, 60) * sizes, w(50)),
                        (outlier, None), (offset, None), (np.abs(w(50, 60)), None),
                        (w(50, 60, scale=1e37), None),
                        (np.linspace(-3.4e38, 3.4e38, 3000, dtype=np.float32).reshape(50, 60),
                         None)])  # fmt: skip


@entry
def sizes() -> Model:
    """Around the threshold of 2048, and so small that no form is smaller."""
    w = Weights()
    shapes = [(32, 64), (33, 64), (2049, 64), (1, 64), (2, 64), (3, 64), (5, 64), (7, 64)]
    return dense_chain([(w(*shape), w(shape[0])) for shape in shapes])


# The same message, other bytes -------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def record(number: int, body: bytes) -> bytes:
    """A field of bytes or a message."""
    return varint(number << 3 | 2) + varint(len(body)) + body


def encode(message: Any, floats: Callable[[Array], bytes], backwards: bool = False) -> bytes:
    """Serializes a message with field 1 of its weights as `floats` has it; with `backwards` the
    fields come in descending order."""
    parts = []
    for field, value in message.ListFields():
        many = repeated(field)
        inside = field.message_type
        if inside is not None and not inside.GetOptions().map_entry:
            parts.append(b"".join(record(field.number, encode(one, floats, backwards))
                                  for one in (value if many else [value])))  # fmt: skip
        elif message.DESCRIPTOR.name == "WeightParams" and field.name == "floatValue":
            parts.append(floats(np.asarray(value, "<f4")))
        else:
            alone = type(message)()
            if inside is not None:
                getattr(alone, field.name).MergeFrom(value)
            elif many:
                getattr(alone, field.name).extend(value)
            else:
                setattr(alone, field.name, value)
            parts.append(alone.SerializeToString(deterministic=True))
    return b"".join(reversed(parts) if backwards else parts)


def one_by_one(values: Array) -> bytes:
    return b"".join(b"\x0d" + value.tobytes() for value in values)


def packed(values: Array) -> bytes:
    return record(1, values.tobytes())


@entry
def wire_unpacked() -> bytes:
    """Floats one by one, each with a tag."""
    return encode(denses(), one_by_one)


@entry
def wire_chunks() -> bytes:
    """Floats in several packed pieces, an empty one among them, and some one by one."""

    def floats(values: Array) -> bytes:
        a, b, c = (len(values) * part // 7 for part in (1, 2, 5))
        return (packed(values[:a]) + packed(values[a:b]) + record(1, b"") + one_by_one(values[b:c])
                + packed(values[c:]))  # fmt: skip

    return encode(denses(), floats)


@entry
def wire_backwards() -> bytes:
    """The fields of every message in descending order: weights before sizes and flags."""
    return encode(convolutions(), packed, backwards=True)


@entry
def wire_pieces() -> bytes:
    """Layers whose weights come as two messages, which a reader has to put together."""
    model = denses()
    data = b""
    for layer in model.neuralNetwork.layers:
        params = getattr(layer, layer.WhichOneof("layer"))
        halves = [type(layer)(), type(layer)()]
        for part in halves:
            part.CopyFrom(layer)
        if hasattr(params, "weights"):
            values = np.asarray(params.weights.floatValue, np.float32)
            cut = len(values) // 3
            halves[0].innerProduct.weights.floatValue[:] = values[:cut]
            rest = type(params)()
            rest.weights.floatValue.extend(values[cut:])
            body = halves[0].SerializeToString() + record(140, rest.SerializeToString())
        else:
            body = layer.SerializeToString()
        data += record(1, body)
    model.neuralNetwork.ClearField("layers")
    rest = Model()
    rest.CopyFrom(model)
    rest.ClearField("neuralNetwork")
    return rest.SerializeToString(deterministic=True) + record(500, data)


@entry
def wire_unknown() -> bytes:
    """Fields and a layer that are in no specification yet."""
    model = denses()
    strange = varint(1900 << 3 | 2) + b"\x03abc" + varint(1901 << 3) + b"\x07"
    model.neuralNetwork.layers[0].MergeFromString(strange)
    model.neuralNetwork.layers[0].innerProduct.MergeFromString(strange)
    model.neuralNetwork.MergeFromString(strange)
    model.description.MergeFromString(strange)
    model.MergeFromString(strange)
    layer = model.neuralNetwork.layers.add()
    layer.name, layer.input[:], layer.output[:] = "new", ["y"], ["z"]
    layer.MergeFromString(record(1999, b"\x0a\x05hello"))
    return model.SerializeToString(deterministic=True)


# Packages ---------------------------------------------------------------------------------------


def save_package(model: Model, path: Path, weights: str | None = None) -> None:
    ct.utils.save_spec(model, str(path), weights_dir=weights)


def package_network(path: Path) -> None:
    """A network that lies in a package."""
    save_package(convolutions(), path)


def package_pipeline(path: Path) -> None:
    """A pipeline of networks in a package."""
    save_package(pipeline_nested(), path)


def package_mixed(path: Path) -> None:
    """A pipeline of an ML Program, whose weights lie in a file, and a network."""
    w = Weights()

    @mb.program(input_specs=[spec(1, 64)], opset_version=ct.target.iOS15)
    def program(image: Any) -> Any:
        h = mb.linear(x=image, weight=w(96, 64), bias=w(96), name="first")
        return mb.linear(x=mb.relu(x=h), weight=w(72, 96), name="x")

    model = ct.convert(program, convert_to="mlprogram", skip_model_load=True,
                       minimum_deployment_target=ct.target.iOS15)  # fmt: skip
    first = model.get_spec()
    second = Net({"x": (1, 72)}, {"y": (1, 50)}, version=4)
    second.layer("innerProduct", "x", "y", **dense(w(50, 72), w(50)))
    first.description.output[0].CopyFrom(second.model.description.input[0])
    save_package(pipeline([first, second.model], names=True), path, model.weights_dir)


PACKAGES = {f.__name__: f for f in (package_network, package_pipeline, package_mixed)}


def build(folder: Path) -> tuple[list[Entry], list[str]]:
    """Writes the whole zoo; says what could not be made."""
    folder.mkdir(parents=True, exist_ok=True)
    entries, missing = [], []
    for name, make in ZOO.items():
        model = make()
        path = folder / f"{name}.mlmodel"
        data = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
        path.write_bytes(data)
        entries.append(Entry(name, path))
    for name, write in PACKAGES.items():
        path = folder / f"{name}.mlpackage"
        try:
            shutil.rmtree(path, ignore_errors=True)
            write(path)
        except Exception as error:  # whatever coremltools raises
            missing.append(f"{name}: {type(error).__name__}: {error}")
            continue
        entries.append(Entry(name, path))
    return entries, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    entries, missing = build(parser.parse_args().folder)
    print(f"{len(entries)} models")
    for line in missing:
        print(f"not made: {line}")


if __name__ == "__main__":
    main()
