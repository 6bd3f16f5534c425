"""Vectors for ops of image.cc.

Resizes come from a formula of each output element, written from the definition of the sampling
modes, and from torch where it has the same mode.
"""

import numpy as np
import torch
import torch.nn.functional as F
from common import Cases, Const, numbers

cases = Cases("image.json", origin="formulas, torch, and numbers published with the op definitions")
CLOSE = {"rtol": 1e-5, "atol": 1e-5, "rtol16": 1e-5, "atol16": 1e-5}

# --- resizing -------------------------------------------------------------------------------------


def grid(mode, size, count):
    i = np.arange(count, dtype=np.float64)
    if mode == "STRICT_ALIGN_CORNERS" or (mode == "ALIGN_CORNERS" and count > 1):
        at = i * (size - 1) / max(1, count - 1)
    elif mode == "ALIGN_CORNERS":
        at = np.full(1, (size - 1) / 2)
    elif mode == "DEFAULT":
        at = i * size / count
    elif mode == "OFFSET_CORNERS":
        at = (i + 0.5) * max(1, size - 1) / count
    else:
        at = (i + 0.5) * size / count - 0.5
    return np.clip(at, 0, max(0, size - 1))


def interpolate(x, axis, at):
    """x at positions along an axis, linearly."""
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = -1
    share = (at - low).reshape(shape)
    return x.take(low, axis) * (1 - share) + x.take(high, axis) * share


def resize(x, sizes, mode):
    out = x.astype(np.float64)
    for d, size in enumerate(sizes):
        axis = x.ndim - len(sizes) + d
        out = interpolate(out, axis, grid(mode, x.shape[axis], size))
    return out.astype(np.float32)


MODES = ["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"]
x = numbers((2, 2, 5, 7), 1)
for mode in MODES:
    for high, wide in [(8, 3), (5, 7), (1, 1), (3, 13), (2, 2)]:
        cases.add("resize_bilinear", {"x": x[:1, :1], "target_size_height": high,
                                      "target_size_width": wide, "sampling_mode": mode},
                  [resize(x[:1, :1], (high, wide), mode)], f"{mode} {high} {wide}",
                  **CLOSE)  # fmt: skip
    cases.add("resize", {"x": x[:, :1], "shape": [9, 4], "resized_dims": 2, "sampling_mode": mode},
              [resize(x[:, :1], (9, 4), mode)], mode, opset=7, **CLOSE)
cases.add("resize_bilinear", {"x": x, "target_size_height": 4, "target_size_width": 9,
                              "sampling_mode": "UNALIGN_CORNERS"},
          [F.interpolate(torch.tensor(x), (4, 9), mode="bilinear").numpy()], "torch",
          **CLOSE)  # fmt: skip
cases.add("resize_bilinear", {"x": x, "target_size_height": 4, "target_size_width": 9,
                              "sampling_mode": "STRICT_ALIGN_CORNERS"},
          [F.interpolate(torch.tensor(x), (4, 9), mode="bilinear", align_corners=True).numpy()],
          "torch align", **CLOSE)  # fmt: skip
cases.add("resize_bilinear", {"x": x}, [x[:, :, :1, :1]], "default")
cases.add("resize_bilinear", {"x": x[0], "target_size_height": 3, "target_size_width": 8},
          [resize(x[0], (3, 8), "DEFAULT")], "rank 3", **CLOSE)
