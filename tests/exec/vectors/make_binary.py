"""Vectors for ops of binary.cc: numpy, whose rules of broadcasting these ops follow."""

import numpy as np
from common import Cases, Const, numbers

cases = Cases("binary.json", origin="numpy, floats in float64")
INF, NAN = np.inf, np.nan


def half(values):
    return np.asarray(values, np.float16).astype(np.float32)


def wrapped(values):
    return np.asarray(values, np.int64).astype(np.int32)


def in_double(function):
    def run(x, y):
        with np.errstate(all="ignore"):
            return function(np.asarray(x, np.float64), np.asarray(y, np.float64)).astype(np.float32)
    return run


FLOATS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "real_div": np.true_divide,
    "floor_div": np.floor_divide, "mod": np.mod, "maximum": np.maximum, "minimum": np.minimum,
}  # fmt: skip
INTS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply,
    "real_div": lambda x, y: np.trunc(x / y).astype(np.int64), "floor_div": np.floor_divide,
    "mod": np.mod, "maximum": np.maximum, "minimum": np.minimum,
}  # fmt: skip
TRUTHS = {
    "equal": np.equal, "not_equal": np.not_equal, "less": np.less, "less_equal": np.less_equal,
    "greater": np.greater, "greater_equal": np.greater_equal,
}  # fmt: skip

# Shapes: equal, scalar on each side, bias for each channel and each column, both sides stretched,
# ranks that differ, runs in the middle, nothing at all.
SHAPES = [
    ((2, 3), (2, 3)), ((2, 3), ()), ((), (4,)), ((1,), (2, 2)), ((2, 3, 2, 2), (1, 3, 1, 1)),
    ((2, 3, 4), (4,)), ((3, 1), (1, 4)), ((2, 1, 3), (4, 1)), ((2, 1, 2, 3), (2, 2, 1, 3)),
    ((5,), (2, 1, 5)), ((0, 3), (1, 3)), ((2, 0), ()), ((1, 2, 1, 2), (3, 1, 2, 1)),
]  # fmt: skip
rng = np.random.default_rng(5)
for i, (sx, sy) in enumerate(SHAPES):
    x = numbers(sx, seed=2 * i, spread=2) if sx else np.float32(1.25).reshape(())
    y = numbers(sy, seed=2 * i + 1, spread=2) if sy else np.float32(-0.75).reshape(())
    y = np.where(y == 0, np.float32(1), y)
    n = f"{sx} {sy}"
    for k, (op, function) in enumerate(FLOATS.items()):
        if op in ("add", "sub", "real_div") or k % 4 == i % 4:
            cases.add(op, {"x": x, "y": y}, [in_double(function)(x, y)], n)
    nx, ny = rng.integers(-9, 9, sx), rng.integers(1, 9, sy) * rng.choice([-1, 1], sy)
    nx, ny = np.asarray(nx, np.int32), np.asarray(ny, np.int32)
    for k, (op, function) in enumerate(INTS.items()):
        if k % 3 == i % 3:
            cases.add(op, {"x": nx, "y": ny}, [wrapped(function(nx.astype(np.int64), ny.astype(np.int64)))], "ints " + n)
    rounded = np.round(x), np.round(y)
    for k, (op, function) in enumerate(TRUTHS.items()):
        if k % 3 == i % 3:
            cases.add(op, {"x": rounded[0], "y": rounded[1]}, [function(*rounded)], n)
            cases.add(op, {"x": nx, "y": ny}, [function(nx, ny)], "ints " + n)

# One side is a constant, or both are one value (nothing may be worked on in place then).
x, y = numbers((2, 3, 4), seed=50), numbers((3, 1), seed=51)
for op, function in FLOATS.items():
    cases.add(op, {"x": x, "y": Const(y)}, [in_double(function)(x, y)], "constant y")
    cases.add(op, {"x": Const(y), "y": x}, [in_double(function)(y, x)], "constant x")
    cases.add(op, {"x": x, "y": 0.5}, [in_double(function)(x, np.float32(0.5))], "number")
# More than a piece, and a channel that begins inside one.
x, y = numbers((1, 3, 901), seed=52), numbers((3, 1), seed=53)
cases.add("mul", {"x": x, "y": y}, [in_double(np.multiply)(x, y)], "long channels")
cases.add("less", {"x": x[:, :1, :800], "y": y}, [np.less(x[:, :1, :800], y)], "long")

# --- Signs, zeros, infinities, NaN

