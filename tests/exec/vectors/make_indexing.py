"""Vectors for ops of indexing.cc."""

import itertools

import numpy as np
import torch
from common import Cases, Const, numbers

cases = Cases("indexing.json", origin="numpy, torch")

TYPES = [np.int32, np.int8, np.uint8, np.int16, np.uint16, np.bool_]


def drawn(shape, dtype, seed, low=None, high=101):
    rng = np.random.default_rng(seed)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    if low is None:
        low = -100 if np.issubdtype(dtype, np.signedinteger) else 0
    return rng.integers(low, high, shape).astype(dtype)


def counted(*shape):
    """Every element differs from every other; fp16 has them all."""
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


def i32(*values):
    return np.array(values, np.int32)


# --- slice_by_index, slice_by_size, slice_update --------------------------------------------------


def slices(rank, begin, end, stride=None, begin_mask=None, end_mask=None, squeeze_mask=None):
    out = []
    for d in range(rank):
        first = None if begin_mask and begin_mask[d] else begin[d]
        if squeeze_mask and squeeze_mask[d]:
            out.append(0 if first is None else first)
            continue
        last = None if end_mask and end_mask[d] else end[d]
        out.append(slice(first, last, stride[d] if stride else None))
    return tuple(out)


SLICES = [
    ((4, 5), dict(begin=[1, 0], end=[3, 5])),
    ((4, 5), dict(begin=[-3, -4], end=[-1, -1])),
    ((4, 5), dict(begin=[0, 0], end=[4, 5], stride=[2, 3])),
    ((4, 5), dict(begin=[3, 4], end=[0, 0], stride=[-1, -2])),
    ((4, 5), dict(begin=[1, 1], end=[0, 0], stride=[-1, -2], begin_mask=[True, True],
                  end_mask=[True, True])),
    ((4, 5), dict(begin=[2, 3], end=[0, 0], stride=[-1, -1], end_mask=[True, False])),
    ((4, 5), dict(begin=[2, 3], end=[0, 1], stride=[-1, 1], begin_mask=[True, False],
                  end_mask=[False, True])),
    ((4, 5), dict(begin=[-99, 2], end=[99, 99])),
    ((4, 5), dict(begin=[99, 4], end=[-99, -99], stride=[-2, -1])),
    ((4, 5), dict(begin=[3, 1], end=[1, 3])),
    ((4, 5), dict(begin=[2, 1], end=[0, 4], squeeze_mask=[True, False])),
    ((4, 5), dict(begin=[-1, 1], end=[0, 4], squeeze_mask=[True, False])),
    ((4, 5), dict(begin=[1, -2], end=[0, 0], squeeze_mask=[True, True])),
    ((4, 5), dict(begin=[3, 0], end=[0, 5], begin_mask=[True, False],
                  squeeze_mask=[True, False])),
    ((4, 5), dict(begin=[2, 0], end=[0, 5], stride=[-1, 2], squeeze_mask=[True, False])),
    ((3, 4, 5), dict(begin=[0, 1, 2], end=[3, 4, 4], stride=[2, 1, 1])),
    ((3, 4, 5), dict(begin=[0, 0, 4], end=[3, 4, 0], stride=[1, 2, -3],
                     end_mask=[False, False, True])),
    ((2, 3, 4, 5), dict(begin=[0, 1, 0, 1], end=[0, 3, 0, 5], stride=[1, 1, 2, 2],
                        begin_mask=[True, False, True, False],
                        end_mask=[True, False, True, False])),
    ((7,), dict(begin=[1], end=[6], stride=[4])),
    ((7,), dict(begin=[0], end=[7], stride=[2147483647])),
    ((7,), dict(begin=[6], end=[0], stride=[-2147483648])),
    ((0, 3), dict(begin=[0, 1], end=[5, 2])),
]  # fmt: skip
for shape, how in SLICES:
    x = counted(*shape)
    cases.add("slice_by_index", {"x": x} | how, [x[slices(len(shape), **how)]])
    if not all(how.get("squeeze_mask", [False])):
        cases.add("slice_by_index", {"x": x} | how | {"begin": i32(*how["begin"]),
                                                      "end": i32(*how["end"])},
                  [x[slices(len(shape), **how)]], "run time")  # fmt: skip
    part = x[slices(len(shape), **how)]
    update = numbers(part.shape, 3)
    expected = x.copy()
    expected[slices(len(shape), **how)] = update
    cases.add("slice_update", {"x": x, "update": update} | how, [expected], opset=8)
