"""Runs ML Programs with torch, in float64: a reference for whole models.

Written from what operations mean, apart from cmlc: weights come from decode.py, arithmetic from
torch, and nothing is rounded to fp16 on the way. Only the operations of the models that it is used
for are here.

    outputs = run(Package(path), {"x": array})
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from decode import Package, Scope, is_constant

Tensor = torch.Tensor
Args = dict[str, Any]


class Missing(Exception):
    """An operation that is not here."""


def to_torch(value: Any) -> Any:
    """Numbers become float64, int64 or bool; text stays text."""
    array = np.asarray(value)
    if array.dtype.kind in "USO":
        return str(array.reshape(-1)[0])
    if array.dtype.kind == "f":
        return torch.from_numpy(np.array(array, dtype=np.float64))
    if array.dtype.kind == "b":
        return torch.from_numpy(np.array(array))
    return torch.from_numpy(np.array(array, dtype=np.int64))


def ints(value: Tensor) -> list[int]:
    return [int(v) for v in value.reshape(-1)]


def flags(args: Args, name: str, count: int) -> list[bool]:
    return [bool(v) for v in args[name].reshape(-1)] if name in args else [False] * count


def same_pads(sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int],
              lower: bool) -> list[tuple[int, int]]:
    pads = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (k - 1) * dilation + 1
        total = max(0, (-(-size // stride) - 1) * stride + reach - size)
        less, more = total // 2, total - total // 2
        pads.append((more, less) if lower else (less, more))
    return pads


def spatial_pads(a: Args, kernel: list[int], strides: list[int], dilations: list[int]) -> list[int]:
    """As torch's pad wants it: last axis first."""
    kind = a.get("pad_type", "valid")
    sizes = list(a["x"].shape[2:])
    if kind == "custom":
        given = ints(a["pad"])
        pads = list(zip(given[::2], given[1::2], strict=True))
    elif kind == "valid":
        pads = [(0, 0)] * len(sizes)
    else:
        pads = same_pads(sizes, kernel, strides, dilations, kind == "same_lower")
    return [side for pair in reversed(pads) for side in pair]


def conv(a: Args) -> Tensor:
    weight = a["weight"]
    dims = weight.dim() - 2
    strides = ints(a["strides"]) if "strides" in a else [1] * dims
    dilations = ints(a["dilations"]) if "dilations" in a else [1] * dims
    padded = F.pad(a["x"], spatial_pads(a, list(weight.shape[2:]), strides, dilations))
    groups = int(a["groups"]) if "groups" in a else 1
    rule = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    return rule(padded, weight, a.get("bias"), strides, 0, dilations, groups)


def max_pool(a: Args) -> Tensor:
    kernel = ints(a["kernel_sizes"])
    strides = ints(a["strides"]) if "strides" in a else [1] * len(kernel)
    if bool(a.get("ceil_mode", False)):
        raise Missing("max_pool with ceil_mode")
    pads = spatial_pads(a, kernel, strides, [1] * len(kernel))
    padded = F.pad(a["x"], pads, value=float("-inf"))
    return (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1](padded, kernel, strides)


def pad(a: Args) -> Tensor:
    given = ints(a["pad"])
    pairs = list(zip(given[::2], given[1::2], strict=True))
    sides = [side for pair in reversed(pairs) for side in pair]
    mode = a.get("mode", "constant")
    if mode == "constant":
        return F.pad(a["x"], sides, value=float(a.get("constant_val", 0.0)))
    how = {"reflect": "reflect", "replicate": "edge"}[mode]
    full = [(0, 0)] * (a["x"].dim() - len(pairs)) + pairs
    return torch.from_numpy(np.pad(a["x"].numpy(), full, mode=how))


def slice_by_index(a: Args) -> Tensor:
    x = a["x"]
    begin, end = ints(a["begin"]), ints(a["end"])
    stride = ints(a["stride"]) if "stride" in a else [1] * x.dim()
    from_start, to_end, squeeze = (
        flags(a, name, x.dim()) for name in ("begin_mask", "end_mask", "squeeze_mask"))
    index: list[Any] = []
    for d in range(x.dim()):
        if squeeze[d]:
            index.append(begin[d])
        else:
            index.append(slice(None if from_start[d] else begin[d],
                               None if to_end[d] else end[d], stride[d]))
    return torch.from_numpy(np.array(x.numpy()[tuple(index)]))


def reshape(a: Args) -> Tensor:
    shape = [a["x"].shape[i] if s == 0 else s for i, s in enumerate(ints(a["shape"]))]
    return a["x"].reshape(shape)


