"""Vectors for ops of conversion.cc: formulas of the definitions in numpy. classify has its own test."""

import numpy as np
from common import Cases, Const, numbers

cases = Cases("conversion.json", origin="formulas of the definitions in numpy")
INF, NAN = np.inf, np.nan


def half(values):
    return np.asarray(values, np.float16).astype(np.float32)


# --- cast

RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535),
          "int32": (-(2**31), 2**31 - 1)}
x = np.array([[0, -0.0, 0.75, -0.75, 1.5, -2.5], [127.5, -128.5, 255.75, 300, -300, 65504]], np.float32)
far = np.array([INF, -INF, NAN, 3e9, -3e9, 2147483520, -2147483648, 65535.5], np.float32)
for name, (low, high) in RANGES.items():
    opset = 5 if name == "int32" else 7
    for n, v in (("halves", x), ("far", far)):
        expected = np.where(np.isnan(v), 0, np.clip(np.trunc(np.nan_to_num(v.astype(np.float64), posinf=1e30, neginf=-1e30)), low, high))
        cases.add("cast", {"x": v, "dtype": name}, [expected.astype(np.int64).astype(name)], f"{n} to {name}", opset=opset, fp16=n == "halves")
    ints = np.array([0, 1, -1, 127, -128, 255, 256, -129, 65535, 65536, 2**31 - 1, -(2**31)], np.int32)
    cases.add("cast", {"x": ints, "dtype": name}, [ints.astype(name)], f"int32 to {name}", opset=opset)
    small = ints[:5].astype(name)
    for other in RANGES:
        cases.add("cast", {"x": small, "dtype": other}, [small.astype(other)], f"{name} to {other}", opset=7)
    cases.add("cast", {"x": small, "dtype": "fp32"}, [small.astype(np.float32)], f"{name} to fp32", opset=opset, fp16=False)
    cases.add("cast", {"x": small, "dtype": "bool"}, [small != 0], f"{name} to bool", opset=opset)
    cases.add("cast", {"x": np.array([True, False]), "dtype": name}, [np.array([1, 0], name)], f"bool to {name}", opset=opset)
cases.add("cast", {"x": np.array([16777217, -16777219], np.int32), "dtype": "fp32"}, [np.array([16777216, -16777220], np.float32)], "int32 to fp32 rounds", fp16=False)
cases.add("cast", {"x": half([0, -0.0, 2.0**-24, -3, NAN, INF]), "dtype": "bool"}, [np.array([False, False, True, True, True, True])], "to bool")
single = np.array([65519, 65520, -1e6, 1e-8, 2.0**-25, 1.0004883, 1.0004882, NAN, INF, 0.1], np.float32)
with np.errstate(over="ignore"):
    cases.add("cast", {"x": single, "dtype": "fp16"}, [single.astype(np.float16)], "fp32 to fp16", fp16=False)
cases.add("cast", {"x": half([0.1, -65504, 2.0**-24, NAN, INF]).astype(np.float16), "dtype": "fp32"}, [half([0.1, -65504, 2.0**-24, NAN, INF])], "fp16 to fp32", fp16=False)
cases.add("cast", {"x": np.array([70000, -3, 2049, 2051], np.int32), "dtype": "fp16"}, [np.array([INF, -3, 2048, 2052], np.float16)], "int32 to fp16", fp16=False)
cases.add("cast", {"x": single, "dtype": "fp32"}, [single], "same type", fp16=False)
cases.add("cast", {"x": Const(ints), "dtype": "int32"}, [ints], "constant of the same type")
cases.add("cast", {"x": np.zeros((2, 0), np.float32), "dtype": "int32"}, [np.zeros((2, 0), np.int32)], "empty")
cases.add("cast", {"x": np.float32(-7.5).reshape(()), "dtype": "int32"}, [np.array(-7, np.int32)], "scalar")
long = numbers((3, 901), seed=5, spread=300)
cases.add("cast", {"x": long, "dtype": "int8"}, [np.clip(np.trunc(long), -128, 127).astype(np.int8)], "long", opset=7)
cases.add("cast", {"x": x, "dtype": "text"}, None, "type", error="dtype: expected fp16, fp32, int8")
cases.add("cast", {"x": x, "dtype": 3}, None, "number", error="dtype: expected one string, got int32")

# --- quantize and dequantize


def spread(v, axis, rank):
    return v if np.ndim(v) == 0 else v.reshape([-1 if d == axis % rank else 1 for d in range(rank)])


def quantize(x, scale, zero_point, name, axis=0):
    low, high = RANGES[name]
    # The quotient in fp32, as it is defined; halves go to the even side.
    q = np.rint((x / spread(scale, axis, x.ndim)).astype(np.float32)).astype(np.float64)
    return np.clip(q + spread(zero_point, axis, x.ndim).astype(np.float64), low, high).astype(name)


def dequantize(q, scale, zero_point, axis=0):
    return (spread(scale, axis, q.ndim).astype(np.float64) * (q.astype(np.float64) - spread(zero_point, axis, q.ndim).astype(np.float64))).astype(np.float32)