for dtype in TYPES:
    x = drawn((5, 6), dtype, 4)
    how = dict(begin=[4, 1], end=[0, 6], stride=[-2, 2])
    cases.add("slice_by_index", {"x": x} | how, [x[slices(2, **how)]], opset=7)
    update = drawn((2, 3), dtype, 5)
    expected = x.copy()
    expected[slices(2, **how)] = update
    cases.add("slice_update", {"x": x, "update": update} | how, [expected], opset=8)
x = counted(4, 5)
cases.add("slice_by_index", {"x": Const(x), "begin": [1, 1], "end": [3, 3]}, [x[1:3, 1:3]],
          "constant")
cases.add("slice_by_index", {"x": x, "begin": Const(np.array([1, 1], np.int8)),
                             "end": Const(np.array([3, 3], np.int8))}, [x[1:3, 1:3]], "int8",
          opset=7)  # fmt: skip
expected = x.copy()
expected[2, 1:4] = [9, 8, 7]
cases.add("slice_update", {"x": x, "update": np.array([[9, 8, 7]], "f4"), "begin": [2, 1],
                           "end": [3, 4], "squeeze_mask": [True, False]}, [expected],
          "update of another rank", opset=8)  # fmt: skip
cases.add("slice_update", {"x": Const(x), "update": np.array([[9, 8, 7]], "f4"), "begin": [2, 1],
                           "end": [3, 4]}, [expected], "constant", opset=8)  # fmt: skip
for how, error in [
    (dict(begin=[0], end=[1, 1]), "begin: has 1 numbers, x has 2 axes"),
    (dict(begin=[0, 0], end=[1, 1, 1]), "end: has 3 numbers"),
    (dict(begin=[0, 0], end=[1, 1], stride=[1, 0]), "stride: is 0 for axis 1"),
    (dict(begin=[0, 0], end=[1, 1], end_mask=[True]), "end_mask: has 1 numbers"),
    (dict(begin=[4, 0], end=[1, 1], squeeze_mask=[True, False]),
     "begin: 4 is no element of axis 0 of x, which has 4"),
    (dict(begin=[-5, 0], end=[1, 1], squeeze_mask=[True, False]), "begin: -5 is no element"),
]:  # fmt: skip
    cases.add("slice_by_index", {"x": x} | how, error=error)
    cases.add("slice_update", {"x": x, "update": numbers((1, 1), 1)} | how, error=error, opset=8)
cases.add("slice_update", {"x": x, "update": numbers((2, 2), 1), "begin": [0, 0], "end": [2, 3]},
          opset=8, error="update: has shape [2, 2], the slice has [2, 3]")
cases.add("slice_update", {"x": x, "update": i32(1, 2).reshape(1, 2), "begin": [0, 0],
                           "end": [1, 2]}, opset=8, error="update: is int32")  # fmt: skip

for begin, size in [([1, 0], [2, 5]), ([0, 2], [-1, -1]), ([-2, -3], [1, 3]), ([-1, 0], [-1, 2]),
                    ([0, 0], [4, 5]), ([2, 1], [0, 3]), ([4, 0], [-1, 5])]:  # fmt: skip
    at = [b + n if b < 0 else b for b, n in zip(begin, x.shape)]
    expected = x[tuple(slice(b, None if s == -1 else b + s) for b, s in zip(at, size))]
    cases.add("slice_by_size", {"x": x, "begin": begin, "size": size}, [expected])
    cases.add("slice_by_size", {"x": x, "begin": i32(*begin), "size": i32(*size)}, [expected],
              "run time")
