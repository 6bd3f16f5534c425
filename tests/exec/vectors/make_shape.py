"""Vectors for ops of shape.cc."""

import numpy as np
from common import Cases, Const, numbers

cases = Cases("shape.json", origin="numpy")

TYPES = [np.int32, np.int8, np.uint8, np.int16, np.uint16, np.bool_]


def drawn(shape, dtype, seed):
    """Whole numbers of a type, both signs where it has them."""
    rng = np.random.default_rng(seed)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    low = -100 if np.issubdtype(dtype, np.signedinteger) else 0
    return rng.integers(low, 101, shape).astype(dtype)


def i32(*values):
    return np.array(values, np.int32)


# --- reshape ---------------------------------------------------------------------------------

x = numbers((2, 3, 4), seed=1)
for name, shape, opset in [
    ("plain", [4, 6], 5), ("open", [3, -1], 5), ("open first", [-1, 2, 2], 5),
    ("to a vector", [-1], 5), ("zero keeps", [0, 4, 3], 5), ("zeros keep", [0, 0, -1], 6),
    ("longer", [2, 1, 3, 2, 2], 5), ("zero from the right", [6, 0], 7),
    ("zero of the last", [1, 2, 3, 0], 8),
]:  # fmt: skip
    if opset >= 7:
        full = [x.shape[i - len(shape)] if s == 0 else s for i, s in enumerate(shape)]
    else:
        full = [x.shape[i] if s == 0 else s for i, s in enumerate(shape)]
    cases.add("reshape", {"x": x, "shape": shape}, [x.reshape(full)], name, opset=opset)
y = numbers((2, 50), seed=2)
cases.add("reshape", {"x": y, "shape": [1, 0, -1, 0]}, [y.reshape(1, 1, 2, 50)],
          "zero beyond the left", opset=7)
cases.add("reshape", {"x": x, "shape": i32(6, 4)}, [x.reshape(6, 4)], "shape at run time")
cases.add("reshape", {"x": x, "shape": Const(np.array([6, -1], np.int8))}, [x.reshape(6, 4)],
          "shape of int8", opset=7)
cases.add("reshape", {"x": np.array(3, np.float32), "shape": [1, 1]}, [np.full((1, 1), 3.0, "f4")],
          "scalar")
cases.add("reshape", {"x": numbers((1, 1), 3), "shape": Const(np.zeros(0, np.int32))},
          [numbers((1, 1), 3).reshape(())], "to a scalar")
cases.add("reshape", {"x": np.zeros((0, 3), "f4"), "shape": [3, -1]}, [np.zeros((3, 0), "f4")],
          "of nothing")
cases.add("reshape", {"x": np.zeros((0, 3), "f4"), "shape": [0, 3]}, [np.zeros((0, 3), "f4")],
          "of nothing kept")
cases.add("reshape", {"x": Const(x), "shape": [4, 6]}, [x.reshape(4, 6)], "constant")
for dtype in TYPES:
    z = drawn((2, 6), dtype, 4)
    cases.add("reshape", {"x": z, "shape": [3, 4]}, [z.reshape(3, 4)], np.dtype(dtype).name,
              opset=7)
for name, shape, opset, error in [
    ("too few", [2, 3], 5, "shape: [2, 3] cannot hold the 24 elements of x"),
    ("indivisible", [5, -1], 5, "shape: [5, -1] cannot hold"),
    ("two open", [-1, -1], 5, "two -1"), ("negative", [-2, 12], 5, "a negative size"),
    ("zero of another rank", [0, -1], 6, "which before iOS 17 needs as many sizes"),
    ("beyond 63 bits", [1 << 30, 1 << 30, 1 << 30], 5, "cannot hold"),
]:  # fmt: skip
    cases.add("reshape", {"x": x, "shape": shape}, name=name, opset=opset, error=error)
cases.add("reshape", {"x": np.zeros((0, 3), "f4"), "shape": [0, -1]}, name="open of nothing",
          error="leaves open what -1 is")