def squeeze(a: Args) -> Tensor:
    axes = ints(a["axes"]) if "axes" in a else range(a["x"].dim())
    drop = {axis % a["x"].dim() for axis in axes}
    return a["x"].reshape([s for d, s in enumerate(a["x"].shape) if d not in drop or s != 1])


def expand_dims(a: Args) -> Tensor:
    x = a["x"]
    axes = ints(a["axes"])
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def concat(a: Args) -> Tensor:
    if bool(a.get("interleave", False)):
        raise Missing("concat with interleave")
    values = [torch.atleast_1d(v) for v in a["values"]]  # files join sizes to shapes
    return torch.cat(values, dim=int(a["axis"]))


def split(a: Args) -> list[Tensor]:
    axis = int(a["axis"])
    if "split_sizes" in a:
        return list(torch.split(a["x"], ints(a["split_sizes"]), dim=axis))
    return list(torch.chunk(a["x"], int(a["num_splits"]), dim=axis))


def reduce(rule: Callable[..., Tensor]) -> Callable[[Args], Tensor]:
    def apply(a: Args) -> Tensor:
        axes = ints(a["axes"]) if "axes" in a else list(range(a["x"].dim()))
        return rule(a["x"], dim=axes, keepdim=bool(a.get("keep_dims", False)))

    return apply


def divide(a: Args) -> Tensor:
    if a["x"].is_floating_point():
        return a["x"] / a["y"]
    return torch.div(a["x"], a["y"], rounding_mode="trunc")


def cast(a: Args) -> Tensor:
    kind = a["dtype"]
    if kind.startswith("fp"):
        return a["x"].double()
    return a["x"].bool() if kind == "bool" else a["x"].trunc().long()


def batch_norm(a: Args) -> Tensor:
    return F.batch_norm(a["x"], a["mean"], a["variance"], a.get("gamma"), a.get("beta"),
                        eps=float(a.get("epsilon", 1e-5)))


def upsample_nearest(a: Args) -> Tensor:
    scales = [float(a.get(f"scale_factor_{axis}", 1)) for axis in ("height", "width")]
    if any(scale != int(scale) for scale in scales):
        raise Missing("upsample_nearest_neighbor by a fraction")
    return a["x"].repeat_interleave(int(scales[0]), 2).repeat_interleave(int(scales[1]), 3)