two = np.array([0, 1], "f4").reshape(1, 1, 2)
for mode, expected in [("STRICT_ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
                       ("DEFAULT", [0, 0.4, 0.8, 1, 1]),
                       ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
                       ("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1])]:  # fmt: skip
    cases.add("resize_bilinear", {"x": two, "target_size_height": 1, "target_size_width": 5,
                                  "sampling_mode": mode},
              [np.array(expected, "f4").reshape(1, 1, 5)], f"published {mode}",
              **CLOSE)  # fmt: skip
inf = np.array([[[np.inf, 1, 2, np.nan, 3]]], "f4")
cases.add("resize_bilinear", {"x": inf, "target_size_height": 1, "target_size_width": 9,
                              "sampling_mode": "STRICT_ALIGN_CORNERS"},
          [np.array([[[np.inf, np.inf, 1, 1.5, 2, np.nan, np.nan, np.nan, 3]]], "f4")],
          "inf and nan")  # fmt: skip
for more, error in [({"target_size_height": 0}, "target_size_height: expected at least 1, got 0"),
                    ({"target_size_width": -3}, "target_size_width: expected at least 1, got -3"),
                    ({"sampling_mode": "CORNERS"}, "sampling_mode: 'CORNERS' is none of"),
                    ({"x": np.zeros((1, 0, 3), "f4")}, "x: axis 1 is empty"),
                    ({"x": np.zeros(3, "f4")}, "x: expected a rank of at least 2")]:  # fmt: skip
    cases.add("resize_bilinear", {"x": two} | more, error=error)

# The last resized_dims of shape are those of x; 0 keeps one.
cases.add("resize", {"x": x, "shape": [1, 6, 8], "resized_dims": 2},
          [resize(x, (6, 8), "DEFAULT")], "more sizes than are used", opset=7, **CLOSE)
cases.add("resize", {"x": x, "shape": [9, 0, 8], "resized_dims": 2},
          [resize(x, (5, 8), "DEFAULT")], "0 keeps", opset=7, **CLOSE)
cases.add("resize", {"x": x, "shape": np.array([4, 6, 8], np.int32), "resized_dims": 3},
          [resize(x, (4, 6, 8), "DEFAULT")], "three, run time", opset=7, **CLOSE)
cases.add("resize", {"x": x, "shape": Const(np.array([9], np.uint16)),
                     "resized_dims": Const(np.array(1, np.uint32)),
                     "sampling_mode": "UNALIGN_CORNERS"},
          [resize(x, (9,), "UNALIGN_CORNERS")], "one", opset=7, **CLOSE)  # fmt: skip
cases.add("resize", {"x": x, "shape": [9], "resized_dims": 0}, [x], "none", opset=7)
whole = np.random.default_rng(2).integers(-50, 50, (1, 4, 5)).astype(np.int32)
cases.add("resize", {"x": whole, "shape": [7, 3], "resized_dims": 2},
          [np.rint(resize(whole.astype("f4"), (7, 3), "DEFAULT")).astype(np.int32)], "int32",
          opset=7)  # fmt: skip
cases.add("resize", {"x": np.array([0, 1], "f4").reshape(1, 1, 2), "shape": [1, 1, 5],
                     "resized_dims": 2},
          [np.array([0, 0.4, 0.8, 1, 1], "f4").reshape(1, 1, 5)], "published", opset=7,
          **CLOSE)  # fmt: skip


def half_pixel(x, sizes):
    out = x
    for d, size in enumerate(sizes):
        axis = x.ndim - len(sizes) + d
        out = out.take([(2 * i + 1) * x.shape[axis] // (2 * size) for i in range(size)], axis)
    return out


def by_start(x, sizes):
    out = x
    for d, size in enumerate(sizes):
        axis = x.ndim - len(sizes) + d
        out = out.take([i * x.shape[axis] // size for i in range(size)], axis)
    return out


for high, wide in [(8, 3), (5, 7), (1, 1), (10, 14), (2, 3)]:
    cases.add("resize_nearest_neighbor", {"x": x[:1], "target_size_height": high,
                                          "target_size_width": wide},
              [half_pixel(x[:1], (high, wide))])  # fmt: skip
    cases.add("resize", {"x": x[:1], "shape": [high, wide], "resized_dims": 2,
                         "interpolation_mode": "NEAREST_NEIGHBOR"},
              [half_pixel(x[:1], (high, wide))], "nearest", opset=7)  # fmt: skip
cases.add("resize_nearest_neighbor", {"x": x[0], "target_size_height": 3,
                                      "target_size_width": 10},
          [F.interpolate(torch.tensor(x[:1]), (3, 10), mode="nearest-exact").numpy()[0]],
          "torch")  # fmt: skip
cases.add("resize", {"x": whole, "shape": [7, 3], "resized_dims": 2,
                     "interpolation_mode": "NEAREST_NEIGHBOR"}, [half_pixel(whole, (7, 3))],
          "nearest int32", opset=7)  # fmt: skip
pair = np.array([-6.174, 9.371], "f4").reshape(1, 1, 1, 2, 1)
cases.add("resize", {"x": pair, "shape": [1, 1, 3, 2], "resized_dims": 2,
                     "interpolation_mode": "NEAREST_NEIGHBOR"},
          [pair.ravel()[[0, 0, 1, 1, 1, 1]].reshape(1, 1, 1, 3, 2)],
          "published nearest", opset=7)  # fmt: skip
cases.add("resize_nearest_neighbor", {"x": x, "target_size_height": 0, "target_size_width": 2},
          error="target_size_height: expected at least 1, got 0")
for more, error in [({"shape": [1, 1, 1, 5, 5]}, "shape: has 5 sizes, x has 4 axes"),
                    ({"resized_dims": 3}, "resized_dims: 3 is not between 0 and the 2"),
                    ({"resized_dims": -1}, "resized_dims: -1 is not between"),
                    ({"shape": [4, -2]}, "shape: -2 is no size of an image"),
                    ({"interpolation_mode": "CUBIC"}, "interpolation_mode: 'CUBIC' is none of"),
                    ({"sampling_mode": "X"}, "sampling_mode: 'X' is none of")]:  # fmt: skip
    cases.add("resize", {"x": pair[0], "shape": [4, 5], "resized_dims": 2} | more, opset=7,
              error=error)

for high, wide in [(2, 3), (1, 1), (3, 2)]:
    torched = F.interpolate(torch.tensor(x[:1]), scale_factor=(high, wide), mode="nearest").numpy()
    cases.add("upsample_nearest_neighbor", {"x": x[:1], "scale_factor_height": high,
                                            "scale_factor_width": wide}, [torched])  # fmt: skip
for high, wide in [(1.5, 0.75), (0.5, 2.5), (1.7, 1.3)]:
    sizes = (int(5 * high), int(7 * wide))
    cases.add("upsample_nearest_neighbor", {"x": x[:1], "scale_factor_height": high,
                                            "scale_factor_width": wide},
              [by_start(x[:1], sizes)], "fractional")  # fmt: skip
cases.add("upsample_nearest_neighbor", {"x": x[:1]}, [x[:1]], "default")
cases.add("upsample_nearest_neighbor", {"x": x[0], "scale_factor_width": 2},
          [x[0].repeat(2, -1)], "rank 3")
three = np.array([1.5, -2.5, 3.5], "f4").reshape(1, 1, 1, 3)
cases.add("upsample_nearest_neighbor", {"x": three, "scale_factor_height": 3.17,
                                        "scale_factor_width": 0.67},
          [np.array([1.5, -2.5] * 3, "f4").reshape(1, 1, 3, 2)], "published")  # fmt: skip
cases.add("upsample_nearest_neighbor", {"x": three, "scale_factor_height": 2.0,
                                        "scale_factor_width": 1.12},
          [np.array([1.5, -2.5, 3.5] * 2, "f4").reshape(1, 1, 2, 3)], "published")  # fmt: skip
# Converters add 1e-4 to the size; without, fp32 has the size all the same.
cases.add("upsample_nearest_neighbor", {"x": three, "scale_factor_width": 5.0001 / 3},
          [three[..., [0, 0, 1, 1, 2]]], "five of three")
cases.add("upsample_nearest_neighbor", {"x": three, "scale_factor_width": 5 / 3},
          [three[..., [0, 0, 1, 1, 2]]], "five of three in fp32")
cases.add("upsample_nearest_neighbor", {"x": three, "scale_factor_width": 0.0},
          error="scale_factor_width: 0 is no factor for a size of 3")
cases.add("upsample_nearest_neighbor", {"x": three, "scale_factor_height": -1.0},
          error="scale_factor_height: -1 is no factor")
cases.add("upsample_nearest_neighbor", {"x": three, "scale_factor_width": 1e30}, fp16=False,
          error="scale_factor_width: 1e+30 is no factor")

for align, half, mode in [(None, None, "STRICT_ALIGN_CORNERS"),
                          (True, None, "STRICT_ALIGN_CORNERS"),
                          (False, None, "UNALIGN_CORNERS"), (True, False, "STRICT_ALIGN_CORNERS"),
                          (False, True, "UNALIGN_CORNERS"), (False, False, "DEFAULT")]:  # fmt: skip
    more = ({} if align is None else {"align_corners": align}) | (
        {} if half is None else {"half_pixel_centers": half})
    for high, wide in [(2, 3), (2.5, 0.75)]:
        sizes = (int(5 * high), int(7 * wide))
        cases.add("upsample_bilinear", {"x": x[:1, :1], "scale_factor_height": high,
                                        "scale_factor_width": wide} | more,
                  [resize(x[:1, :1], sizes, mode)], f"{align} {half}",
                  opset=5 if half is None else 6, **CLOSE)  # fmt: skip
cases.add("upsample_bilinear", {"x": x[:1], "scale_factor_height": 2, "scale_factor_width": 3,
                                "align_corners": False},
          [F.interpolate(torch.tensor(x[:1]), scale_factor=(2, 3), mode="bilinear").numpy()],
          "torch", **CLOSE)  # fmt: skip
cases.add("upsample_bilinear", {"x": two, "scale_factor_width": 2.6, "align_corners": False},
          [np.array([0, 0.1, 0.5, 0.9, 1], "f4").reshape(1, 1, 5)], "published", **CLOSE)
cases.add("upsample_bilinear", {"x": two + 1, "scale_factor_height": 2, "scale_factor_width": 3,
                                "align_corners": False, "half_pixel_centers": False},
          [np.array([1, 4 / 3, 5 / 3, 2, 2, 2] * 2, "f4").reshape(1, 2, 6)], "published", opset=6,
          **CLOSE)  # fmt: skip
cases.add("upsample_bilinear", {"x": two, "align_corners": True, "half_pixel_centers": True},
          opset=6,
          error="half_pixel_centers: cannot be true together with align_corners")

# --- crop_resize ----------------------------------------------------------------------------------


def at_point(image, row, column, outside):
    height, width = image.shape
    if not (0 <= row <= height - 1 and 0 <= column <= width - 1):
        return outside
    line = interpolate(image.astype(np.float64), 0, np.array([row]))
    return interpolate(line, 1, np.array([column]))[0, 0]


def box_grid(mode, begin, end, count):
    along = grid(mode, abs(end - begin) + 1, count)
    return begin + along if end >= begin else begin - along


def crop(image, box, high, wide, layout="CORNERS_HEIGHT_FIRST", mode="DEFAULT", normalized=False,
         scale=1.0, outside=0.0):
    """One box of an image [C, H, W]."""
    box = np.asarray(box, np.float64) * scale
    if layout.endswith("WIDTH_FIRST"):
        box = box[[1, 0, 3, 2]]
    if normalized:
        box = box * np.tile(np.array(image.shape[1:]) - 1, 2)
    if layout.startswith("CENTER"):
        box = np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
    rows = box_grid(mode, box[0], box[2], high)
    columns = box_grid(mode, box[1], box[3], wide)
    return np.array([[[at_point(plane, r, c, outside) for c in columns] for r in rows]
                     for plane in image]).astype("f4")


square = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
published = [([1, 1, 2, 2], 2, [6, 7, 10, 11]), ([1, 1, 2, 2], 1, [8.5]),
             ([2, 2, 1, 1], 2, [11, 10, 7, 6]),
             ([1, 1, 2, 2], 4, [6, 19 / 3, 20 / 3, 7, 22 / 3, 23 / 3, 8, 25 / 3, 26 / 3, 9, 28 / 3,
                                29 / 3, 10, 31 / 3, 32 / 3, 11])]  # fmt: skip
for box, size, expected in published:
    inputs = {"x": square, "target_height": size, "target_width": size,
              "normalized_coordinates": False, "box_coordinate_mode": "CORNERS_HEIGHT_FIRST",
              "sampling_mode": "ALIGN_CORNERS"}  # fmt: skip
    expected = np.array(expected, "f4")
    cases.add("crop_resize", inputs | {"roi": np.array(box, "f4").reshape(1, 1, 4, 1, 1)},
              [expected.reshape(1, 1, 1, size, size)], "published", **CLOSE)
    cases.add("crop_resize", inputs | {"boxes": np.array([box], "f4")},
              [expected.reshape(1, 1, size, size)], "published", opset=7, **CLOSE)
boxes = np.array([[0.1, 0.3, 1.3, 1], [0.5, 1.8, 1.0, 0.3], [0.0, 0.4, 0.6, 0.7]], "f4")
for pad in [0.0, 10.0]:
    expected = np.array([3.1, 5.2, pad, pad, pad, 7.9, pad, 13.9, 2.2, 3.1, 9.4, 10.3], "f4")
    inputs = {"x": square, "target_height": 2, "target_width": 2, "normalized_coordinates": True,
              "sampling_mode": "ALIGN_CORNERS", "pad_value": pad}  # fmt: skip
    roi = np.concatenate([np.zeros((3, 1), "f4"), boxes], 1).reshape(3, 1, 5, 1, 1)
    # As fp16 the boxes end elsewhere.
    cases.add("crop_resize", inputs | {"roi": roi}, [expected.reshape(3, 1, 1, 2, 2)],
              "published pad", opset=6, fp16=False, **CLOSE)
    cases.add("crop_resize", inputs | {"boxes": boxes, "box_indices": [0, 0, 0]},
              [expected.reshape(3, 1, 2, 2)], "published pad", opset=7, fp16=False, **CLOSE)
x = numbers((2, 2, 4, 5), 3)
box = np.array([[0.5, 1.25, 2.5, 3.0], [3.0, 4.5, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0]], "f4")
for mode in MODES:
    for high, wide in [(3, 4), (1, 1)]:
        more = {"target_height": high, "target_width": wide, "sampling_mode": mode}
        expected = np.stack([np.stack([crop(i, b, high, wide, mode=mode) for i in x[:, 1:]])
                             for b in box])  # fmt: skip
        cases.add("crop_resize", {"x": x[:, 1:], "roi": box.reshape(3, 1, 4, 1, 1)} | more,
                  [expected], f"each image {mode}", **CLOSE)
    expected = np.stack([crop(x[i], b, 3, 2, mode=mode) for i, b in zip([1, 0, 1], box)])
    cases.add("crop_resize", {"x": x, "boxes": box, "box_indices": np.array([1, 0, 1], np.uint16),
                              "target_height": 3, "target_width": 2, "sampling_mode": mode},
              [expected], f"indexed {mode}", opset=7, **CLOSE)  # fmt: skip
for layout in ["CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST",
               "CENTER_SIZE_WIDTH_FIRST"]:  # fmt: skip
    four = np.array([[0.5, 0.25, 0.75, 0.375], [0.375, 0.625, 0.25, 0.5]], "f4")
    more = dict(layout=layout, mode="ALIGN_CORNERS", normalized=True)
    expected = np.stack([crop(x[i], b, 2, 3, **more) for i, b in enumerate(four)])
    cases.add("crop_resize", {"x": x, "boxes": four, "target_height": 2, "target_width": 3,
                              "normalized_coordinates": True, "box_coordinate_mode": layout,
                              "sampling_mode": "ALIGN_CORNERS"}, [expected], layout, opset=7,
              **CLOSE)  # fmt: skip
    five = np.concatenate([np.array([[1], [0]], "f4"), four * 8], 1).reshape(2, 1, 5, 1, 1)
    more = dict(layout=layout, mode="STRICT_ALIGN_CORNERS", scale=0.5)
    expected = np.stack([crop(x[i], b * 8, 2, 3, **more)[None] for i, b in zip([1, 0], four)])
    cases.add("crop_resize", {"x": x, "roi": five, "target_height": 2, "target_width": 3,
                              "box_coordinate_mode": layout, "spatial_scale": 0.5,
                              "sampling_mode": "STRICT_ALIGN_CORNERS"}, [expected], layout,
              **CLOSE)  # fmt: skip
cases.add("crop_resize", {"x": x, "boxes": np.array([[1, 2, 3, 4]], np.uint16)},
          [crop(x[0], [1, 2, 3, 4], 1, 1)[None]], "uint16 boxes, default", opset=7, **CLOSE)
cases.add("crop_resize", {"x": x, "boxes": np.array([[np.nan, 0, 1, 1]], "f4"), "pad_value": 2.0},
          [np.full((1, 2, 1, 1), 2, "f4")], "nan", opset=7)
good = {"x": x[..., :1, :1], "boxes": box[:2]}
for more, error in [
    ({"box_indices": [0, 2]}, "box_indices: 2 is no image of x, which has 2"),
    ({"box_indices": [0, -1]}, "box_indices: -1 is no image"),
    ({"box_indices": [0]}, "box_indices: has 1 numbers"),
    ({"boxes": box}, "box_indices: 2 is no image"),
    ({"boxes": box[:, :3]}, "boxes: has shape [3, 3], expected [N, 4]"),
    ({"x": x[0]}, "x: is"), ({"target_height": 0}, "target_height: 0 by 1 is no size"),
    ({"box_coordinate_mode": "CORNERS"}, "box_coordinate_mode: 'CORNERS' is none of"),
    ({"sampling_mode": "NEAREST"}, "sampling_mode: 'NEAREST' is none of"),
]:  # fmt: skip
    cases.add("crop_resize", good | more, opset=7, error=error)
cases.add("crop_resize", {"x": x}, error="boxes: expected one of roi (up to iOS 16) and boxes")
cases.add("crop_resize", {"x": x, "roi": box}, error="roi: has shape [3, 4]")
cases.add("crop_resize", {"x": x, "roi": np.full((1, 1, 5, 1, 1), 2, "f4")},
          error="roi: box 0 is of image 2, x has 2")

# --- resample, affine -----------------------------------------------------------------------------


def resample(x, coordinates, sampling, padding, mode, align, value=0.0):
    """torch has the same, but for the value of padding and the ranges of coordinates."""
    height, width = x.shape[2:]
    sizes = np.array([width, height], np.float64)
    at = coordinates.astype(np.float64)
    if mode != "unnormalized":
        share = at if mode == "normalized_zero_to_one" else (at + 1) / 2
        at = share * (sizes - 1) if align else share * sizes - 0.5
    # In pixels now; as torch wants it, for reflection at centers or at edges.
    corners = padding != "symmetric"
    at = at * 2 / (sizes - 1) - 1 if corners else (at + 0.5) * 2 / sizes - 1
    name = {"constant": "zeros", "border": "border"}.get(padding, "reflection")
    out = F.grid_sample(torch.tensor(x.astype(np.float64) - (value if name == "zeros" else 0)),
                        torch.tensor(at), sampling, name, corners).numpy()
    return (out + (value if name == "zeros" else 0)).astype("f4")


square = np.array([11, 22, 33, 44], "f4").reshape(1, 1, 2, 2)
at = np.array([-1, -2, -3.7, -1, 0, 0, 3.5, 1.2], "f4").reshape(1, 2, 2, 2)
whole = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int32).reshape(1, 2, 2, 2)
for sampling, padding, value, mode, align, expected, of_whole in [
    ("bilinear", "constant", 6.17, "normalized_minus_one_to_one", True, [8.585, 6.17, 27.5, 6.17],
     [27.5, 44, 27.5, 44]),
    ("nearest", "border", -1.0, "unnormalized", False, [11, 11, 11, 44], [11, 44, 11, 44]),
    ("bilinear", "reflection", -1.0, "normalized_zero_to_one", True, [22, 36.3, 11, 34.1],
     [11, 44, 11, 44]),
    ("nearest", "symmetric", -1.0, "normalized_zero_to_one", False, [22, 33, 11, 33],
     [11, 44, 11, 44]),
]:  # fmt: skip
    more = {"x": square, "sampling_mode": sampling, "padding_mode": padding, "padding_value": value,
            "coordinates_mode": mode, "align_corners": align}  # fmt: skip
    cases.add("resample", more | {"coordinates": at},
              [np.array(expected, "f4").reshape(1, 1, 2, 2)],
              "published", fp16=False, **CLOSE)
    for dtype, opset in [(np.int32, 5), (np.int8, 7), (np.uint16, 7)]:
        cases.add("resample", more | {"coordinates": whole.astype(dtype)},
                  [np.array(of_whole, "f4").reshape(1, 1, 2, 2)], "published", opset=opset, **CLOSE)
x = numbers((2, 3, 3, 4), 4)
rng = np.random.default_rng(5)
for padding in ["constant", "border", "reflection", "symmetric"]:
    for mode in ["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"]:
        for align in [True, False]:
            for sampling in ["bilinear", "nearest"]:
                # In sixteenths, so that fp16 has them; never half-way between pixels.
                low, high = {"unnormalized": (-120, 200), "normalized_minus_one_to_one": (-60, 60),
                             "normalized_zero_to_one": (-30, 50)}[mode]  # fmt: skip
                at = (rng.integers(low, high, (2, 3, 2, 2)) / 16 + 1 / 64).astype("f4")
                cases.add("resample", {
                    "x": x[:, 1:], "coordinates": at, "sampling_mode": sampling,
                    "padding_mode": padding, "padding_value": 1.5, "coordinates_mode": mode,
                    "align_corners": align},
                    [resample(x[:, 1:], at, sampling, padding, mode, align, 1.5)],
                    f"{sampling} {padding} {mode} {align}", **CLOSE)  # fmt: skip
halves = np.array([[[[0.5, 0], [1.5, 0], [2.5, 0], [0, 0.5], [0, 1.5], [0, 2.5]]]], "f4")
plain = {"sampling_mode": "nearest", "padding_mode": "constant", "padding_value": 0.0,
         "coordinates_mode": "unnormalized", "align_corners": False}  # fmt: skip
cases.add("resample", {"x": x[:1], "coordinates": halves} | plain,
          [np.stack([x[0, :, [0, 0, 0, 0, 2, 2], [0, 2, 2, 0, 0, 0]].T])[:, :, None]],
          "nearest of halves")
one = x[:1, :, :1, :1]
far = np.array([[[[-7.25, 3.0], [0, 0], [9.5, -2.0]]]], "f4")
for padding in ["border", "reflection", "symmetric"]:
    cases.add("resample", {"x": one, "coordinates": far} | plain | {"padding_mode": padding,
                                                                     "sampling_mode": "bilinear"},
              [np.repeat(one, 3, 3)], "one pixel")  # fmt: skip
wild = np.array([[[[np.nan, 0], [np.inf, 0], [-1e30, 1e30], [3, 2]]]], "f4")
cases.add("resample", {"x": x[:1], "coordinates": wild} | plain | {"padding_value": 7.0},
          [np.concatenate([np.full((1, 3, 1, 3), 7, "f4"), x[:1, :, 2:3, 3:4]], 3)], "wild",
          fp16=False)
good = {"x": x[..., :1, :1], "coordinates": np.zeros((2, 1, 1, 2), "f4")} | plain
for more, error in [({"coordinates": np.zeros((1, 1, 1, 2), "f4")}, "coordinates: has shape"),
                    ({"coordinates": np.zeros((2, 1, 1, 3), "f4")}, "coordinates: has shape"),
                    ({"x": x[0]}, "x: is"), ({"sampling_mode": "cubic"}, "sampling_mode: 'cubic'"),
                    ({"padding_mode": "wrap"}, "padding_mode: 'wrap' is none of"),
                    ({"coordinates_mode": "pixels"}, "coordinates_mode: 'pixels' is none of"),
                    ({"x": np.zeros((2, 3, 0, 2), "f4"), "padding_mode": "border"},
                     "has no pixels to be sampled")]:  # fmt: skip
    cases.add("resample", good | more, error=error)

fixed = {"sampling_mode": "bilinear", "padding_mode": "constant", "padding_value": 0.0,
         "coordinates_mode": "normalized_minus_one_to_one", "align_corners": True}  # fmt: skip
matrix = np.array([[-1, -2, -3.7, -1, 3.5, 1.2]], "f4")
for high, wide, expected in [(3, 3, [10.7525, 2.5025, 0, 1.98, 0, 0, 0, 0, 0]),
                             (2, 5, [10.7525, 5.94, 2.5025, 0.44, 0, 0, 0, 0, 0, 0])]:  # fmt: skip
    cases.add("affine", {"x": square, "transform_matrix": matrix, "output_height": high,
                         "output_width": wide} | fixed,
              [np.array(expected, "f4").reshape(1, 1, high, wide)], "published", fp16=False,
              rtol=1e-4, atol=1e-4)  # fmt: skip
matrices = np.array([[0.75, -0.25, 0.125, 0.5, 1.25, -0.0625], [1, 0, 0, 0, 1, 0]], "f4")
for some, high, wide in [(matrices, 3, 4), (matrices[:1], 5, 2), (matrices[1:], 1, 1),
                         (matrices[1:], 4, 5)]:  # fmt: skip
    theta = torch.tensor(np.broadcast_to(some, (2, 6)).reshape(2, 2, 3).astype(np.float64))
    places = F.affine_grid(theta, (2, 3, high, wide), align_corners=True)
    expected = F.grid_sample(torch.tensor(x.astype(np.float64)), places, align_corners=True)
    cases.add("affine", {"x": x, "transform_matrix": some, "output_height": high,
                         "output_width": wide} | fixed, [expected.numpy().astype("f4")], "torch",
              **CLOSE)  # fmt: skip
good = {"x": x[..., :1, :1], "transform_matrix": matrices, "output_height": 2,
        "output_width": 2} | fixed
for more, error in [({"transform_matrix": matrices[:, :5]}, "transform_matrix: has shape [2, 5]"),
                    ({"output_width": 0}, "output_height: 2 by 0 is no size"),
                    ({"x": x[0]}, "x: is"), ({"align_corners": False}, "align_corners: false"),
                    ({"padding_value": 1.0}, "padding_value: 1 is not supported"),
                    ({"sampling_mode": "nearest"}, "sampling_mode: 'nearest' is not supported"),
                    ({"x": x[:1, :, :1].repeat(3, 0)},
                     "transform_matrix: has shape [2, 6], expected [3")]:  # fmt: skip
    cases.add("affine", good | more, error=error)

# --- non_maximum_suppression ----------------------------------------------------------------------


def iou(a, b):
    low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    common = np.prod(np.maximum(0, high - low))
    area = np.prod(a[2:]) + np.prod(b[2:]) - common
    return common / area if area > 0 else 0


def nms(boxes, scores, iou_threshold, score_threshold, most, per_class):
    count, width = boxes.shape[0], scores.shape[2]
    out = [np.zeros((count, most, 4), "f4"), np.zeros((count, most, width), "f4"),
           np.full((count, most), -1, np.int32), np.zeros(count, np.int32)]  # fmt: skip
    for n in range(count):
        best, of = scores[n].max(-1), scores[n].argmax(-1)
        kept = []
        for i in np.argsort(-best, kind="stable"):
            if best[i] < score_threshold or len(kept) == most:
                continue
            if all(iou(boxes[n, j].astype(float), boxes[n, i].astype(float)) <= iou_threshold
                   or (per_class and of[i] != of[j]) for j in kept):
                kept.append(i)
        if not kept:
            kept = [best.argmax()]
        out[0][n, : len(kept)] = boxes[n, kept]
        out[1][n, : len(kept)] = scores[n, kept]
        out[2][n, : len(kept)] = kept
        out[3][n] = len(kept)
    return out


four = np.stack([np.full(4, i, "f4") for i in range(4)])[None]
scores = np.array([-3.5, 9.4, 2.3, 0.7], "f4").reshape(1, 4, 1)
cases.add("non_maximum_suppression", {
    "boxes": four, "scores": scores, "iou_threshold": 0.2, "score_threshold": 0.4, "max_boxes": 2,
    "per_class_suppression": True},
    [four[:, 1:3], scores[:, 1:3], np.array([[1, 2]], np.int32), np.array([2], np.int32)],
    "published", fp16=False)  # fmt: skip
for seed, (count, classes, most, threshold, low, per_class) in enumerate([
    (12, 1, 5, 0.3, -1.0, False), (12, 3, 20, 0.2, 0.5, False), (15, 3, 12, 0.2, 0.25, True),
    (15, 4, 6, 0.5, -9.0, True), (8, 2, 4, 0.1, 99.0, False), (9, 2, 9, 0.0, -9.0, False),
]):  # fmt: skip
    rng = np.random.default_rng(70 + seed)
    boxes = np.concatenate([rng.integers(0, 40, (2, count, 2)), rng.integers(0, 30, (2, count, 2))],
                           -1).astype("f4") / 4  # fmt: skip
    scores = rng.permutation(2 * count * classes).reshape(2, count, classes).astype("f4") / 64
    more = {"iou_threshold": threshold, "max_boxes": most, "per_class_suppression": per_class}
    cases.add("non_maximum_suppression",
              {"boxes": boxes, "scores": scores, "score_threshold": low} | more,
              nms(boxes, scores, threshold, low, most, per_class), f"random {seed}")
    kept = nms(boxes, scores, threshold, -np.inf, most, per_class)
    cases.add("non_maximum_suppression",
              {"boxes": boxes.swapaxes(1, 2), "scores": scores.swapaxes(1, 2)} | more,
              [kept[0].swapaxes(1, 2), kept[1].swapaxes(1, 2), kept[2]], f"random {seed}", opset=7)
ties = np.zeros((1, 5, 1), "f4")
apart = np.array([[[i * 10, 0, 2, 2] for i in range(5)]], "f4")
cases.add("non_maximum_suppression", {"boxes": apart, "scores": ties, "iou_threshold": 0.5,
                                      "score_threshold": 0.0, "max_boxes": 3},
          nms(apart, ties, 0.5, 0, 3, False), "ties")  # fmt: skip
cases.add("non_maximum_suppression", {"boxes": np.zeros((1, 4, 0), "f4"),
                                      "scores": np.zeros((1, 2, 0), "f4"), "iou_threshold": 0.5,
                                      "max_boxes": 2},
          [np.zeros((1, 4, 2), "f4"), np.zeros((1, 2, 2), "f4"), np.full((1, 2), -1, np.int32)],
          "no boxes", opset=7)  # fmt: skip
good = {"boxes": apart, "scores": ties, "iou_threshold": 0.5, "score_threshold": 0.0,
        "max_boxes": 3}  # fmt: skip
for more, error in [({"boxes": apart[..., :3]},
                     "boxes: has shape [1, 5, 3], expected [n, boxes, 4]"),
                    ({"scores": ties[:, :4]}, "scores: has shape [1, 4, 1]"),
                    ({"scores": ties[..., :0]}, "scores: has shape [1, 5, 0]"),
                    ({"max_boxes": -1}, "max_boxes: expected at least 0, got -1")]:  # fmt: skip
    cases.add("non_maximum_suppression", good | more, error=error)
cases.add("non_maximum_suppression", good, opset=7,
          error="boxes: has shape [1, 5, 4], expected [n, 4")

cases.write()
