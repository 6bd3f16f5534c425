"""Vectors for ops of reduction.cc: numpy and torch, floats in float64."""

import numpy as np
import torch
from common import Cases, Const, numbers

cases = Cases("reduction.json", origin="numpy and torch, floats in float64")
INF, NAN = np.inf, np.nan


def half(values):
    return np.asarray(values, np.float16).astype(np.float32)


def log_sum_exp(x, axis, keepdims):
    w = torch.from_numpy(np.asarray(x, np.float64))
    dims = tuple(range(w.ndim)) if axis is None else axis
    return torch.logsumexp(w, dims, keepdim=keepdims).numpy()


OPS = {
    "reduce_sum": np.sum, "reduce_mean": np.mean, "reduce_max": np.max, "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_l1_norm": lambda x, axis, keepdims: np.sum(np.abs(x), axis=axis, keepdims=keepdims),
    "reduce_l2_norm": lambda x, axis, keepdims: np.sqrt(np.sum(np.square(x), axis=axis, keepdims=keepdims)),
    "reduce_sum_square": lambda x, axis, keepdims: np.sum(np.square(x), axis=axis, keepdims=keepdims),
    "reduce_log_sum": lambda x, axis, keepdims: np.log(np.sum(x, axis=axis, keepdims=keepdims)),
    "reduce_log_sum_exp": log_sum_exp,
}  # fmt: skip

# Axes at either end, in the middle, apart, together, negative, unordered; sizes of 1 between.
AXES = [
    ((2, 3, 5), None, None), ((2, 3, 5), [-1], True), ((2, 3, 5), [0], False), ((2, 3, 5), [1], True),
    ((2, 3, 5), [2, 0], False), ((2, 3, 5), [-1, -2], None), ((2, 3, 2, 5), [0, 2], True),
    ((2, 3, 2, 2), [2, 3], False), ((2, 1, 3, 1), [1, 2], False), ((2, 3, 2, 2), [1, 3], False),
    ((4,), [0], False), ((1, 1), None, True), ((3, 1, 2), [1], False), ((), None, None),
]  # fmt: skip
for i, (shape, axes, keep) in enumerate(AXES):
    x = numbers(shape, seed=i, spread=1.5) if shape else np.float32(2.5).reshape(())
    n = np.random.default_rng(i).integers(-4, 5, shape)
    n = np.asarray(n, np.int32)
    for k, (op, function) in enumerate(OPS.items()):
        v = np.abs(x) + half(0.5) if op == "reduce_log_sum" else x
        v = half(v)
        p = {"x": v} | ({} if axes is None else {"axes": axes}) | ({} if keep is None else {"keep_dims": keep})
        axis = None if axes is None else tuple(axes)
        name = f"{shape} {axes} {keep}"
        expected = np.asarray(function(v.astype(np.float64), axis=axis, keepdims=bool(keep)))
        if i < 5 or k % 3 == i % 3:
            cases.add(op, p, [expected.astype(np.float32)], name)
        if k % 4 == i % 4 or shape == (2, 3, 5) and axes == [-1]:
            m = np.abs(n) + 1 if op == "reduce_log_sum" else n
            with np.errstate(all="ignore"):
                expected = np.asarray(function(m.astype(np.int64), axis=axis, keepdims=bool(keep)))
            cases.add(op, p | {"x": m}, [np.trunc(expected).astype(np.int32)], "ints " + name)

# Runs longer than what is added up at a time, contiguous and across, and all of it.
long = numbers((2, 1040), seed=40)
for op in ("reduce_sum", "reduce_max"):
    for axes in ([1], [0]):
        p = {"x": Const(long) if axes == [0] else long, "axes": axes}
        if op == "reduce_sum" or axes == [1]:
            cases.add(op, p, [np.asarray(OPS[op](long.astype(np.float64), axis=tuple(axes), keepdims=False)).astype(np.float32)], f"long {axes}")