z = drawn((3, 4, 5), np.int8, 6)
cases.add("slice_by_size", {"x": z, "begin": Const(np.array([1, 0, 2], np.int16)),
                            "size": Const(np.array([2, 3, -1], np.int16))}, [z[1:, :3, 2:]],
          "int8", opset=7)  # fmt: skip
for begin, size, error in [([1, 0], [4, 5], "size: 4 elements from 1 on are not within axis 0"),
                           ([5, 0], [0, 5], "begin: 5 is not within axis 0"),
                           ([-5, 0], [1, 5], "begin: -5 is not within axis 0"),
                           ([0, 0], [1, -2], "size: -2 elements"),
                           ([0], [1, 1], "begin: has 1 numbers")]:  # fmt: skip
    cases.add("slice_by_size", {"x": x, "begin": begin, "size": size}, error=error)

# --- gather ---------------------------------------------------------------------------------------

x = counted(3, 4, 5)
for axis, shape in [(0, (2,)), (1, (6,)), (2, (2, 3)), (-1, (4,)), (-3, (2, 1, 2)), (1, ())]:
    indices = drawn(shape, np.int32, 10 + axis, 0, x.shape[axis])
    indices = np.asarray(indices, np.int32)
    cases.add("gather", {"x": x, "indices": indices, "axis": axis}, [np.take(x, indices, axis)])
indices = i32(2, 0, -1, -3)
cases.add("gather", {"x": x, "indices": indices}, [x[indices]], "negative")
cases.add("gather", {"x": x, "indices": indices}, [x[indices]], "negative", opset=6)
cases.add("gather", {"x": x, "indices": indices}, name="negative", opset=7,
          error="indices: -1 at position 2 is not between 0 and 2")
cases.add("gather", {"x": x, "indices": [3, 0]}, error="indices: 3 at position 0 is not between -3")
cases.add("gather", {"x": x, "indices": [0, 3], "validate_indices": True}, opset=7,
          error="indices: 3 at position 1 is not between 0 and 2")
cases.add("gather", {"x": x, "indices": [0, -4]}, error="indices: -4 at position 1")
cases.add("gather", {"x": x, "indices": numbers((2,), 1)}, error="indices: expected integers")
cases.add("gather", {"x": x, "indices": [0], "axis": 3}, error="axis: 3 is no axis")
cases.add("gather", {"x": x, "indices": np.zeros((0, 2), np.int32), "axis": 1},
          [np.zeros((3, 0, 2, 5), "f4")], "nothing")
cases.add("gather", {"x": np.zeros((0, 2), "f4"), "indices": [0]}, error="indices: 0 at position 0")
vector = numbers((9,), 11)
cases.add("gather", {"x": vector, "indices": i32(8, 0, 3)}, [vector[[8, 0, 3]]], "vector")
cases.add("gather", {"x": vector, "indices": i32(4).reshape(())}, [vector[4]], "scalar")
cases.add("gather", {"x": Const(x), "indices": i32(2, 1)}, [x[[2, 1]]], "constant")
for dtype in [np.int8, np.uint8, np.int16, np.uint16]:
    indices = drawn((3,), dtype, 12, 0, 4)
    cases.add("gather", {"x": x, "indices": indices, "axis": 1}, [np.take(x, indices, 1)],
              f"indices of {np.dtype(dtype).name}", opset=7)
for dtype in TYPES:
    z = drawn((3, 4), dtype, 13)
    cases.add("gather", {"x": z, "indices": i32(3, 3, 0), "axis": 1}, [z[:, [3, 3, 0]]], opset=7)