def depth_to_space(a: Args) -> Tensor:
    n, c, h, w = a["x"].shape
    b = int(a["block_size"])
    blocks = a["x"].reshape(n, b, b, c // (b * b), h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


def lstm(a: Args) -> list[Tensor]:
    if a.get("direction", "forward") != "forward" or "peephole" in a or "clip" in a:
        raise Missing("lstm with directions, peepholes or clip")
    hidden = a["weight_hh"].shape[1]
    layer = torch.nn.LSTM(a["x"].shape[2], hidden).double()

    def ordered(rows: Tensor) -> Tensor:
        i, f, o, z = rows.split(hidden)
        return torch.cat([i, f, z, o])

    with torch.no_grad():
        layer.weight_ih_l0.copy_(ordered(a["weight_ih"]))
        layer.weight_hh_l0.copy_(ordered(a["weight_hh"]))
        layer.bias_ih_l0.copy_(ordered(a["bias"]) if "bias" in a else torch.zeros(4 * hidden))
        layer.bias_hh_l0.zero_()
        out, (h, c) = layer(a["x"], (a["initial_h"][None], a["initial_c"][None]))
    return [out if bool(a.get("output_sequence", False)) else out[-1:], h[0], c[0]]


def list_write(a: Args) -> list[Any]:
    made = list(a["ls"])
    index = int(a["index"])
    made += [None] * (index + 1 - len(made))
    made[index] = a["value"]
    return made


def list_scatter(a: Args) -> list[Any]:
    made = list(a["ls"])
    for index, value in zip(ints(a["indices"]), a["value"], strict=True):
        made += [None] * (index + 1 - len(made))
        made[index] = value
    return made


RULES: dict[str, Callable[[Args], Any]] = {
    "add": lambda a: a["x"] + a["y"],
    "batch_norm": batch_norm,
    "cast": cast,
    "clip": lambda a: a["x"].clamp(float(a["alpha"]), float(a["beta"])),
    "concat": concat,
    "conv": conv,
    "depth_to_space": depth_to_space,
    "expand_dims": expand_dims,
    "floor_div": lambda a: torch.div(a["x"], a["y"], rounding_mode="floor"),
    "gather": lambda a: to_torch(
        np.take(a["x"].numpy(), a["indices"].numpy(), axis=int(a.get("axis", 0)))),
    "less": lambda a: a["x"] < a["y"],
    "list_gather": lambda a: torch.stack([a["ls"][i] for i in ints(a["indices"])]),
    "list_read": lambda a: a["ls"][int(a["index"])],
    "list_scatter": list_scatter,
    "list_write": list_write,
    "log": lambda a: torch.log(a["x"] + float(a.get("epsilon", 1e-45))),
    "lstm": lstm,
    "make_list": lambda a: [None] * int(a.get("init_length", 1)),
    "matmul": lambda a: torch.matmul(
        a["x"].mT if bool(a.get("transpose_x", False)) else a["x"],
        a["y"].mT if bool(a.get("transpose_y", False)) else a["y"]),
    "max_pool": max_pool,
    "mul": lambda a: a["x"] * a["y"],
    "pad": pad,
    "pow": lambda a: torch.pow(a["x"], a["y"]),
    "prelu": lambda a: F.prelu(a["x"], a["alpha"]),
    "real_div": divide,
    "reduce_max": reduce(torch.amax),
    "reduce_mean": reduce(torch.mean),
    "reduce_min": reduce(torch.amin),
    "reduce_sum": reduce(torch.sum),
    "relu": lambda a: torch.relu(a["x"]),
    "reshape": reshape,
    "shape": lambda a: torch.tensor(a["x"].shape),
    "sigmoid": lambda a: torch.sigmoid(a["x"]),
    "silu": lambda a: F.silu(a["x"]),
    "slice_by_index": slice_by_index,
    "softmax": lambda a: torch.softmax(a["x"], dim=int(a.get("axis", -1))),
    "split": split,
    "sqrt": lambda a: torch.sqrt(a["x"]),
    "squeeze": squeeze,
    "stack": lambda a: torch.stack(a["values"], dim=int(a["axis"])),
    "sub": lambda a: a["x"] - a["y"],
    "tanh": lambda a: torch.tanh(a["x"]),
    "transpose": lambda a: a["x"].permute(ints(a["perm"])),
    "upsample_nearest_neighbor": upsample_nearest,
}
VARIADIC = {"values", "loop_vars", "elem_shape"}


class Runner:
    """One run of one function."""

    def __init__(self, package: Package) -> None:
        self.package = package

    def block(self, block: Any, inputs: dict[str, Any], outer: dict[str, Any],
              outer_scope: Scope | None) -> list[Any]:
        values = dict(outer) | inputs
        scope = Scope(outer_scope)
        for op in block.operations:
            for i, output in enumerate(op.outputs):
                scope.made_by[output.name] = (op, i)
            made = self.operation(op, values, scope)
            values |= zip([o.name for o in op.outputs], made, strict=True)
        return [values[name] for name in block.outputs]

    def operation(self, op: Any, values: dict[str, Any], scope: Scope) -> list[Any]:
        if op.type == "const":
            return [to_torch(v) for v in self.package.outputs(op, scope)]
        if is_constant(op):
            # Those between others are read through them.
            return [to_torch(v) if np.asarray(v).dtype.kind == "f" else None
                    for v in self.package.outputs(op, scope)]
        args: Args = {}
        for parameter, argument in op.inputs.items():
            bound = [
                to_torch(self.package.value(b.value)) if b.WhichOneof("binding") == "value"
                else values[b.name] for b in argument.arguments
            ]
            args[parameter] = bound if parameter in VARIADIC else bound[0]
        if op.type == "while_loop":
            variables = args["loop_vars"]
            condition, body = op.blocks
            while bool(self.inner(condition, variables, values, scope)[0]):
                variables = self.inner(body, variables, values, scope)
            return list(variables)
        rule = RULES.get(op.type)
        if rule is None:
            raise Missing(op.type)
        made = rule(args)
        return made if len(op.outputs) > 1 else [made]

    def inner(self, block: Any, variables: list[Any], values: dict[str, Any],
              scope: Scope) -> list[Any]:
        inputs = dict(zip([i.name for i in block.inputs], variables, strict=True))
        return self.block(block, inputs, values, scope)


def run(package: Package, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of the function "main" of the only ML Program in a package."""
    ((_, model),) = package.programs()
    function = model.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    given = {name: to_torch(array) for name, array in inputs.items()}
    with torch.no_grad():
        outputs = Runner(package).block(block, given, {}, None)
    return {name: value.numpy() for name, value in zip(block.outputs, outputs, strict=True)}
