"""Vectors for ops of normalization.cc: the formulas in double, PyTorch where it has the op."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from common import Cases, Const
from common import numbers as gaussian

cases = Cases("normalization.json", origin="the formulas in double precision; PyTorch where it has the op")
TOLERANCE = {"rtol": 2e-6, "atol": 2e-6}
EPSILON = {"float32": float(np.float32(1e-5)), "float16": float(np.float32(1e-5))}


def numbers(shape, seed, spread=1.0):
    return np.round(gaussian(shape, seed, spread) * 32) / 32


def double(array):
    return np.asarray(array, np.float64)


def channel(values, rank):
    return double(values).reshape((1, -1) + (1,) * (rank - 2))


def batch_norm(name, shape, gamma=True, beta=True, epsilon=None, x=None, opset=5, **more):
    x = numbers(shape, 1) if x is None else x
    c = x.shape[1]
    mean, variance = numbers((c,), 2), abs(numbers((c,), 3)) + np.float32(0.125)
    inputs = {"x": x, "mean": Const(mean), "variance": Const(variance)}
    y = (double(x) - channel(mean, x.ndim)) / np.sqrt(
        channel(variance, x.ndim) + (1e-5 if epsilon is None else epsilon))
    if gamma:
        inputs["gamma"] = Const(numbers((c,), 4))
        y *= channel(inputs["gamma"].array, x.ndim)
    if beta:
        inputs["beta"] = Const(numbers((c,), 5))
        y += channel(inputs["beta"].array, x.ndim)
    if epsilon is not None:
        inputs["epsilon"] = epsilon
    cases.add("batch_norm", inputs, [y.astype(x.dtype)], name=name, opset=opset, **(TOLERANCE | more))


batch_norm("all", (2, 3, 4, 5))
batch_norm("plain", (1, 3, 7), gamma=False, beta=False)
batch_norm("gamma", (1, 3, 2, 2, 3), beta=False, epsilon=0.25)
batch_norm("beta", (2, 5, 3), gamma=False, epsilon=0.0)
batch_norm("no_samples", (0, 3, 2))
odd = numbers((1, 2, 3), 6)
odd[0, 0, 0], odd[0, 1, 1] = np.nan, -np.inf
batch_norm("infinity_and_nan", None, x=odd)
x = numbers((1, 2, 3, 2), 7).astype(np.float16)
mixed = {"x": x, "mean": Const(np.array([0.1, 0.2], np.float32)),
         "variance": Const(np.array([0.3, 0.7], np.float32))}
cases.add("batch_norm", mixed,
          [((double(x) - channel(mixed["mean"].array, 4)) / np.sqrt(channel(mixed["variance"].array, 4) + 1e-5))
           .astype(np.float16)], name="fp32_parameters", opset=7)
good = {"x": numbers((1, 3, 4), 1), "mean": Const(numbers((3,), 2)), "variance": Const(np.ones(3, np.float32))}
for error, name, change in (
    ("mean: expected shape [3]", "mean", {"mean": Const(numbers((2,), 2))}),
    ("variance: expected shape [3]", "variance", {"variance": Const(np.ones((1, 3), np.float32))}),
    ("gamma: expected shape [3]", "gamma", {"gamma": Const(numbers((4,), 2))}),
    ("beta: expected shape [3]", "beta", {"beta": 1.5}),
    ("epsilon: expected one number", "epsilon", {"epsilon": [0.5, 0.5]}),
    ("x: expected fp16 or fp32", "type", {"x": np.ones((1, 3, 4), np.int32)}),
    ("x: expected fp16 or fp32", "rank", {"x": numbers((3,), 1)}),
):
    cases.add("batch_norm", good | change, name="bad_" + name, error=error)


def instance_norm(name, shape, gamma=True, beta=True, epsilon=None, spread=1.0, shift=0.0, **more):
    x = (numbers(shape, 11, spread) + np.float32(shift)).astype(np.float32)
    inputs = {"x": x}
    if gamma:
        inputs["gamma"] = Const(numbers((shape[1],), 12))
    if beta:
        inputs["beta"] = Const(numbers((shape[1],), 13))
    if epsilon is not None:
        inputs["epsilon"] = epsilon
    y = F.instance_norm(torch.from_numpy(double(x)),
                        weight=torch.from_numpy(double(inputs["gamma"].array)) if gamma else None,
                        bias=torch.from_numpy(double(inputs["beta"].array)) if beta else None,
                        eps=1e-5 if epsilon is None else epsilon).numpy()
    cases.add("instance_norm", inputs, [y.astype(np.float32)], name=name, **(TOLERANCE | more))


instance_norm("all", (2, 3, 4, 5))
instance_norm("plain", (1, 2, 37), gamma=False, beta=False)
instance_norm("gamma", (1, 4, 3, 3), beta=False, epsilon=0.5)
instance_norm("beta", (3, 2, 6), gamma=False, epsilon=0.0009765625)
instance_norm("far_from_zero", (1, 2, 8, 8), spread=0.5, shift=1000.0, fp16=False)
cases.add("instance_norm", {"x": np.zeros((1, 2, 0), np.float32)}, [np.zeros((1, 2, 0), np.float32)], name="empty")
cases.add("instance_norm", {"x": numbers((1, 3, 4), 1), "gamma": Const(numbers((2,), 2))}, name="bad_gamma",
          error="gamma: expected shape [3]")
cases.add("instance_norm", {"x": numbers((1, 3), 1)}, name="bad_rank", error="x: expected fp16 or fp32")


def layer_norm(name, shape, axes=None, gamma=True, beta=True, epsilon=None, x=None, **more):
    x = numbers(shape, 21) if x is None else x
    rank = x.ndim
    used = tuple(sorted(a % rank for a in axes)) if axes is not None else tuple(range(rank))
    normalized = tuple(x.shape[a] for a in used)
    spread = tuple(x.shape[a] if a in used else 1 for a in range(rank))
    mean = double(x).mean(used, keepdims=True)
    variance = ((double(x) - mean) ** 2).mean(used, keepdims=True)
    y = (double(x) - mean) / np.sqrt(variance + (1e-5 if epsilon is None else epsilon))
    inputs = {"x": x}
    if axes is not None:
        inputs["axes"] = axes
    if gamma:
        inputs["gamma"] = Const(numbers(normalized, 22))
        y = y * double(inputs["gamma"].array).reshape(spread)
    if beta:
        inputs["beta"] = Const(numbers(normalized, 23))
        y = y + double(inputs["beta"].array).reshape(spread)
    if epsilon is not None:
        inputs["epsilon"] = epsilon
    if used == tuple(range(rank - len(used), rank)) and x.size:
        t = F.layer_norm(torch.from_numpy(double(x)), normalized,
                         torch.from_numpy(double(inputs["gamma"].array)) if gamma else None,
                         torch.from_numpy(double(inputs["beta"].array)) if beta else None,
                         1e-5 if epsilon is None else epsilon).numpy()
        assert np.allclose(t, y, equal_nan=True), name
    cases.add("layer_norm", inputs, [y.astype(x.dtype)], name=name, **(TOLERANCE | more))


layer_norm("last", (2, 3, 37), [-1])
layer_norm("last_two", (2, 3, 4, 5), [2, 3], epsilon=0.25)
layer_norm("unsorted_negative", (2, 3, 4), [-1, -2])
layer_norm("all_axes", (2, 3, 4))
layer_norm("first", (5, 3), [0])
layer_norm("middle", (2, 5, 3), [1])
layer_norm("first_and_last", (3, 2, 4), [0, 2])
layer_norm("channels", (2, 6, 3, 2), [1], beta=False)
layer_norm("plain", (3, 16), [1], gamma=False, beta=False)
layer_norm("beta_only", (3, 17), [1], gamma=False)
layer_norm("vector", (33,), [0])
layer_norm("one_element_rows", (4, 1), [1])
layer_norm("empty", (0, 4), [1])
layer_norm("large_numbers", None, [1], gamma=False, beta=False, fp16=False,
           x=(numbers((2, 24), 24) + 4096).astype(np.float32))
odd = numbers((3, 6), 25)
odd[0, 1], odd[1, 2] = np.nan, np.inf
layer_norm("infinity_and_nan", None, [1], x=odd)
x = numbers((2, 3, 4), 1)
for error, name, change in (
    ("axes: 3 is no axis", "axis", {"axes": [3]}),
    ("gamma: expected shape [3, 4]", "gamma", {"axes": [1, 2], "gamma": Const(numbers((4, 3), 1))}),
    ("beta: expected shape [4]", "beta", {"axes": [2], "beta": Const(numbers((3,), 1))}),
    ("x: expected fp16 or fp32", "type", {"x": np.ones((2, 3), np.int32)}),
):
    cases.add("layer_norm", {"x": x} | change, name="bad_" + name, error=error)


def l2_norm(name, shape, epsilon=None, x=None, **more):
    x = numbers(shape, 31) if x is None else x
    flat = double(x).reshape(int(np.prod(x.shape[:-3])), -1)
    y = (flat / np.sqrt((flat**2).sum(1, keepdims=True) + (1e-6 if epsilon is None else epsilon))).reshape(x.shape)
    inputs = {"x": x} if epsilon is None else {"x": x, "epsilon": epsilon}
    cases.add("l2_norm", inputs, [y.astype(x.dtype)], name=name, **(TOLERANCE | more))


l2_norm("three_dimensions", (2, 3, 4))
l2_norm("batches", (2, 2, 3, 1, 5), epsilon=0.5)
l2_norm("one_batch", (3, 2, 2, 3))
l2_norm("zeros", None, x=np.zeros((2, 2, 2), np.float32))
cases.add("l2_norm", {"x": numbers((3, 4), 1)}, name="bad_rank", error="x: expected fp16 or fp32")


def local_response_norm(name, shape, size, alpha=None, beta=None, k=None, **more):
    x = numbers(shape, 41, 2.0)
    y = F.local_response_norm(torch.from_numpy(double(x)), size, 1e-4 if alpha is None else alpha,
                              0.75 if beta is None else beta, 1.0 if k is None else k).numpy()
    inputs = {"x": x, "size": size}
    for key, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        if value is not None:
            inputs[key] = value
    cases.add("local_response_norm", inputs, [y.astype(np.float32)], name=name, **(TOLERANCE | more))


local_response_norm("defaults", (1, 7, 3, 2), 3)
local_response_norm("strong", (2, 6, 4), 5, alpha=0.5, beta=1.25, k=2.0)
local_response_norm("even", (1, 6, 3, 2), 4, alpha=1.0, beta=0.5)
local_response_norm("wider_than_channels", (1, 3, 5), 9, alpha=2.0)
local_response_norm("one", (1, 3, 5), 1, alpha=0.5)
cases.add("local_response_norm", {"x": numbers((1, 3, 4), 1), "size": 0}, name="bad_size",
          error="size: expected at least 1")
cases.write()