def batched(x, indices, axis, batch_dims):
    if batch_dims == 0:
        return np.take(x, indices, axis)
    return np.stack([batched(a, b, axis - 1, batch_dims - 1) for a, b in zip(x, indices)])


for shape, chosen, axis, batch_dims in [((2, 4, 3), (2, 5), 1, 1), ((2, 3, 4), (2, 5), 2, 1),
                                        ((2, 3, 4), (2, 3, 2), 2, 2), ((2, 4, 3), (2,), 1, 1),
                                        ((2, 3, 4, 2), (2, 3, 2, 2), -2, 2),
                                        ((3, 4), (3, 2, 2), -1, 1)]:  # fmt: skip
    x = counted(*shape)
    indices = drawn(chosen, np.int32, 14, 0, shape[axis])
    cases.add("gather", {"x": x, "indices": indices, "axis": axis, "batch_dims": batch_dims},
              [batched(x, indices, axis % len(shape), batch_dims)], "batch", opset=6)
x = counted(2, 4, 3)
cases.add("gather", {"x": x, "indices": np.zeros((3, 1), np.int32), "axis": 1, "batch_dims": 1},
          opset=6, error="indices: has shape [3, 1], and x [2, 4, 3], and the first 1 sizes")
cases.add("gather", {"x": x, "indices": np.zeros((2, 1), np.int32), "axis": 1, "batch_dims": 2},
          opset=6, error="batch_dims: 2 is not between 0 and 1")
cases.add("gather", {"x": x, "indices": np.zeros((2, 1), np.int32), "axis": 1, "batch_dims": -1},
          opset=6, error="batch_dims: -1 is not between")

x = counted(3, 4, 5)
for axis, size in [(0, 2), (1, 6), (2, 3), (-1, 1), (-2, 4)]:
    shape = list(x.shape)
    shape[axis] = size
    indices = drawn(shape, np.int32, 15, 0, x.shape[axis])
    expected = torch.gather(torch.tensor(x), axis, torch.tensor(indices).long()).numpy()
    cases.add("gather_along_axis", {"x": x, "indices": indices, "axis": axis}, [expected])
indices = drawn((2, 4), np.int32, 16, -3, 3)
y = counted(3, 4)
cases.add("gather_along_axis", {"x": y, "indices": indices},
          [np.take_along_axis(y, indices, 0)], "negative, default")
small = (np.abs(indices) % 3).astype(np.int8)
cases.add("gather_along_axis", {"x": y, "indices": small},
          [np.take_along_axis(y, small.astype(int), 0)], "int8", opset=7)
for dtype in TYPES:
    z = drawn((3, 4), dtype, 17)
    indices = drawn((3, 2), np.uint16, 18, 0, 4)
    cases.add("gather_along_axis", {"x": z, "indices": indices, "axis": 1},
              [np.take_along_axis(z, indices.astype(int), 1)], opset=7)
cases.add("gather_along_axis", {"x": y, "indices": np.full((1, 4), -1, np.int32)}, opset=7,
          error="indices: -1 at position 0 is not between 0 and 2")
cases.add("gather_along_axis", {"x": y, "indices": np.zeros((1, 3), np.int32)},
          error="indices: has shape [1, 3], expected the sizes of [3, 4] but for axis 0")
cases.add("gather_along_axis", {"x": y, "indices": np.zeros(4, np.int32)},
          error="indices: has shape [4], expected the rank of [3, 4]")


def gather_nd(x, indices, batch_dims=0):
    if batch_dims:
        return np.stack([gather_nd(a, b, batch_dims - 1) for a, b in zip(x, indices)])
    out = [x[tuple(p)] for p in indices.reshape(-1, indices.shape[-1])]
    tail = x.shape[indices.shape[-1]:]
    return np.array(out, x.dtype).reshape(indices.shape[:-1] + tail)


def points(shape, sizes, seed, negative=False):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(-n if negative else 0, n, shape) for n in sizes], -1).astype(
        np.int32)


