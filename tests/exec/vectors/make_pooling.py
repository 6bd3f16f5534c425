"""Vectors for ops of pooling.cc: a plain loop over windows, checked against PyTorch where it has
the same option."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from common import Cases
from common import numbers as gaussian

cases = Cases("pooling.json", origin="a plain loop over windows; PyTorch agrees where it has the option")


def numbers(shape, seed):
    return np.round(gaussian(shape, seed) * 32) / 32


def pool(op, name, shape, kernel, pad_type="valid", pad=None, strides=None, exclude=None,
         ceil_mode=None, seed=1, opset=5, x=None, **more):
    x = numbers(shape, seed) if x is None else x
    n = len(kernel)
    s = strides or [1] * n
    before, after, counts = [], [], []
    for i in range(n):
        d, k = x.shape[2 + i], kernel[i]
        if pad_type in ("same", "same_lower"):
            out = -(-d // s[i])
            total = max(0, (out - 1) * s[i] + k - d)
            first = total // 2 if pad_type == "same" else total - total // 2
            before.append(first)
            after.append(total - first)
        else:
            b, a = (pad[2 * i:2 * i + 2] if pad_type == "custom" and pad else (0, 0))
            before.append(b)
            after.append(a)
            if ceil_mode:
                out = (d + b + a - k + s[i] - 1) // s[i] + 1
                if b > 0 and (out - 1) * s[i] >= d + b:
                    out -= 1
            else:
                out = (d + b + a - k) // s[i] + 1
        counts.append(out)
    y = np.zeros(x.shape[:2] + tuple(counts))
    for position in itertools.product(*map(range, counts)):
        real, area = [slice(None), slice(None)], 1
        for i, at in enumerate(position):
            begin = at * s[i] - before[i]
            area *= min(begin + kernel[i], x.shape[2 + i] + after[i]) - begin
            real.append(slice(max(begin, 0), max(0, min(begin + kernel[i], x.shape[2 + i]))))
        window = x[tuple(real)].astype(np.float64).reshape(x.shape[:2] + (-1,))
        if op == "max_pool":
            value = window.max(-1, initial=-np.inf)
        elif op == "avg_pool":
            value = window.sum(-1) / (max(1, window.shape[-1]) if exclude else area)
        else:
            value = np.sqrt((window**2).sum(-1))
        y[(slice(None), slice(None)) + position] = value
    symmetric = pad_type == "valid" or (
        pad_type == "custom" and pad and before == after and all(2 * b <= k for b, k in zip(before, kernel)))
    if symmetric and op != "l2_pool" and x.size:
        t = torch.from_numpy(x.astype(np.float64))
        options = {"stride": s, "padding": before, "ceil_mode": bool(ceil_mode)}
        if op == "max_pool":
            torch_y = [F.max_pool1d, F.max_pool2d, F.max_pool3d][n - 1](t, kernel, **options)
        else:
            torch_y = [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d][n - 1](
                t, kernel, count_include_pad=not exclude, **options)
        assert np.allclose(torch_y.numpy(), y, equal_nan=True), name
    inputs = {"x": x, "kernel_sizes": kernel, "pad_type": pad_type}
    for key, value in (("pad", pad), ("strides", strides), ("ceil_mode", ceil_mode),
                       ("exclude_padding_from_average", exclude)):
        if value is not None:
            inputs[key] = value
    cases.add(op, inputs, [y.astype(x.dtype)], name=name, opset=opset, rtol=1e-6, atol=2e-6, **more)


for op in ("max_pool", "avg_pool", "l2_pool"):
    pool(op, "valid", (2, 3, 5, 6), [2, 3])
    pool(op, "strides", (1, 2, 7, 9), [3, 2], strides=[2, 3])
    pool(op, "custom", (1, 2, 5, 6), [3, 4], "custom", [1, 0, 2, 1], strides=[2, 1])
    pool(op, "custom_symmetric", (1, 2, 6, 7), [3, 3], "custom", [1, 1, 1, 1], strides=[2, 2])
    pool(op, "pad_is_ignored_unless_custom", (1, 2, 5, 6), [2, 2], "valid", [1, 1, 1, 1])
    pool(op, "same", (1, 2, 5, 8), [2, 3], "same", strides=[1, 2])
    pool(op, "same_even", (1, 2, 7, 6), [4, 2], "same", strides=[2, 1])
    pool(op, "same_lower", (1, 2, 5, 8), [2, 4], "same_lower", strides=[1, 3], opset=6)
    pool(op, "ceil_mode", (1, 2, 6, 8), [3, 2], strides=[2, 3], ceil_mode=True)
    pool(op, "ceil_mode_custom", (1, 2, 6, 7), [3, 2], "custom", [1, 1, 1, 1], strides=[2, 3], ceil_mode=True)
    pool(op, "ceil_mode_last_window_dropped", (1, 1, 5, 4), [2, 2], "custom", [1, 1, 1, 1], strides=[3, 4],
         ceil_mode=True)
    pool(op, "one_dimension", (2, 3, 9), [4], "same", strides=[2])
    pool(op, "three_dimensions", (1, 2, 4, 5, 6), [2, 3, 2], "custom", [1, 0, 1, 2, 0, 1], strides=[2, 1, 3])
    pool(op, "whole_image", (2, 3, 7, 5), [7, 5])
    pool(op, "wide_kernel", (1, 2, 3, 45), [2, 40], "custom", [0, 0, 3, 1], strides=[1, 2])
    pool(op, "kernel_far_beyond_image", (1, 2, 2, 3), [5, 100], "custom", [2, 2, 60, 50], strides=[1, 7])
    infinite = numbers((1, 1, 4, 5), 3)
    infinite[0, 0, 0, 0], infinite[0, 0, 2, 3] = -np.inf, np.nan
    pool(op, "infinity_and_nan", None, [2, 2], x=infinite)
    pool(op, "fp16", None, [2, 3], "same", x=numbers((1, 2, 4, 4), 5).astype(np.float16))
    pool(op, "no_rows", None, [1, 2], "same", x=np.zeros((1, 2, 0, 4), np.float32))
    x = numbers((1, 2, 4, 5), 1)
    for error, name, change in (
        ("kernel_sizes: expected 2", "kernel_count", {"kernel_sizes": [2]}),
        ("kernel_sizes: expected numbers from 1", "empty_kernel", {"kernel_sizes": [2, 0]}),
        ("strides: expected numbers from 1", "zero_stride", {"strides": [0, 1]}),
        ("pad: expected numbers from 0", "negative_pad", {"pad_type": "custom", "pad": [0, 0, -1, 0]}),
        ("pad: expected 4", "pad_count", {"pad_type": "custom", "pad": [0, 0]}),
        ("pad_type: expected", "pad_type", {"pad_type": "SAME"}),
        ("pad_type: same_lower", "too_early", {"pad_type": "same_lower"}),
        ("ceil_mode: ", "ceil_same", {"pad_type": "same", "ceil_mode": True}),
        ("ceil_mode: ", "ceil_asymmetric", {"pad_type": "custom", "pad": [0, 1, 0, 0], "ceil_mode": True}),
        ("x: size 4", "no_room", {"kernel_sizes": [5, 1]}),
        ("x: expected fp16 or fp32", "rank", {"x": numbers((4, 5), 1)}),
        ("x: expected fp16 or fp32", "type", {"x": np.ones((1, 2, 4, 5), np.int32)}),
    ):
        cases.add(op, {"x": x, "kernel_sizes": [2, 2], "pad_type": "valid"} | change, name="bad_" + name,
                  error=error)

pool("avg_pool", "exclude_custom", (1, 2, 5, 6), [3, 4], "custom", [1, 0, 2, 1], exclude=True)
pool("avg_pool", "exclude_same", (1, 2, 5, 8), [2, 3], "same", strides=[1, 2], exclude=True)
pool("avg_pool", "exclude_ceil_mode", (1, 2, 6, 7), [3, 2], "custom", [1, 1, 1, 1], strides=[2, 3],
     exclude=True, ceil_mode=True)
# The number of the denominators, by hand.
pool("avg_pool", "same_lower_by_hand", None, [2], "same_lower", x=np.array([[[1, 2]]], np.float32), opset=6)
assert cases.cases[-1]["outputs"][0]["values"] == [0.5, 1.5]
pool("max_pool", "all_negative", None, [3, 3], "same", x=-1 - abs(numbers((1, 1, 4, 5), 9)))
cases.write()
