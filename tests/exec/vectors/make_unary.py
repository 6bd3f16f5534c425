"""Vectors for ops of unary.cc: torch in double precision, or the formula of the op's definition."""

import numpy as np
import torch
import torch.nn.functional as F
from common import Cases, Const, numbers

cases = Cases("unary.json", origin="torch, and formulas of the definitions in numpy; in float64")
INF, NAN = np.inf, np.nan


def half(values):
    """Numbers that fp16 has, as fp32."""
    return np.asarray(values, np.float16).astype(np.float32)


def wide(x):
    return torch.from_numpy(np.asarray(x, np.float64))


def by_torch(function, x):
    return function(wide(x)).numpy().astype(np.float32)


x = half([[-30.5, -7.25, -3, -2.5, -1.5, -1, -0.625, -0.5], [-0.0, 0, 0.25, 0.5, 1, 1.5, 2.5, 12.25]])
tensor = numbers((2, 3, 3), seed=2, spread=3)
special = half([NAN, INF, -INF, 0, -0.0, 65504, -65504, 2.0**-24])
long = numbers((3, 1401), seed=3, spread=2)  # more than is worked on at a time

# --- Functions without parameters

PLAIN = {
    "relu": F.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid, "silu": F.silu,
    "softplus": lambda v: torch.logaddexp(v, torch.zeros_like(v)), "softsign": F.softsign,
    "tanh": torch.tanh, "erf": torch.erf, "exp": torch.exp, "exp2": torch.exp2,
    "abs": torch.abs, "sign": torch.sgn, "square": torch.square, "ceil": torch.ceil,
    "floor": torch.floor, "round": torch.round, "sin": torch.sin, "cos": torch.cos,
    "tan": torch.tan, "sinh": torch.sinh, "cosh": torch.cosh, "atan": torch.atan,
    "gelu": F.gelu,
}  # fmt: skip
for op, function in PLAIN.items():
    cases.add(op, {"x": x}, [by_torch(function, x)], "sides")
    cases.add(op, {"x": tensor}, [by_torch(function, tensor)], "rank 3")
    cases.add(op, {"x": np.float32(0.75).reshape(())}, [by_torch(function, np.float32(0.75))], "scalar")
    cases.add(op, {"x": Const(tensor[0])}, [by_torch(function, tensor[0])], "constant")
    cases.add(op, {"x": np.zeros((0, 3), np.float32)}, [np.zeros((0, 3), np.float32)], "empty")
    expected = by_torch(function, special)
    if op == "sign":
        expected[0] = NAN  # numpy and the definition; torch gives 0
    # Large angles are as good as the argument; fp16 rounds 2^-24 the same way.
    cases.add(op, {"x": special}, [expected], "special")
    cases.add(op, {"x": np.array([[1, 2]], np.int8)}, None, "type",
              error="x: expected fp16 or fp32" if op not in ("abs", "sign", "square", "exp2") else "is int8 [1, 2], expected fp32",
              fp16=False)
for op in ("tanh", "relu"):
    cases.add(op, {"x": long}, [by_torch(PLAIN[op], long)], "long")
ends = half([-1, -0.96875, -0.75, -0.5, -0.25, -0.0, 0, 2.0**-10, 0.125, 0.375, 0.625, 0.9375, 1])
for op, function in {"acos": torch.acos, "asin": torch.asin, "atanh": torch.atanh}.items():
    cases.add(op, {"x": ends}, [by_torch(function, ends)], "range")
    outside = half([1.5, -1.5, NAN, INF])
    cases.add(op, {"x": outside}, [by_torch(function, outside)], "outside")
    cases.add(op, {"x": ends.reshape(1, 13)[:, :6]}, [by_torch(function, ends.reshape(1, 13)[:, :6])], "rank 2")