# --- reshape_like, expand_dims, squeeze, flatten2d ----------------------------------------------


def scalars(values, dtype):
    return [Const(np.array(v, dtype)) for v in values]


for name, refs, begins, ends, masks, shape in [
    ("two", [(2, 3, 4), (1, 5, 6)], [0, 1], [2, 0], [False, True], (2, 3, 5, 6)),
    ("negative", [(7, 12), (3, 9, 15)], [1, -1], [2, 3], [False, False], (12, 15)),
    ("cut", [(6, 30)], [-9], [99], [False], (6, 30)),
]:  # fmt: skip
    x = numbers((4, 45), 5)
    cases.add("reshape_like", {
        "x": x, "ref_tensors": [numbers(r, 6) if i == 0 else drawn(r, np.int32, 6)
                                for i, r in enumerate(refs)],
        "begins": scalars(begins, np.int32), "ends": scalars(ends, np.int32),
        "end_masks": scalars(masks, np.bool_)}, [x.reshape(shape)], name, opset=6)  # fmt: skip
like = {"x": x, "ref_tensors": [numbers((2, 3), 6)], "begins": scalars([0], np.int32),
        "ends": scalars([2], np.int32), "end_masks": scalars([False], np.bool_)}  # fmt: skip
cases.add("reshape_like", like, name="sizes", opset=6, error="ref_tensors: give shape [2, 3]")
cases.add("reshape_like", like | {"ends": scalars([2, 3], np.int32)}, name="counts", opset=6,
          error="ends: has 2 values, expected one for each of 1")

x = numbers((2, 3), 7)
for axes, shape in [([0], (1, 2, 3)), ([-1], (2, 3, 1)), ([1, 3], (2, 1, 3, 1)),
                    ([3, 0], (1, 2, 3, 1)), ([-1, -4], (1, 2, 3, 1)),
                    ([0, 1, -1], (1, 1, 2, 3, 1))]:  # fmt: skip
    cases.add("expand_dims", {"x": x, "axes": axes}, [x.reshape(shape)])
cases.add("expand_dims", {"x": np.array(2, np.float32), "axes": [0]}, [np.full(1, 2.0, "f4")])
for dtype in TYPES:
    z = drawn((2, 3), dtype, 8)
    cases.add("expand_dims", {"x": z, "axes": [1]}, [z[:, None]], opset=7)
cases.add("expand_dims", {"x": x, "axes": [3]}, error="axes: 3 is no axis of 3 dimensions")
cases.add("expand_dims", {"x": x, "axes": [-4]}, error="axes: -4 is no axis of 3 dimensions")
cases.add("expand_dims", {"x": x, "axes": [1, -3]}, error="axes: axis 1 is given twice")

x = numbers((1, 2, 1, 3, 1), 9)
for axes, shape in [(None, (2, 3)), ([0], (2, 1, 3, 1)), ([-1, 2], (1, 2, 3)),
                    ([0, 1], (2, 1, 3, 1)), ([1, 3], (1, 2, 1, 3, 1))]:  # fmt: skip
    cases.add("squeeze", {"x": x} | ({} if axes is None else {"axes": axes}), [x.reshape(shape)])
cases.add("squeeze", {"x": numbers((1, 1), 9)}, [numbers((1, 1), 9).reshape(())], "to a scalar")
cases.add("squeeze", {"x": drawn((1, 3), np.uint16, 1), "axes": [0]},
          [drawn((1, 3), np.uint16, 1)[0]], opset=7)
cases.add("squeeze", {"x": x, "axes": [5]}, error="axes: 5 is no axis of 5 dimensions")