wide = numbers((501, 2), seed=41)
cases.add("reduce_log_sum_exp", {"x": wide, "axes": [0]}, [log_sum_exp(wide, (0,), False).astype(np.float32)], "long")
cases.add("reduce_log_sum_exp", {"x": wide.T.copy(), "axes": [1]}, [log_sum_exp(wide, (0,), False).astype(np.float32)], "long")

# NaN and infinity; sums that overflow only where they are stored; empty ones.
odd = half([[1, NAN, 3], [INF, 1, 2], [-INF, 1, INF], [-INF, -INF, -INF], [60000, 60000, -60000]])
for op, expected in {
    "reduce_sum": [NAN, INF, NAN, -INF, 60000], "reduce_max": [NAN, INF, INF, -INF, 60000],
    "reduce_min": [NAN, 1, -INF, -INF, -60000], "reduce_mean": [NAN, INF, NAN, -INF, 20000],
    "reduce_log_sum_exp": [NAN, INF, INF, -INF, 60000 + np.log(2)],
    "reduce_l1_norm": [NAN, INF, INF, INF, 180000], "reduce_prod": [NAN, INF, -INF, -INF, -2.16e14],
}.items():
    cases.add(op, {"x": odd, "axes": [1]}, [np.array(expected, np.float32)], "special")
    cases.add(op, {"x": odd.T.copy(), "axes": [0]}, [np.array(expected, np.float32)], "special across")
cases.add("reduce_l2_norm", {"x": half([[300, 400]]), "axes": [-1]}, [half([500])], "squares beyond fp16")
empty = np.zeros((2, 0), np.float32)
cases.add("reduce_sum", {"x": empty, "axes": [1]}, [half([0, 0])], "empty")
cases.add("reduce_prod", {"x": empty, "axes": [1]}, [half([1, 1])], "empty")
cases.add("reduce_mean", {"x": empty, "axes": [1]}, [half([NAN, NAN])], "empty")
cases.add("reduce_sum", {"x": empty, "axes": [0]}, [np.zeros((0,), np.float32)], "empty result")
cases.add("reduce_max", {"x": empty, "axes": [1]}, None, "empty", error="x: has nothing to reduce")
cases.add("reduce_log_sum_exp", {"x": empty}, None, "empty", error="x: has nothing to reduce")
cases.add("reduce_mean", {"x": np.array([-7, 2], np.int32)}, [np.array(-2, np.int32)], "ints cut toward zero")
cases.add("reduce_sum", {"x": np.array([2**31 - 1, 2], np.int32)}, [np.array(-(2**31) + 1, np.int32)], "ints wrap")
cases.add("reduce_prod", {"x": np.array([65536, 65537], np.int32)}, [np.array(65536, np.int32)], "ints wrap")
for op in OPS:
    x = numbers((2, 3), seed=1)
    cases.add(op, {"x": x, "axes": [2]}, None, "axis", error="axes: 2 is no axis of 2 dimensions")
    cases.add(op, {"x": x, "axes": [-3]}, None, "axis", error="axes: -3 is no axis of 2 dimensions")
    cases.add(op, {"x": np.array([True])}, None, "bool", error="x: expected numbers, got bool")

# --- argmax and argmin