halves = half([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 1023.5, -1024.5])
cases.add("round", {"x": halves}, [np.round(halves)], "ties to even")
big = np.array([8388609.0, -8388607.0, 4194303.5, -1e30, 16777216.0], np.float32)
for op in ("round", "ceil", "floor"):
    cases.add(op, {"x": big}, [getattr(np, op)(big)], "large", fp16=False)
positive = half(np.abs(tensor) + 0.25)
cases.add("sqrt", {"x": positive}, [np.sqrt(positive.astype(np.float64)).astype(np.float32)], "positive")
cases.add("sqrt", {"x": half([0, -0.0, 4, -1, INF, NAN])}, [half([0, -0.0, 2, NAN, INF, NAN])], "special")
angles = np.array([1e4, 12345.678, -54321.5, 1e6, 3e20, 0.7853982, 3.1415927, -1.5707964], np.float32)
for op in ("sin", "cos", "tan"):
    # A tangent near its pole is as far off as its argument's last bit moves it.
    cases.add(op, {"x": angles}, [by_torch(PLAIN[op], angles)], "large angles", fp16=False)
far = half([-100, -20, -9.5, 9.5, 20, 80])
for op in ("sigmoid", "silu", "softplus", "tanh", "gelu", "sinh", "cosh", "exp"):
    cases.add(op, {"x": far}, [by_torch(PLAIN[op], far)], "far")

# --- Integers

ints = np.array([[-7, -1, 0], [1, 2, 5]], np.int32)
least = np.array([-(2**31), 2**31 - 1], np.int32)
cases.add("abs", {"x": ints}, [np.abs(ints)], "ints")
cases.add("abs", {"x": least}, [np.abs(least)], "ints wrap")
cases.add("sign", {"x": ints}, [np.sign(ints)], "ints")
cases.add("square", {"x": ints}, [np.square(ints)], "ints")
cases.add("square", {"x": np.array([65536, 46341], np.int32)},
          [np.array([0, 46341 * 46341 - 2**32], np.int32)], "ints wrap")
cases.add("exp2", {"x": ints}, [np.array([[0, 0, 1], [2, 4, 32]], np.int32)], "ints")
cases.add("threshold", {"x": ints, "alpha": 1}, [np.maximum(ints, 1)], "ints")
cases.add("logical_not", {"x": np.array([[True, False, True]])}, [np.array([[False, True, False]])], "bool")
cases.add("logical_not", {"x": ints}, [ints == 0], "ints")
cases.add("logical_not", {"x": x}, None, "floats", error="x: expected bool, got")

# --- gelu

for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"):
    for name, v in (("sides", x), ("rank 3", tensor)):
        w = wide(v)
        y = {"EXACT": lambda: F.gelu(w), "TANH_APPROXIMATION": lambda: F.gelu(w, approximate="tanh"),
             "SIGMOID_APPROXIMATION": lambda: w * torch.sigmoid(1.702 * w)}[mode]()
        cases.add("gelu", {"x": v, "mode": mode}, [y.numpy().astype(np.float32)], f"{mode} {name}")
cases.add("gelu", {"x": x, "mode": "exact"}, None, "mode", error="mode: expected EXACT, TANH_APPROXIMATION")

# --- alpha

for alpha in (0.25, -1.5, 0.0, 2.0):
    a = float(alpha)
    w = wide(tensor)
    cases.add("leaky_relu", {"x": tensor, "alpha": a}, [F.leaky_relu(w, a).numpy().astype(np.float32)], f"alpha {a}")
    cases.add("elu", {"x": tensor, "alpha": a},
              [torch.where(w < 0, a * torch.expm1(w), w).numpy().astype(np.float32)], f"alpha {a}")
    cases.add("threshold", {"x": tensor, "alpha": a}, [np.maximum(tensor, np.float32(a))], f"alpha {a}")
    cases.add("thresholded_relu", {"x": tensor, "alpha": a},
              [np.where(tensor >= np.float32(a), tensor, np.float32(0))], f"alpha {a}")