sx = half([7, -7, 7, -7, 0, -0.0, 6, -6, 0.3, 5.5, 1, -1, 0, INF, -INF, 3, -3, NAN, 2, NAN])
sy = half([3, 3, -3, -3, 3, 3, -3, 3, 0.1, -0.5, 0, 0, 0, 2, 2, INF, INF, 1, NAN, NAN])
for op, function in FLOATS.items():
    expected = in_double(function)(sx, sy)
    if op == "floor_div":
        # numpy divides a number by infinity of the other sign to -1, and by zero to infinity.
        with np.errstate(all="ignore"):
            expected = np.floor_divide(sx, sy)
    cases.add(op, {"x": sx, "y": sy}, [expected], "special")
for op, function in TRUTHS.items():
    cases.add(op, {"x": sx, "y": sy}, [function(sx, sy)], "special")
    cases.add(op, {"x": sx, "y": sx.copy()}, [function(sx, sx)], "equal ones")
big = half([60000, -60000, 2.0**-24, 65504])
cases.add("add", {"x": big, "y": big}, [half(2) * big], "overflow")
cases.add("mul", {"x": big, "y": big}, [in_double(np.multiply)(big, big)], "overflow")
# Just below a whole quotient: the rest decides, not the rounded quotient.
close = np.array([2.9999998, 1e7, 0.7, -0.7, 1e-3], np.float32), np.array([1, 3, 0.1, 0.1, 1e-4], np.float32)
cases.add("floor_div", {"x": close[0], "y": close[1]}, [in_double(np.floor_divide)(*close)], "close", fp16=False)
cases.add("mod", {"x": close[0], "y": close[1]}, [in_double(np.mod)(*close)], "close", fp16=False)

# --- Integers

ends = np.array([2**31 - 1, -(2**31), 65536, -65536, -1], np.int32), np.array([1, -1, 65536, 32768, 2], np.int32)
for op, function in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply)):
    cases.add(op, {"x": ends[0], "y": ends[1]}, [wrapped(function(ends[0].astype(np.int64), ends[1].astype(np.int64)))], "ints wrap")
four = np.array([7, -7, 7, -7], np.int32), np.array([2, 2, -2, -2], np.int32)
cases.add("real_div", {"x": four[0], "y": four[1]}, [np.array([3, -3, -3, 3], np.int32)], "ints cut toward zero")
cases.add("floor_div", {"x": four[0], "y": four[1]}, [np.array([3, -4, -4, 3], np.int32)], "ints to minus infinity")
cases.add("mod", {"x": four[0], "y": four[1]}, [np.array([1, 1, -1, -1], np.int32)], "ints sign of the divisor")
least = np.array([-(2**31)], np.int32)
cases.add("floor_div", {"x": least, "y": np.array([-1], np.int32)}, [least], "ints least by minus one")
for op in ("real_div", "floor_div", "mod"):
    cases.add(op, {"x": four[0], "y": np.array([1, 0, 1, 1], np.int32)}, None, "by zero", error="y: division of an integer by zero")
small = np.array([100, -128], np.int8), np.array([100, -1], np.int8)
cases.add("add", {"x": small[0], "y": small[1]}, [(small[0] + small[1])], "int8", opset=9)
cases.add("maximum", {"x": small[0], "y": small[1]}, [np.maximum(*small)], "int8", opset=9)
unsigned = np.array([250, 3], np.uint8), np.array([10, 5], np.uint8)
cases.add("sub", {"x": unsigned[0], "y": unsigned[1]}, [unsigned[0] - unsigned[1]], "uint8", opset=9)
cases.add("less", {"x": unsigned[0], "y": unsigned[1]}, [np.less(*unsigned)], "uint8", opset=9)

# --- Powers

base = half([2, -2, 0.5, 3, -1.5, 0, 1, 9, 10])
for power in (2.0, 3.0, 1.0, 0.0, -1.0, 0.5, -0.5, 2.5, -2.0, 4.0):
    cases.add("pow", {"x": base, "y": power}, [in_double(np.power)(base, np.float32(power))], f"power {power}")
cases.add("pow", {"x": half([2, -2, 0, -0.0, INF, -INF, NAN, 1, 4, -8]), "y": half([10, 3, 0, -1, 0.5, 0.5, 0, NAN, INF, 0.33325195])},
          [half([1024, -8, 1, -INF, INF, INF, 1, 1, INF, NAN])], "special")