ties = half([[1, 3, 3, 0], [2, 2, 2, 2], [-1, 0, 5, 5]])
for op, function in (("reduce_argmax", np.argmax), ("reduce_argmin", np.argmin)):
    cases.add(op, {"x": ties}, [function(ties, -1).astype(np.int32)], "ties, the axis left out")
    for axis in (0, 1, -1, -2):
        for keep in (True, False):
            p = {"x": ties, "axis": axis, "keep_dims": keep}
            cases.add(op, p, [function(ties, axis, keepdims=keep).astype(np.int32)], f"{axis} {keep}")
    x = numbers((2, 3, 4, 2), seed=60)
    for axis in (1, 2):
        cases.add(op, {"x": x, "axis": axis}, [function(x, axis).astype(np.int32)], f"rank 4 {axis}")
    n = np.array([[5, -7, 5], [0, 9, 9]], np.int32)
    cases.add(op, {"x": n, "axis": 1}, [function(n, 1).astype(np.int32)], "ints")
    cases.add(op, {"x": n, "axis": 0}, [function(n, 0).astype(np.int32)], "ints across")
    for opset, name in ((7, "uint16"), (9, "int32")):
        cases.add(op, {"x": ties, "axis": 1, "output_dtype": name}, [function(ties, 1).astype(name)], name, opset=opset)
    nan = half([[1, NAN, 3, NAN], [INF, -INF, INF, -INF]])
    cases.add(op, {"x": nan}, [function(nan, -1).astype(np.int32)], "special")
    cases.add(op, {"x": nan.T.copy(), "axis": 0}, [function(nan, -1).astype(np.int32)], "special across")
    cases.add(op, {"x": half([2, 1])}, [np.asarray(function(half([2, 1]))).astype(np.int32)], "rank 1")
    line = numbers((1, 2100), seed=61)
    if op == "reduce_argmax":
        cases.add(op, {"x": line}, [function(line, -1).astype(np.int32)], "long")
    cases.add(op, {"x": x, "axis": 4}, None, "axis", error="axis: 4 is no axis of 4 dimensions")
    cases.add(op, {"x": np.float32(1).reshape(())}, None, "scalar", error="axis: -1 is no axis of 0 dimensions")
    cases.add(op, {"x": ties, "output_dtype": "int8"}, None, "type", opset=7, error="output_dtype: expected int32 or uint16, got 'int8'")
    cases.add(op, {"x": np.zeros((2, 0), np.float32)}, None, "empty", error="x: has nothing to choose from")
    cases.add(op, {"x": np.zeros((0, 2), np.float32)}, [np.zeros((0,), np.int32)], "empty result")

# --- softmax


def softmax(x, axis):
    return torch.softmax(torch.from_numpy(np.asarray(x, np.float64)), axis).numpy().astype(np.float32)


for shape, axes in (((5,), (0,)), ((2, 3), (0, 1, -1)), ((2, 3, 4), (0, 1, 2, -2)), ((2, 3, 2, 3), (1, 2, 3)), ((1, 37), (1,)), ((37, 2), (0,))):
    x = numbers(shape, seed=len(shape), spread=3)
    for axis in axes:
        cases.add("softmax", {"x": x, "axis": axis}, [softmax(x, axis)], f"{shape} {axis}")
x = numbers((3, 2, 18), seed=62, spread=20)
cases.add("softmax", {"x": x}, [softmax(x, -1)], "the axis left out")
cases.add("softmax", {"x": Const(x), "axis": 0}, [softmax(x, 0)], "constant")
cases.add("softmax", {"x": np.float32(3).reshape(1)}, [half([1])], "one")
cases.add("softmax", {"x": half([[60000, 60000, -60000]]), "axis": 1}, [half([[0.5, 0.5, 0]])], "large")
masked = half([[1, -INF, 1], [-INF, -INF, -INF], [NAN, 1, 2], [INF, 1, 2]])
expected = half([[0.5, 0, 0.5], [NAN] * 3, [NAN] * 3, [NAN] * 3])
cases.add("softmax", {"x": masked, "axis": 1}, [expected], "special")
cases.add("softmax", {"x": masked.T.copy(), "axis": 0}, [expected.T.copy()], "special across")
cases.add("softmax", {"x": np.zeros((2, 0), np.float32)}, [np.zeros((2, 0), np.float32)], "empty")
cases.add("softmax", {"x": x, "axis": 3}, None, "axis", error="axis: 3 is no axis of 3 dimensions")
cases.add("softmax", {"x": np.array([1], np.int32)}, None, "ints", error="x: expected fp16 or fp32, got int32 [1]")
wide = numbers((2, 520), seed=63)
cases.add("softmax", {"x": wide, "axis": 0}, [softmax(wide, 0)], "long")