for shape, axis in [((3,), -1), ((3,), 1), ((4, 3), -1), ((2, 3, 2), -1), ((5, 5, 2), 1),
                    ((2, 3, 4), 0), ((2, 3, 4), 3), ((2, 3, 4), -2), ((0, 3, 4), 2),
                    ((), 0)]:  # fmt: skip
    x = numbers(shape, 10)
    full = axis + len(shape) if axis < 0 else axis
    expected = x.reshape(int(np.prod(shape[:full])), int(np.prod(shape[full:])))
    cases.add("flatten2d", {"x": x, "axis": axis}, [expected])
cases.add("flatten2d", {"x": numbers((2, 3, 4), 10)}, [numbers((2, 3, 4), 10).reshape(2, 12)],
          "default")
cases.add("flatten2d", {"x": numbers((2, 3), 10), "axis": 3}, error="axis: 3 is not between -2")

# --- shape, fill, fill_like, range_1d -------------------------------------------------------------

for x in [numbers((2, 3, 5), 1), numbers((4,), 1), np.zeros((2, 0, 1), "f4"),
          drawn((3, 1), np.bool_, 1), drawn((7, 2), np.int32, 1)]:  # fmt: skip
    cases.add("shape", {"x": x}, [np.array(x.shape, np.int32)])
cases.add("shape", {"x": np.array(1, np.float32)}, [np.zeros(0, np.int32)], "scalar")

for shape, value in [((2, 3), 1.5), ((4,), -7), ((2, 2), True), ((0, 3), 2.5), ((1, 2, 3), 0.0)]:
    expected = np.full(shape, value)
    expected = expected.astype({bool: np.bool_, int: np.int32, float: np.float32}[type(value)])
    cases.add("fill", {"shape": list(shape), "value": value}, [expected])
    cases.add("fill", {"shape": i32(*shape), "value": value}, [expected], "run time")
    cases.add("fill_like", {"ref_tensor": numbers(shape, 1), "value": value}, [expected], opset=6)
    cases.add("fill_like", {"ref_tensor": drawn(shape, np.int32, 1), "value": value}, [expected],
              opset=6)
cases.add("fill", {"shape": [2, 2]}, [np.zeros((2, 2), "f4")], "default")
cases.add("fill", {"shape": [3], "value": Const(np.array(np.inf, "f4"))},
          [np.full(3, np.inf, "f4")], "inf")
cases.add("fill", {"shape": Const(np.zeros(0, np.int32)), "value": 4.0},
          [np.array(4, np.float32)], "scalar")
cases.add("fill", {"shape": [2, -1], "value": 1.0}, error="shape: [2, -1] has a negative size")
cases.add("fill", {"shape": [2], "value": [1.0, 2.0]}, error="value: expected one number")
cases.add("fill", {"shape": [1 << 30, 1 << 30, 1 << 30], "value": 1.0}, name="beyond 63 bits",
          error="cannot make a value")
cases.add("fill_like", {"ref_tensor": numbers((2, 3), 1)}, [np.zeros((2, 3), "f4")], "default",
          opset=6)

for start, end, step in [(0, 5, 1), (2, 11, 3), (2, 12, 3), (10, 0, -3), (5, 5, 1), (7, 2, 1),
                         (-4, 4, 2), (3, 4, 100)]:  # fmt: skip
    cases.add("range_1d", {"start": start, "end": end, "step": step},
              [np.arange(start, end, step, dtype=np.int32)])
for start, end, step in [(0.0, 2.0, 0.5), (1.0, 2.125, 0.25), (3.0, -1.0, -0.75),
                         (-0.5, 0.5, 4.0), (1.0, 0.0, 0.5)]:  # fmt: skip
    cases.add("range_1d", {"start": start, "end": end, "step": step},
              [np.arange(start, end, step, dtype=np.float64).astype("f4")])
# The number of elements is that of fp32 arithmetic.
cases.add("range_1d", {"start": 0.0, "end": 0.3, "step": 0.1},
          [(np.arange(3) * np.float64(np.float32(0.1))).astype("f4")], "fp32 count", fp16=False)
cases.add("range_1d", {"start": i32(1).reshape(()), "end": i32(9).reshape(()),
                       "step": i32(4).reshape(())}, [i32(1, 5)], "run time")  # fmt: skip