cases.add("pow", {"x": base, "y": half([[1], [2], [0.25]])}, [in_double(np.power)(base, half([[1], [2], [0.25]]))], "broadcast")
cases.add("pow", {"x": np.array([3, -2, 2, 7, 2, -1, 0], np.int32), "y": np.array([4, 5, 31, 0, -1, -3, 2], np.int32)},
          [np.array([81, -32, -(2**31), 1, 0, -1, 0], np.int32)], "ints")
cases.add("pow", {"x": np.array([0], np.int32), "y": np.array([-1], np.int32)}, None, "zero to -1", error="y: division of an integer by zero")

# --- Types that differ

h, f = half([1, 2.5]).astype(np.float16), half([0.25, -4])
cases.add("add", {"x": h, "y": f}, [(h + f).astype(np.float32)], "fp16 and fp32", opset=7, fp16=False)
cases.add("add", {"x": h, "y": Const(f)}, [(h + f).astype(np.float16)], "fp16 and a constant of fp32", opset=7, fp16=False)
cases.add("mul", {"x": f, "y": np.array([3, -2], np.int32)}, [f * half([3, -2])], "float and int")
cases.add("less", {"x": h, "y": f}, [np.less(h, f)], "fp16 and fp32", opset=7, fp16=False)

# --- Logic

b = np.array([[True, False, True, False]]), np.array([[True, True, False, False], [False, False, True, True]])
for op, function in {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}.items():
    cases.add(op, {"x": b[0], "y": b[1]}, [function(*b)], "broadcast")
    cases.add(op, {"x": b[1], "y": Const(b[1][:, ::-1].copy())}, [function(b[1], b[1][:, ::-1])], "equal shapes")
    cases.add(op, {"x": b[1], "y": True}, [function(b[1], True)], "number")
    cases.add(op, {"x": b[0], "y": f[:1]}, None, "floats", error="y: expected bool, got")

# --- select

condition = np.array([[True, False, True], [False, False, True]])
a, c = numbers((2, 3), seed=60), numbers((2, 3), seed=61)
cases.add("select", {"cond": condition, "a": a, "b": c}, [np.where(condition, a, c)], "equal shapes")
cases.add("select", {"cond": condition, "a": a, "b": 7.5}, [np.where(condition, a, np.float32(7.5))], "number")
cases.add("select", {"cond": condition, "a": half([NAN, INF, 1]), "b": half([[2], [-INF]])},
          [np.where(condition, half([NAN, INF, 1]), half([[2], [-INF]]))], "all stretched")
cases.add("select", {"cond": np.array(True), "a": a, "b": c}, [a], "scalar condition")
wide = np.array([[[True]], [[False]]])
cases.add("select", {"cond": wide, "a": a, "b": c}, [np.where(wide, a, c)], "condition is larger")
for dtype in (np.int32, np.int8, np.uint16, np.bool_):
    i, j = np.array([[1, 0, 3]]).astype(dtype), np.array([[0], [1]]).astype(dtype)
    cases.add("select", {"cond": condition, "a": i, "b": j}, [np.where(condition, i, j)], np.dtype(dtype).name, opset=9)
cases.add("select", {"cond": condition, "a": a.astype(np.float16), "b": c}, [np.where(condition, a, c)], "types differ", opset=7, fp16=False)
cases.add("select", {"cond": np.array([1, 0, 2], np.int32), "a": a, "b": c}, [np.where([1, 0, 2], a, c)], "ints")
cases.add("select", {"cond": a, "a": a, "b": c}, None, "floats", error="cond: expected bool, got")
cases.add("select", {"cond": np.array([True, False]), "a": a, "b": c}, None, "shapes", error="cond: [2] cannot be stretched")

# --- What does not fit

x, y = numbers((2, 3), seed=1), numbers((2, 2), seed=2)
for op in list(FLOATS) + list(TRUTHS) + ["pow"]:
    cases.add(op, {"x": x, "y": y}, None, "shapes", error="y: [2, 2] cannot be stretched to the shape of x, [2, 3]")
cases.add("add", {"x": numbers((0,), seed=1), "y": numbers((2,), seed=2)}, None, "zero and two", error="y: [2] cannot be stretched")
cases.add("add", {"x": b[0], "y": b[0].copy()}, None, "bool", error="x: expected numbers, got bool")
cases.add("add", {"x": x, "y": "text"}, None, "string", error="y: expected a tensor, got")
cases.write()
