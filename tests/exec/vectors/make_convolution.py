"""Vectors for ops of convolution.cc: what PyTorch computes for the same padding, done by hand."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from common import Cases, Const
from common import numbers as gaussian

cases = Cases("convolution.json", origin="PyTorch, in double precision; padding by definition")
TOLERANCE = {"rtol": 2e-6, "atol": 4e-6}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def numbers(shape, seed, spread=1.0):
    """Few digits, so that the file stays small."""
    return np.round(gaussian(shape, seed, spread) * 32) / 32


def double(array):
    return torch.from_numpy(np.asarray(array, np.float64))


def same_pads(sizes, kernel, strides, dilations, lower=False):
    pads = []
    for d, k, s, dil in zip(sizes, kernel, strides, dilations):
        out = -(-d // s)
        total = max(0, (out - 1) * s + (k - 1) * dil + 1 - d)
        small, large = total // 2, total - total // 2
        pads += [large, small] if lower else [small, large]
    return pads


def conv(name, x_shape, w_shape, pad_type=None, pad=None, strides=None, dilations=None, groups=None,
         bias=True, const=True, seed=1, opset=5, wide=None, **more):
    n = len(x_shape) - 2
    x = numbers(x_shape, seed)
    w = numbers(w_shape, seed + 1, 0.5)
    b = numbers((w_shape[0],), seed + 2) if bias else None
    s, d, g = strides or [1] * n, dilations or [1] * n, groups or 1
    pads = [0] * (2 * n)
    if pad_type == "custom" and pad:
        pads = pad
    elif pad_type in ("same", "same_lower"):
        pads = same_pads(x_shape[2:], w_shape[2:], s, d, pad_type == "same_lower")
    torch_pad = []
    for i in reversed(range(n)):
        torch_pad += pads[2 * i:2 * i + 2]
    y = CONV[n](F.pad(double(x), torch_pad), double(w), None if b is None else double(b),
                stride=s, dilation=d, groups=g).numpy()
    inputs = {"x": x, "weight": Const(w) if const else w}
    if b is not None:
        inputs["bias"] = Const(b)
    for key, value in (("pad_type", pad_type), ("pad", pad), ("strides", strides),
                       ("dilations", dilations), ("groups", groups)):
        if value is not None:
            inputs[key] = value
    if wide is not None:  # parameters of another type than x
        inputs |= wide(inputs)
    cases.add("conv", inputs, [y.astype(x.dtype)], name=name, opset=opset, **(TOLERANCE | more))


conv("defaults", (1, 3, 6, 7), (4, 3, 3, 2), bias=False)
conv("bias_only_pad_type", (2, 3, 6, 7), (4, 3, 3, 2), pad_type="valid")
conv("custom_asymmetric", (1, 2, 5, 6), (3, 2, 3, 2), "custom", [2, 1, 0, 3])
conv("pad_is_ignored_unless_custom", (1, 2, 5, 6), (3, 2, 3, 2), "valid", [2, 1, 0, 3])
conv("custom_strides", (1, 2, 9, 11), (3, 2, 3, 4), "custom", [1, 2, 3, 0], strides=[2, 3])
conv("same_odd", (1, 2, 7, 9), (3, 2, 3, 3), "same", strides=[2, 2])
conv("same_even_kernel", (1, 2, 7, 8), (3, 2, 4, 2), "same", strides=[1, 1])
conv("same_even_kernel_strides", (1, 2, 8, 7), (2, 2, 4, 5), "same", strides=[3, 2])
conv("same_dilated", (1, 2, 8, 9), (2, 2, 3, 2), "same", strides=[2, 1], dilations=[2, 3])
conv("same_stride_beyond_kernel", (1, 2, 7, 9), (2, 2, 1, 2), "same", strides=[3, 4])
conv("same_lower", (1, 2, 7, 8), (3, 2, 4, 2), "same_lower", strides=[1, 2], opset=6)
conv("same_lower_strides", (1, 2, 8, 7), (2, 2, 4, 4), "same_lower", strides=[3, 2], opset=8)
conv("dilations", (1, 2, 10, 9), (3, 2, 3, 2), "custom", [2, 0, 1, 3], dilations=[3, 2])
conv("point", (2, 5, 4, 3), (7, 5, 1, 1))
conv("point_strides", (1, 5, 5, 7), (3, 5, 1, 1), strides=[2, 3])
conv("point_padded", (1, 3, 3, 4), (2, 3, 1, 1), "custom", [1, 0, 0, 2])
conv("point_groups", (1, 6, 3, 5), (4, 3, 1, 1), groups=2)
conv("groups_more_out", (2, 4, 5, 6), (6, 2, 3, 3), "same", groups=2)
conv("groups_many", (1, 12, 5, 4), (18, 2, 2, 3), "same", strides=[1, 2], groups=6)
conv("depthwise", (2, 5, 7, 9), (5, 1, 3, 3), "same", groups=5)
conv("depthwise_strides", (1, 5, 8, 9), (5, 1, 3, 5), "same", strides=[2, 2], groups=5)
conv("depthwise_strides_three", (1, 3, 8, 13), (3, 1, 2, 4), "custom", [0, 1, 2, 1], strides=[1, 3], groups=3)
conv("depthwise_multiplier", (1, 3, 6, 5), (6, 1, 3, 2), "custom", [1, 1, 0, 1], groups=3)
conv("depthwise_multiplier_many", (1, 2, 6, 5), (10, 1, 3, 2), groups=2)
conv("depthwise_dilated", (1, 3, 9, 12), (3, 1, 3, 3), "same", dilations=[2, 3], groups=3)
conv("depthwise_wide_kernel", (1, 2, 2, 50), (2, 1, 1, 37), "same", strides=[1, 2], groups=2)
conv("one_channel_in", (1, 1, 7, 6), (6, 1, 3, 3), "same")
conv("one_dimension", (2, 3, 11), (4, 3, 4), "same", strides=[2])
conv("one_dimension_custom", (1, 4, 9), (6, 2, 3), "custom", [3, 1], dilations=[2], groups=2)
conv("one_dimension_depthwise", (1, 4, 20), (4, 1, 7), "same", groups=4)
conv("three_dimensions", (1, 2, 4, 5, 6), (3, 2, 2, 3, 2), "same", strides=[2, 1, 2])
conv("three_dimensions_custom", (1, 4, 5, 4, 6), (2, 2, 3, 2, 2), "custom", [1, 2, 0, 1, 2, 0],
     strides=[2, 1, 3], dilations=[1, 2, 1], groups=2)
conv("three_dimensions_depthwise", (1, 2, 4, 5, 6), (2, 1, 3, 3, 2), "same", groups=2)
conv("weight_at_run_time", (1, 3, 6, 5), (4, 3, 3, 2), "same", const=False)
conv("weight_at_run_time_depthwise", (1, 3, 6, 5), (3, 1, 3, 2), groups=3, const=False)
conv("one_position", (1, 3, 4, 5), (2, 3, 4, 5))
conv("batch_of_one_position", (3, 3, 4, 5), (2, 3, 4, 5))
conv("padding_only_windows", (1, 2, 2, 2), (2, 2, 1, 2), "custom", [2, 2, 3, 3])


def narrow(inputs):
    return {"bias": Const(inputs["bias"].array.astype(np.float16)),
            "weight": Const(inputs["weight"].array.astype(np.float16))}


conv("fp16_parameters", (1, 2, 5, 6), (3, 2, 3, 2), "same", opset=7, wide=narrow)
x16, w16 = numbers((1, 2, 5, 6), 3).astype(np.float16), numbers((3, 2, 3, 2), 4).astype(np.float16)
cases.add("conv", {"x": x16, "weight": Const(w16)},
          [F.conv2d(double(x16), double(w16)).numpy().astype(np.float16)], name="fp16")
# Infinity and NaN reach the positions whose window covers them, and no others.
x = numbers((1, 1, 4, 5), 7)
x[0, 0, 0, 0], x[0, 0, 3, 4] = np.inf, np.nan
w = np.ones((5, 1, 2, 2), np.float32)
cases.add("conv", {"x": x, "weight": Const(w)}, [F.conv2d(double(x), double(w)).numpy().astype(np.float32)],
          name="infinity_and_nan", **TOLERANCE)
big = np.full((1, 2, 1, 1), 60000, np.float32)
cases.add("conv", {"x": big.astype(np.float16), "weight": Const(np.ones((1, 2, 1, 1), np.float16))},
          [np.full((1, 1, 1, 1), np.inf, np.float16)], name="overflow_of_fp16")
cases.add("conv", {"x": np.zeros((0, 2, 4, 4), np.float32), "weight": Const(numbers((3, 2, 3, 3), 1))},
          [np.zeros((0, 3, 2, 2), np.float32)], name="no_samples")
cases.add("conv", {"x": np.zeros((1, 2, 0, 3), np.float32), "weight": Const(numbers((3, 2, 3, 3), 1)),
                   "pad_type": "same"}, [np.zeros((1, 3, 0, 3), np.float32)], name="no_rows")
cases.add("conv", {"x": np.zeros((1, 0, 3, 3), np.float32), "weight": Const(np.zeros((2, 0, 3, 3), np.float32)),
                   "bias": Const(np.array([1, 2], np.float32))},
          [np.array([1, 2], np.float32).reshape(1, 2, 1, 1)], name="no_channels")


def bad(op, error, name, **change):
    inputs = {"x": numbers((1, 4, 4, 3), 1),
              "weight": Const(numbers((4, 4, 2, 2), 2))}
    opset = change.pop("opset", 5)
    cases.add(op, inputs | change, name="bad_" + name, error=error, opset=opset)


for op in ("conv", "conv_transpose"):
    bad(op, "strides: expected", "zero_stride", strides=[0, 1])
    bad(op, "strides: expected 2 numbers", "stride_count", strides=[1])
    bad(op, "dilations: expected", "dilation", dilations=[1, -1])
    bad(op, "groups: ", "groups", groups=3)
    bad(op, "groups: ", "no_groups", groups=0)
    bad(op, "weight: ", "channels", weight=Const(numbers((3, 3, 2, 2), 2)))
    bad(op, "weight: ", "rank", weight=Const(numbers((4, 4, 2), 2)))
    bad(op, "bias: ", "bias", bias=Const(numbers((3,), 2)))
    bad(op, "bias: ", "bias_rank", bias=Const(numbers((1, 4), 2)))
    bad(op, "pad: ", "negative_pad", pad_type="custom", pad=[1, -1, 0, 0])
    bad(op, "pad: ", "pad_count", pad_type="custom", pad=[1, 1])
    bad(op, "pad_type: ", "pad_type", pad_type="full")
    bad(op, "x: ", "rank_of_x", x=numbers((4, 4), 1))
    bad(op, "x: ", "type_of_x", x=np.ones((1, 4, 4, 3), np.int32))
bad("conv", "pad_type: same_lower", "too_early", pad_type="same_lower")
bad("conv", "x: ", "no_room", x=numbers((1, 4, 1, 6), 1))
bad("conv", "x: ", "no_room_dilated", dilations=[4, 1])
bad("conv", "kernel: ", "empty_kernel", weight=Const(np.zeros((4, 4, 0, 3), np.float32)))
bad("conv_transpose", "weight: kernel", "empty_kernel", weight=Const(np.zeros((4, 4, 0, 3), np.float32)))
bad("conv_transpose", "pad: ", "too_much_pad", pad_type="custom", pad=[9, 9, 0, 0])
bad("conv_transpose", "output_shape: ", "channels_of_output", output_shape=[1, 3, 7, 8])
bad("conv_transpose", "output_shape: ", "rank_of_output", output_shape=[1, 4, 7])
bad("conv_transpose", "output_shape: ", "negative_output", output_shape=[1, 4, 7, -8])


def transposed(name, x_shape, w_shape, pad_type=None, pad=None, strides=None, dilations=None,
               groups=None, bias=True, output_shape=None, const=True, seed=11, opset=5, **more):
    """The whole result, then cropped, and filled up with the bias alone where it ends early."""
    n = len(x_shape) - 2
    x, w = numbers(x_shape, seed), numbers(w_shape, seed + 1, 0.5)
    s, d, g = strides or [1] * n, dilations or [1] * n, groups or 1
    channels = w_shape[1] * g
    b = numbers((channels,), seed + 2) if bias else None
    full = TRANSPOSED[n](double(x), double(w), None, stride=s, dilation=d, groups=g).numpy()
    index, sizes = [slice(None), slice(None)], []
    for i in range(n):
        reach = (w_shape[2 + i] - 1) * d[i] + 1
        size, begin = full.shape[2 + i], 0
        if pad_type == "custom" and pad:
            begin, size = pad[2 * i], size - pad[2 * i] - pad[2 * i + 1]
        elif pad_type == "same":
            begin, size = max(0, reach - s[i]) // 2, x_shape[2 + i] * s[i]
        if output_shape:
            size = output_shape[2 + i]
        index.append(slice(begin, begin + size))
        sizes.append(size)
    y = np.zeros((x_shape[0], channels, *sizes))
    part = full[tuple(index)]
    y[tuple(slice(0, size) for size in part.shape)] = part
    if b is not None:
        y += b.reshape((1, -1) + (1,) * n)
    inputs = {"x": x, "weight": Const(w) if const else w}
    if b is not None:
        inputs["bias"] = Const(b)
    for key, value in (("pad_type", pad_type), ("pad", pad), ("strides", strides),
                       ("dilations", dilations), ("groups", groups), ("output_shape", output_shape)):
        if value is not None:
            inputs[key] = value
    cases.add("conv_transpose", inputs, [y.astype(np.float32)], name=name, opset=opset,
              **(TOLERANCE | more))


transposed("defaults", (1, 3, 4, 5), (3, 2, 3, 2), bias=False)
transposed("strides", (2, 3, 4, 5), (3, 2, 3, 2), strides=[2, 3])
transposed("custom", (1, 3, 4, 5), (3, 2, 3, 4), "custom", [1, 0, 2, 1], strides=[2, 2])
transposed("same", (1, 3, 4, 5), (3, 2, 4, 3), "same", strides=[2, 2])
transposed("same_odd", (1, 3, 4, 5), (3, 2, 5, 3), "same", strides=[2, 1])
transposed("same_small_kernel", (1, 3, 4, 3), (3, 2, 1, 2), "same", strides=[3, 4])
transposed("dilations", (1, 3, 4, 5), (3, 2, 3, 2), "custom", [1, 1, 0, 2], strides=[1, 2], dilations=[2, 3])
transposed("groups", (1, 4, 4, 5), (4, 3, 3, 2), strides=[2, 1], groups=2)
transposed("depthwise", (2, 3, 4, 5), (3, 1, 4, 4), "custom", [1, 1, 1, 1], strides=[2, 2], groups=3)
transposed("one_dimension", (1, 3, 6), (3, 4, 5), "custom", [2, 1], strides=[3])
transposed("three_dimensions", (1, 2, 3, 2, 4), (2, 3, 2, 3, 2), "custom", [0, 1, 1, 0, 0, 0], strides=[2, 1, 2])
transposed("output_shape_equal", (1, 3, 4, 5), (3, 2, 3, 4), "custom", [1, 0, 2, 1], strides=[2, 2],
           output_shape=[1, 2, 8, 9])
transposed("output_shape_larger", (1, 3, 4, 5), (3, 2, 3, 4), "custom", [1, 1, 1, 1], strides=[2, 2],
           output_shape=[1, 2, 8, 12])
transposed("output_shape_smaller", (1, 3, 4, 5), (3, 2, 3, 4), strides=[2, 2], output_shape=[1, 2, 7, 10])
transposed("weight_at_run_time", (1, 3, 4, 5), (3, 2, 3, 2), strides=[2, 1], const=False, opset=7)
cases.add("conv_transpose", {"x": np.zeros((1, 2, 0, 3), np.float32), "weight": Const(numbers((2, 3, 2, 2), 1)),
                             "pad_type": "same", "strides": [2, 2]},
          [np.zeros((1, 3, 0, 6), np.float32)], name="no_rows")
cases.write()