for op, expected in {
    "leaky_relu": [NAN, INF, -INF, 0, -0.0, 65504, -32752, 2.0**-25],
    "elu": [NAN, INF, -0.5, 0, -0.0, 65504, -0.5, 2.0**-24],
    "threshold": [NAN, INF, 0.5, 0.5, 0.5, 65504, 0.5, 0.5],
    "thresholded_relu": [NAN, INF, 0, 0, 0, 65504, 0, 0],
}.items():
    expected[7] = 2.0**-24 if op in ("leaky_relu", "elu") else expected[7]
    cases.add(op, {"x": special, "alpha": 0.5}, [np.array(expected, np.float32)], "special")
    # From iOS 17 on a parameter may have another type.
    cases.add(op, {"x": half([2, -2]).astype(np.float16), "alpha": Const(np.array(1.0, np.float32))},
              [np.array([2, {"leaky_relu": -2, "elu": np.expm1(-2.0), "threshold": 1,
                             "thresholded_relu": 0}[op]], np.float16)], "types", opset=7, fp16=False)
    cases.add(op, {"x": x, "alpha": half([1, 2])}, None, "vector", error="alpha: expected one number, got fp")
    cases.add(op, {"x": x}, None, "missing", error="parameter 'alpha' is missing")
at_edge = half([0.4375, 0.5, 0.5625])
cases.add("thresholded_relu", {"x": at_edge, "alpha": 0.5}, [half([0, 0.5, 0.5625])], "edge")

# --- alpha and beta

for alpha, beta in ((0.5, 2.0), (-0.25, 1.5), (2.0, 0.25), (1.5, -1.0)):
    p = {"x": tensor, "alpha": alpha, "beta": beta}
    w = tensor.astype(np.float64)
    name = f"{alpha} {beta}"
    clamped = np.where(w >= 0, np.minimum(beta, w), np.minimum(beta, alpha * w))
    cases.add("clamped_relu", p, [clamped.astype(np.float32)], name)
    cases.add("scaled_tanh", p, [(alpha * np.tanh(beta * w)).astype(np.float32)], name)
    cases.add("linear_activation", p, [(alpha * w + beta).astype(np.float32)], name)
    cases.add("sigmoid_hard", p, [np.minimum(np.maximum(alpha * w + beta, 0), 1).astype(np.float32)], name)
    cases.add("clip", p, [np.minimum(np.maximum(w, alpha), beta).astype(np.float32)], name)
    if alpha < beta:
        for opset in (7, 9):
            cases.add("clip", p, [np.clip(w, alpha, beta).astype(np.float32)], name, opset=opset)
    else:
        cases.add("clip", p, None, name + " empty", opset=7, error="alpha: expected less than beta")
cases.add("clip", {"x": special, "alpha": -1.0, "beta": 2.0}, [half([NAN, 2, -1, 0, -0.0, 2, -1, 2.0**-24])], "special")
cases.add("clip", {"x": x, "alpha": "-inf", "beta": 1.0}, None, "text", error="alpha")
cases.add("clamped_relu", {"x": special, "alpha": 0.5, "beta": 4.0},
          [half([NAN, 4, -INF, 0, -0.0, 4, -32752, 2.0**-24])], "special")
cases.add("sigmoid_hard", {"x": special, "alpha": 0.25, "beta": 0.5}, [half([NAN, 1, 0, 0.5, 0.5, 1, 0, 0.5])], "special")

# --- epsilon

for eps in (None, 0.5, 0.0009765625):
    p = {} if eps is None else {"epsilon": eps}
    e = {"log": 1e-45, "rsqrt": 1e-12, "inverse": 1e-4} if eps is None else dict.fromkeys(("log", "rsqrt", "inverse"), eps)
    w = positive.astype(np.float64)
    for opset in (5, 7):
        name = f"epsilon {eps} opset {opset}"
        # In fp16 the default of inverse is rounded, which moves no result by more than its own rounding.
        cases.add("log", {"x": positive} | p, [np.log(w + e["log"]).astype(np.float32)], name, opset=opset)
        cases.add("rsqrt", {"x": positive} | p, [(1 / np.sqrt(w + e["rsqrt"])).astype(np.float32)], name, opset=opset)
        cases.add("inverse", {"x": positive} | p, [(1 / (w + e["inverse"])).astype(np.float32)], name,
                  opset=opset)