# --- cumsum


def cumsum(x, axis, exclusive, reverse):
    y = np.flip(x, axis) if reverse else x
    sums = np.cumsum(y, axis=axis)
    if exclusive:
        sums = sums - y
    return np.flip(sums, axis) if reverse else sums


for exclusive in (False, True):
    for reverse in (False, True):
        n = f"exclusive {exclusive} reverse {reverse}"
        for shape, axis in (((2, 3, 4), 0), ((2, 3, 4), 1), ((2, 3, 4), -1), ((5,), 0)):
            x = numbers(shape, seed=70)
            p = {"axis": axis, "exclusive": exclusive, "reverse": reverse}
            cases.add("cumsum", {"x": x} | p, [cumsum(x.astype(np.float64), axis, exclusive, reverse).astype(np.float32)], f"{n} {shape} {axis}")
        i = np.array([[2**31 - 1, 1, -5], [7, 0, 2]], np.int32)
        cases.add("cumsum", {"x": i, "axis": 1, "exclusive": exclusive, "reverse": reverse},
                  [cumsum(i.astype(np.int64), 1, exclusive, reverse).astype(np.int32)], n + " ints")
x = numbers((3, 2), seed=71)
cases.add("cumsum", {"x": x}, [np.cumsum(x.astype(np.float64), 0).astype(np.float32)], "all left out")
cases.add("cumsum", {"x": half([1, INF, 2, -INF, 1])}, [half([1, INF, INF, NAN, NAN])], "special")
cases.add("cumsum", {"x": half([INF, 1]), "exclusive": True}, [half([0, INF])], "exclusive infinity")
cases.add("cumsum", {"x": np.zeros((0, 2), np.float32)}, [np.zeros((0, 2), np.float32)], "empty")
cases.add("cumsum", {"x": x, "axis": 2}, None, "axis", error="axis: 2 is no axis of 2 dimensions")

# --- band_part


def band(x, lower, upper):
    rows, columns = np.indices(x.shape[-2:])
    inside = np.ones(x.shape[-2:], bool)
    if lower >= 0:
        inside &= rows - columns <= lower
    if upper >= 0:
        inside &= columns - rows <= upper
    return np.where(inside, x, np.zeros_like(x))


x = numbers((2, 4, 5), seed=80)
for lower, upper in ((0, -1), (-1, 0), (0, 0), (1, 2), (2, 0), (-1, -1), (3, 1), (100, 100), (-1, 1)):
    cases.add("band_part", {"x": x, "lower": lower, "upper": upper}, [band(x, lower, upper)], f"{lower} {upper}")
    tall = x.reshape(2, 5, 4)[0]
    cases.add("band_part", {"x": tall, "lower": lower, "upper": upper}, [band(tall, lower, upper)], f"tall {lower} {upper}")
cases.add("band_part", {"x": x, "upper": 0}, [band(x, -1, 0)], "lower left out")
cases.add("band_part", {"x": x, "lower": 1}, [band(x, 1, -1)], "upper left out")
inf = np.full((3, 3), -INF, np.float32)
cases.add("band_part", {"x": inf, "lower": 0, "upper": 0}, [np.where(np.eye(3) == 1, inf, np.float32(0))], "infinity is selected")
cases.add("band_part", {"x": np.ones((2, 3), bool), "lower": 0, "upper": 0}, [np.eye(2, 3).astype(bool)], "bool")
cases.add("band_part", {"x": np.arange(6, dtype=np.int32).reshape(2, 3), "lower": 0}, [band(np.arange(6, dtype=np.int32).reshape(2, 3), 0, -1)], "ints")
cases.add("band_part", {"x": np.zeros((2, 0), np.float32), "lower": 0}, [np.zeros((2, 0), np.float32)], "empty")
cases.add("band_part", {"x": half([1, 2])}, None, "rank", error="x: expected two dimensions or more")
cases.write()