zero = np.array(0)
ties = half([[0.25, 0.75, 1.25, -0.25, -0.75, -1.25], [63.5, -64, 127.5, 300, -300, 60000]])
for name in ("int8", "uint8"):
    low, high = RANGES[name]
    cases.add("quantize", {"input": ties, "scale": 0.5, "output_dtype": name}, [quantize(ties, np.float32(0.5), zero, name)], f"{name} ties and ends", opset=7)
    for point in (low, high, 3):
        z = np.array(point, name)
        cases.add("quantize", {"input": ties, "scale": 0.5, "zero_point": Const(z), "output_dtype": name},
                  [quantize(ties, np.float32(0.5), z, name)], f"{name} zero point {point}", opset=7)
    x = numbers((2, 3, 2, 4), seed=6, spread=30)
    scale, z = half([0.25, 0.0625, 2]), np.array([1, 5, 100], name)
    for axis in (1, -3):
        p = {"input": x, "scale": Const(scale), "output_dtype": name, "axis": axis}
        cases.add("quantize", p, [quantize(x, scale, zero, name, 1)], f"{name} axis {axis}", opset=7)
        cases.add("quantize", p | {"zero_point": Const(z)}, [quantize(x, scale, z, name, 1)], f"{name} axis {axis} zero points", opset=9)
    y = numbers((4, 3), seed=7, spread=30)
    cases.add("quantize", {"input": y, "scale": Const(scale), "zero_point": Const(z), "output_dtype": name, "axis": -1},
              [quantize(y, scale, z, name, 1)], f"{name} last axis", opset=8)
    q = np.array([[low, high, 0], [1, 2, 100]], name)
    for point in (None, low, high, 7):
        p = {"input": q, "scale": 0.5} | ({} if point is None else {"zero_point": Const(np.array(point, name))})
        cases.add("dequantize", p, [dequantize(q, np.float32(0.5), np.array(point or 0, name))], f"{name} zero point {point}", opset=7)
    r = np.random.default_rng(8).integers(low, high + 1, (2, 3, 2)).astype(name)
    for axis in (1, -2):
        p = {"input": r, "scale": Const(scale), "axis": axis}
        cases.add("dequantize", p, [dequantize(r, scale, zero, 1)], f"{name} axis {axis}", opset=7)
        cases.add("dequantize", p | {"zero_point": Const(z)}, [dequantize(r, scale, z, 1)], f"{name} axis {axis} zero points", opset=9)
    cases.add("quantize", {"input": half([NAN, INF, -INF]), "scale": 0.5, "zero_point": Const(np.array(9, name)), "output_dtype": name},
              [np.array([9, high, low], name)], f"{name} special", opset=7)
third = np.array([0.1, 0.3, 0.5, 0.7, -0.9, 12.75], np.float32)
cases.add("quantize", {"input": third, "scale": Const(np.array(0.1, np.float32)), "output_dtype": "int8"},
          [quantize(third, np.float32(0.1), zero, "int8")], "quotient in fp32", opset=7, fp16=False)
cases.add("quantize", {"input": long, "scale": 2.5, "output_dtype": "int8"}, [quantize(long, np.float32(2.5), zero, "int8")], "long", opset=7)
cases.add("quantize", {"input": ties, "scale": -0.5, "output_dtype": "int8"}, [quantize(ties, np.float32(-0.5), zero, "int8")], "negative scale", opset=7)
x, q = numbers((2, 3), seed=9), np.zeros((2, 3), np.int8)
bad = [
    ({"scale": 0.0}, "scale: expected finite numbers other than 0, got 0"),
    ({"scale": "inf"}, "scale"),
    ({"scale": 1}, "scale: expected fp16 or fp32, got int32"),
    ({"output_dtype": "int4"}, "output_dtype: expected int8 or uint8, got 'int4'"),
    ({"scale": Const(half([1, 2, 3]))}, "axis: is missing, and scale is a vector"),
    ({"scale": Const(half([1, 2])), "axis": 1}, "scale: expected 3 numbers, one for each position of axis 1, got 2"),
    ({"scale": Const(half([1, 2, 3])), "axis": 2}, "axis: 2 is no axis of 2 dimensions"),
    ({"scale": Const(half([[1, 2, 3]])), "axis": 1}, "scale: expected a scalar or a vector"),
    ({"zero_point": Const(np.array(1, np.uint8))}, "zero_point: expected int8, the output_dtype, got uint8"),
    ({"zero_point": Const(np.array([1, 2, 3], np.int8))}, "zero_point: expected the shape of scale"),
    ({"zero_point": 1.5}, "zero_point: expected integers"),
    ({"input": q}, "input: expected fp16 or fp32, got int8"),
]  # fmt: skip
for i, (change, error) in enumerate(bad):
    cases.add("quantize", {"input": x, "scale": 0.5, "output_dtype": "int8"} | change, None, f"bad {i}", opset=7, error=error)
for i, (change, error) in enumerate([
    ({"zero_point": Const(np.array(1, np.uint8))}, "zero_point: expected int8, the type of input, got uint8"),
    ({"input": x}, "input: expected int8 or uint8, got fp"),
    ({"scale": Const(half([1, 2])), "axis": 0, "zero_point": Const(np.array([1], np.int8))}, "zero_point: expected the shape of scale"),
]):  # fmt: skip
    cases.add("dequantize", {"input": q, "scale": 0.5} | change, None, f"bad {i}", opset=7, error=error)
cases.write()