# Defaults at zero: 1e-45 is the least number of fp32, and zero in fp16; so is 1e-12.
zero = np.zeros(2, np.float32)
cases.add("log", {"x": zero}, [np.full(2, np.log(2.0**-149), np.float32)], "zero", fp16=False)
cases.add("log", {"x": zero.astype(np.float16)}, [np.full(2, -INF, np.float16)], "zero fp16", fp16=False)
cases.add("rsqrt", {"x": zero}, [np.full(2, 1e6, np.float32)], "zero", fp16=False, rtol=1e-6)
cases.add("rsqrt", {"x": zero.astype(np.float16)}, [np.full(2, INF, np.float16)], "zero fp16", fp16=False)
cases.add("inverse", {"x": zero}, [np.full(2, 1e4, np.float32)], "zero", fp16=False)
cases.add("inverse", {"x": zero.astype(np.float16)}, [np.full(2, 1 / float(np.float16(1e-4)), np.float16)], "zero fp16", fp16=False)
cases.add("log", {"x": zero.astype(np.float16), "epsilon": Const(np.array(1e-6, np.float32))},
          [np.full(2, np.log(1e-6), np.float16)], "fp32 epsilon", opset=7, fp16=False)
cases.add("log", {"x": half([-1, INF, NAN, 1])}, [half([NAN, INF, NAN, 0])], "special")
cases.add("inverse", {"x": half([INF, -INF, NAN]), "epsilon": 0.5}, [half([0, -0.0, NAN])], "special")

# --- A number for each channel

for shape in ((2, 3), (2, 3, 4), (1, 3, 2, 5), (2, 3, 1, 2, 2), (1, 3, 701)):
    v = numbers(shape, seed=len(shape), spread=3)
    alpha, beta = half([0.25, -0.5, 2]), half([1, 0.5, -2])
    spread = (1, 3) + (1,) * (len(shape) - 2)
    a, b = alpha.astype(np.float64).reshape(spread), beta.astype(np.float64).reshape(spread)
    w = v.astype(np.float64)
    cases.add("prelu", {"x": v, "alpha": Const(alpha)}, [np.where(w < 0, a * w, w).astype(np.float32)], f"rank {len(shape)} {shape[-1]}")
    if shape[-1] < 700:
        cases.add("softplus_parametric", {"x": v, "alpha": Const(alpha), "beta": Const(beta)},
                  [(a * np.logaddexp(0, b * w)).astype(np.float32)], f"rank {len(shape)}", rtol=2e-6)
v = numbers((2, 3, 2), seed=9)
cases.add("prelu", {"x": v, "alpha": Const(half([1, 2]))}, None, "channels", error="alpha: expected a number for each of 3 channels, got")
cases.add("prelu", {"x": v, "alpha": Const(half([[1, 2, 3]]))}, None, "rank", error="alpha: expected a number for each of 3 channels, got")
cases.add("prelu", {"x": v[0, :, 0], "alpha": Const(half([1, 2, 3]))}, None, "rank 1", error="x: expected two dimensions or more")
cases.add("softplus_parametric", {"x": v, "alpha": Const(half([1, 2, 3])), "beta": Const(half([1]))}, None, "channels", error="beta: expected a number for each of 3")
cases.add("softplus_parametric", {"x": half([[200, -200]]), "alpha": Const(half([1, 1])), "beta": Const(half([1, 1]))},
          [half([[200, 0]])], "no overflow")
cases.write()