cases.add("range_1d", {"start": 0, "end": 5, "step": 0}, error="step: expected another number")
cases.add("range_1d", {"start": 0.0, "end": 5.0, "step": 0.0}, error="step: 0 makes no range")
cases.add("range_1d", {"start": 0, "end": 5.0, "step": 1}, error="end: expected one number of")
cases.add("range_1d", {"start": 0.0, "end": Const(np.array(np.inf, "f4")), "step": 1.0},
          error="makes no range")

# --- one_hot, non_zero ----------------------------------------------------------------------------


def one_hot(indices, size, axis, on, off):
    out = np.full(indices.shape + (size,), off)
    for at in np.ndindex(indices.shape):
        if 0 <= indices[at] < size:
            out[at + (indices[at],)] = on
    return np.moveaxis(out, -1, axis)


indices = np.array([[0, 2, 1], [3, -1, 0]], np.int32)
for axis in [0, 1, 2, -1, -2, -3]:
    cases.add("one_hot", {"indices": indices, "one_hot_vector_size": 3, "axis": axis,
                          "on_value": 1.5, "off_value": -0.5},
              [one_hot(indices, 3, axis, 1.5, -0.5).astype("f4")], f"axis {axis}")  # fmt: skip
cases.add("one_hot", {"indices": indices, "one_hot_vector_size": 4},
          [one_hot(indices, 4, -1, 1, 0).astype(np.int32)], "default")
cases.add("one_hot", {"indices": indices, "one_hot_vector_size": 4, "off_value": 7},
          [one_hot(indices, 4, -1, 1, 7).astype(np.int32)], "off")
cases.add("one_hot", {"indices": indices, "one_hot_vector_size": i32(4).reshape(()),
                      "on_value": True, "off_value": False},
          [one_hot(indices, 4, -1, True, False)], "bool, size at run time")  # fmt: skip
cases.add("one_hot", {"indices": i32(1).reshape(()), "one_hot_vector_size": 2, "on_value": 2.0,
                      "off_value": 0.0}, [np.array([0, 2], "f4")], "scalar")  # fmt: skip
cases.add("one_hot", {"indices": np.array([1, 0], np.uint8), "one_hot_vector_size": 2},
          [np.array([[0, 1], [1, 0]], np.int32)], "uint8", opset=7)
cases.add("one_hot", {"indices": indices, "one_hot_vector_size": 0},
          [np.zeros((2, 3, 0), np.int32)], "size 0")
cases.add("one_hot", {"indices": indices, "one_hot_vector_size": -1},
          error="one_hot_vector_size: expected at least 0, got -1")
cases.add("one_hot", {"indices": indices, "one_hot_vector_size": 2, "axis": 3},
          error="axis: 3 is no axis of 3 dimensions")
cases.add("one_hot", {"indices": indices, "one_hot_vector_size": 2, "on_value": 1,
                      "off_value": 0.0}, error="off_value: is")  # fmt: skip
cases.add("one_hot", {"indices": numbers((2,), 1), "one_hot_vector_size": 2},
          error="indices: expected integers")

for x in [np.where(numbers((3, 4, 2), 11) > 0, numbers((3, 4, 2), 11), 0).astype("f4"),
          drawn((4, 3), np.bool_, 12), drawn((9,), np.int32, 13) % 3,
          np.array([0.0, -0.0, np.nan, np.inf, 6e-8], "f4"), np.zeros((2, 2), "f4"),
          np.zeros((0, 3), "f4"), np.array([[5, 0], [0, -128]], np.int8)]:  # fmt: skip
    x = np.asarray(x)
    expected = np.argwhere(x).astype(np.int32)
    cases.add("non_zero", {"x": x}, [expected], opset=7)
cases.add("non_zero", {"x": np.array(2, np.float32)}, [np.zeros((1, 0), np.int32)], "scalar")

cases.write()