x = counted(3, 4, 5)
for shape, depth in [((6,), 1), ((4,), 2), ((2, 3), 2), ((5,), 3), ((), 2), ((2, 1, 2), 3)]:
    p = points(shape, x.shape[:depth], 20 + depth)
    cases.add("gather_nd", {"x": x, "indices": p}, [gather_nd(x, p)], f"{shape} {depth}")
p = points((4,), x.shape[:2], 21, negative=True)
cases.add("gather_nd", {"x": x, "indices": p}, [gather_nd(x, p)], "negative")
for shape, batch_dims, depth in [((3, 2), 1, 1), ((3, 2), 1, 2), ((3, 4, 2), 2, 1)]:
    p = points(shape, x.shape[batch_dims : batch_dims + depth], 22)
    cases.add("gather_nd", {"x": x, "indices": p, "batch_dims": batch_dims},
              [gather_nd(x, p, batch_dims)], "batch", opset=6)
z = drawn((3, 4), np.uint8, 23)
p = points((5,), z.shape, 24).astype(np.int16)
cases.add("gather_nd", {"x": z, "indices": p}, [gather_nd(z, p)], "uint8", opset=7)
cases.add("gather_nd", {"x": x, "indices": i32(0, 4).reshape(1, 2)},
          error="indices: 4 at position 1 is not between -4 and 3")
cases.add("gather_nd", {"x": x, "indices": i32(0, -1).reshape(1, 2)}, opset=7,
          error="indices: -1 at position 1 is not between 0 and 3")
cases.add("gather_nd", {"x": x, "indices": np.zeros((1, 4), np.int32)},
          error="indices: has 4 numbers for each place")
cases.add("gather_nd", {"x": x, "indices": np.zeros((2, 1), np.int32), "batch_dims": 1}, opset=6,
          error="and the first 1 sizes must be equal")
cases.add("gather_nd", {"x": x, "indices": np.array(1, np.int32)},
          error="indices: expected a rank of at least 1")

# --- scatter --------------------------------------------------------------------------------------


def combined(mode, a, b):
    with np.errstate(all="ignore"):
        if mode == "div" and np.issubdtype(np.asarray(a).dtype, np.integer):
            return (abs(int(a)) // abs(int(b))) * (1 if (a < 0) == (b < 0) else -1)
        return {"update": lambda: b, "add": lambda: a + b, "sub": lambda: a - b,
                "mul": lambda: a * b, "div": lambda: a / b, "max": lambda: np.maximum(a, b),
                "min": lambda: np.minimum(a, b)}[mode]()  # fmt: skip


def scatter_nd(data, indices, updates, mode):
    out = data.copy()
    depth = indices.shape[-1]
    flat = updates.reshape((-1,) + data.shape[depth:])
    for p, u in zip(indices.reshape(-1, depth), flat):
        at = tuple(p)
        if np.ndim(u) == 0:
            out[at] = combined(mode, out[at], u)
        else:
            for q in np.ndindex(u.shape):
                out[at + q] = combined(mode, out[at + q], u[q])
    return out


def scatter(data, indices, updates, axis, mode):
    out = np.moveaxis(data, axis, 0).copy()
    moved = updates.reshape(data.shape[:axis] + (-1,) + data.shape[axis + 1 :])
    out = scatter_nd(out, indices.reshape(-1, 1), np.moveaxis(moved, axis, 0), mode)
    return np.moveaxis(out, 0, axis)


def scatter_along_axis(data, indices, updates, axis, mode):
    out = data.copy()
    for at in np.ndindex(indices.shape):
        target = list(at)
        target[axis] = indices[at]
        target = tuple(target)
        out[target] = combined(mode, out[target], updates[at])
    return out


# Factors and divisors are powers of two, so that fp16 has all results and fp32 too.
def updates_for(mode, shape, seed):
    if mode in ("mul", "div"):
        return np.exp2(np.random.default_rng(seed).integers(-1, 2, shape)).astype("f4")
    return np.random.default_rng(seed).integers(-20, 20, shape).astype("f4")


MODES = ["update", "add", "sub", "mul", "div", "max", "min"]
data = counted(4, 3, 2) - 8
for mode, axis in zip(MODES, [0, 1, 2, 0, -1, 1, -3]):
    a = axis % 3
    indices = drawn((5,), np.int32, 30, 0, data.shape[a])
    shape = data.shape[:a] + (5,) + data.shape[a + 1 :]
    u = updates_for(mode, shape, 31)
    cases.add("scatter", {"data": data, "indices": indices, "updates": u, "axis": axis,
                          "mode": mode}, [scatter(data, indices, u, a, mode)], mode)  # fmt: skip
    shape = list(data.shape)
    shape[a] = 4
    indices = drawn(shape, np.int32, 32, 0, data.shape[a])
    u = updates_for(mode, shape, 33)
    cases.add("scatter_along_axis", {"data": data, "indices": indices, "updates": u, "axis": axis,
                                     "mode": mode},
              [scatter_along_axis(data, indices, u, a, mode)], mode)  # fmt: skip
    for depth in [1, 2, 3]:
        p = points((2, 3), data.shape[:depth], 34)
        u = updates_for(mode, (2, 3) + data.shape[depth:], 35)
        cases.add("scatter_nd", {"data": data, "indices": p, "updates": u, "mode": mode},
                  [scatter_nd(data, p, u, mode)], f"{mode} {depth}")
    whole = drawn((4, 3), np.int32, 36)
    indices = i32(1, 3, 1)
    u = drawn((3, 3), np.int32, 37, 1, 9) * np.where(drawn((3, 3), np.bool_, 38), 1, -1)
    u = u.astype(np.int32)
    cases.add("scatter", {"data": whole, "indices": indices, "updates": u, "mode": mode},
              [scatter(whole, indices, u, 0, mode)], f"{mode} int32")
    small, v = whole.astype(np.int8), np.abs(u).astype(np.int8)
    # Results beyond int8 wrap.
    expected = scatter(small.astype(np.int32), indices, v.astype(np.int32), 0, mode)
    if mode != "div" or np.abs(expected).max() < 128:
        cases.add("scatter", {"data": small, "indices": indices, "updates": v, "mode": mode},
                  [expected.astype(np.int8)], f"{mode} int8", opset=7)
u = updates_for("add", (2, 3, 2), 39)
cases.add("scatter", {"data": data, "indices": i32(3, 0), "updates": u},
          [scatter(data, i32(3, 0), u, 0, "add")], "default")
cases.add("scatter", {"data": data, "indices": i32(-1, 0), "updates": u},
          [scatter(data, i32(3, 0), u, 0, "add")], "negative")
cases.add("scatter", {"data": Const(data), "indices": i32(3, 0), "updates": u},
          [scatter(data, i32(3, 0), u, 0, "add")], "constant")
u = updates_for("add", (2, 2, 3, 2), 40)
indices = np.array([[3, 0], [0, 1]], np.int32)
cases.add("scatter", {"data": data, "indices": indices, "updates": u},
          [scatter(data, indices, u, 0, "add")], "matrix of indices")
cases.add("scatter", {"data": data, "indices": np.zeros(0, np.int32),
                      "updates": np.zeros((0, 3, 2), "f4")}, [data], "nothing")  # fmt: skip
special = np.array([1, np.nan, -np.inf, 5], "f4")
u = np.array([np.nan, 2, 3, np.inf], "f4")
for mode in ["max", "min", "add", "mul"]:
    cases.add("scatter", {"data": special, "indices": [0, 1, 2, 3], "updates": u, "mode": mode},
              [combined(mode, special, u)], f"{mode} special")
# fp16 data is summed up as fp32: 2048 + 1 would stay 2048.
cases.add("scatter", {"data": np.array([2048.0, 1.0], "f4"), "indices": [0, 0, 0, 0],
                      "updates": np.ones(4, "f4"), "mode": "add"},
          [np.array([2052.0, 1.0], "f4")], "sum of many")  # fmt: skip
b = drawn((3, 2), np.bool_, 41)
cases.add("scatter", {"data": b, "indices": [2, 0], "updates": ~b[:2], "mode": "update"},
          [scatter(b, i32(2, 0), ~b[:2], 0, "update")], "bool")
whole = drawn((3,), np.int32, 42)
for more, error in [
    ({"indices": [3]}, "indices: 3 at position 0 is not between -3 and 2"),
    ({"mode": "pow"}, "mode: 'pow' is none of"), ({"axis": 1}, "axis: 1 is no axis"),
    ({"updates": i32(1, 2)}, "updates: is int32 [2], expected int32 [1]"),
    ({"updates": np.ones(1, "f4")}, "updates: is"),
    ({"updates": i32(0), "mode": "div"}, "updates: integers are divided by 0"),
]:  # fmt: skip
    cases.add("scatter", {"data": whole, "indices": [1], "updates": i32(5)} | more, error=error)
cases.add("scatter", {"data": whole, "indices": [-1], "updates": i32(5)}, opset=7,
          error="indices: -1 at position 0 is not between 0 and 2")
cases.add("scatter", {"data": b, "indices": [2, 0], "updates": b[:2]},
          error="mode: bool data can only be updated")

y, u = counted(3, 4), counted(2, 4) * 2
indices = drawn((2, 4), np.int32, 43, -3, 3)
cases.add("scatter_along_axis", {"data": y, "indices": indices, "updates": u},
          [scatter_along_axis(y, indices, u, 0, "add")], "default, negative")
cases.add("scatter_along_axis", {"data": y, "indices": indices, "updates": u[:1]},
          error="updates: is")
cases.add("scatter_along_axis", {"data": y, "indices": indices[:, :3], "updates": u[:, :3]},
          error="indices: has shape [2, 3], expected the sizes of [3, 4] but for axis 0")
cases.add("scatter_along_axis", {"data": y, "indices": np.full((2, 4), -1, np.int32),
                                 "updates": u}, opset=7,
          error="indices: -1 at position 0 is not between 0 and 2")  # fmt: skip
z, v = drawn((3, 4), np.uint16, 44), drawn((2, 4), np.uint16, 45)
indices = drawn((2, 4), np.uint8, 46, 0, 3)
cases.add("scatter_along_axis", {"data": z, "indices": indices, "updates": v, "mode": "max"},
          [scatter_along_axis(z, indices, v, 0, "max")], "uint16", opset=7)
p = points((3,), y.shape[:1], 47, negative=True)
cases.add("scatter_nd", {"data": y, "indices": p, "updates": counted(3, 4)},
          [scatter_nd(y, p, counted(3, 4), "add")], "default, negative")
cases.add("scatter_nd", {"data": y, "indices": p, "updates": counted(3, 3)},
          error="updates: is")
cases.add("scatter_nd", {"data": y, "indices": i32(0, 4).reshape(1, 2),
                         "updates": np.ones(1, "f4")},
          error="indices: 4 at position 1 is not between -4 and 3")  # fmt: skip
cases.add("scatter_nd", {"data": y, "indices": np.zeros((1, 3), np.int32),
                         "updates": np.ones(1, "f4")},
          error="indices: has 3 numbers for each place")  # fmt: skip
cases.add("scatter_nd", {"data": y, "indices": np.zeros((2, 0), np.int32),
                         "updates": counted(2, 3, 4)}, [y + counted(2, 3, 4).sum(0)],
          "the whole of it")  # fmt: skip

# --- topk, argsort --------------------------------------------------------------------------------


def order(x, axis, ascending):
    """Stable; what is no number comes last."""
    key = x.astype(np.float64) if ascending else -x.astype(np.float64)
    return np.argsort(key, axis=axis, kind="stable").astype(np.int32)


def topk(x, k, axis, ascending):
    indices = order(x, axis, ascending).take(range(k), axis)
    return [np.take_along_axis(x, indices, axis), indices]


x = np.round(numbers((3, 5, 4), 60) * 2)  # with ties
for axis, k, ascending in itertools.product([0, 1, -1], [1, 3], [False, True]):
    cases.add("topk", {"x": x, "k": k, "axis": axis, "ascending": ascending},
              topk(x, k, axis, ascending))
cases.add("topk", {"x": x}, topk(x, 1, -1, False), "default")
cases.add("topk", {"x": x, "k": 4}, topk(x, 4, -1, False), "all")
cases.add("topk", {"x": x, "k": 0}, topk(x, 0, -1, False), "none")
cases.add("topk", {"x": x, "k": -1, "axis": 1}, topk(x, 5, 1, False), "all by -1", opset=7)
cases.add("topk", {"x": x, "k": 2, "return_indices": False}, topk(x, 2, -1, False)[:1],
          "values only", opset=6)
cases.add("topk", {"x": x, "k": 3, "sort": False}, topk(x, 3, -1, False), "unsorted", opset=6)
values, indices = topk(x, 2, 1, True)
cases.add("topk", {"x": x, "k": 2, "axis": 1, "ascending": True, "output_indices_dtype": "uint16"},
          [values, indices.astype(np.uint16)], "uint16", opset=7)
special = np.array([[np.nan, 1, -np.inf, np.inf, -0.0, 0.0, -1]], "f4")
for ascending in [False, True]:
    cases.add("topk", {"x": special, "k": 7, "ascending": ascending},
              topk(special, 7, -1, ascending), "special")
    cases.add("topk", {"x": special, "k": 3, "ascending": ascending},
              topk(special, 3, -1, ascending), "special")
    cases.add("argsort", {"x": special, "ascending": ascending}, [order(special, -1, ascending)])
for dtype in [np.int32, np.int8, np.uint8, np.int16, np.uint16]:
    z = drawn((2, 9), dtype, 61)
    for ascending in [False, True]:
        cases.add("topk", {"x": z, "k": 4, "ascending": ascending}, topk(z, 4, -1, ascending),
                  np.dtype(dtype).name, opset=7)
z = np.array([2147483647, -2147483648, 0, -1, 1], np.int32)
cases.add("topk", {"x": z, "k": 5}, topk(z, 5, -1, False), "int32 ends")
cases.add("topk", {"x": x, "k": Const(np.array(2, np.int8))}, topk(x, 2, -1, False), "k of int8",
          opset=7)
cases.add("topk", {"x": x, "k": 5}, error="k: 5 elements cannot be had from the 4 of axis 2")
cases.add("topk", {"x": x, "k": -1}, opset=6, error="k: -1 elements")
cases.add("topk", {"x": x, "k": -2}, opset=7, error="k: -2 elements")
cases.add("topk", {"x": x, "output_indices_dtype": "int8"}, opset=7,
          error="output_indices_dtype: 'int8' is none of int32, uint16")
for axis, ascending in itertools.product([0, 1, 2, -2], [False, True]):
    cases.add("argsort", {"x": x, "axis": axis, "ascending": ascending},
              [order(x, axis, ascending)])
cases.add("argsort", {"x": x}, [order(x, -1, False)], "default")
cases.add("argsort", {"x": drawn((40,), np.int32, 62, -5, 6)},
          [order(drawn((40,), np.int32, 62, -5, 6), -1, False)], "int32")
cases.add("argsort", {"x": np.zeros((2, 0), "f4")}, [np.zeros((2, 0), np.int32)], "nothing")
cases.add("argsort", {"x": x, "axis": 3}, error="axis: 3 is no axis of 3 dimensions")

cases.write()
