"""Vectors for ops of movement.cc."""

import itertools

import numpy as np
import torch
from common import Cases, Const, numbers

cases = Cases("movement.json", origin="numpy, torch")

TYPES = [np.int32, np.int8, np.uint8, np.int16, np.uint16, np.bool_]


def drawn(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    low = -100 if np.issubdtype(dtype, np.signedinteger) else 0
    return rng.integers(low, 101, shape).astype(dtype)


def counted(*shape):
    """Every element differs from every other; fp16 has them all."""
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


# --- transpose ------------------------------------------------------------------------------------

for perm in itertools.permutations(range(3)):
    x = counted(2, 3, 4)
    cases.add("transpose", {"x": x, "perm": list(perm)}, [x.transpose(perm)], f"{perm}")
for shape, perm in [((2, 3, 4, 5), (0, 2, 3, 1)), ((2, 3, 4, 5), (0, 3, 1, 2)),
                    ((2, 3, 4, 5), (0, 2, 1, 3)), ((2, 3, 4, 5), (3, 2, 1, 0)),
                    ((1, 3, 1, 5), (2, 1, 0, 3)), ((1, 3, 1, 5), (3, 0, 2, 1)),
                    ((2, 3, 2, 3, 2), (4, 1, 3, 0, 2)), ((2, 3, 2, 2, 2, 3), (5, 0, 4, 1, 3, 2)),
                    ((35, 18), (1, 0)), ((3, 0, 2), (2, 1, 0)), ((7,), (0,))]:  # fmt: skip
    x = counted(*shape)
    cases.add("transpose", {"x": x, "perm": list(perm)}, [x.transpose(perm)], f"{shape} {perm}")
x = counted(2, 3, 4)
cases.add("transpose", {"x": x, "perm": [-1, 0, -2]}, [x.transpose(2, 0, 1)], "negative")
cases.add("transpose", {"x": Const(x), "perm": [1, 0, 2]}, [x.transpose(1, 0, 2)], "constant")
for dtype in TYPES:
    z = drawn((3, 17, 5), dtype, 1)
    cases.add("transpose", {"x": z, "perm": [2, 0, 1]}, [z.transpose(2, 0, 1)], opset=7)
cases.add("transpose", {"x": x, "perm": [0, 1]}, error="perm: has 2 axes, x has 3")
cases.add("transpose", {"x": x, "perm": [0, 1, 1]}, error="perm: [0, 1, 1] is no permutation")
cases.add("transpose", {"x": x, "perm": [0, 1, 3]}, error="is no permutation of 3 axes")
cases.add("transpose", {"x": x, "perm": [0, 2, -1]}, error="is no permutation of 3 axes")

# --- concat, stack, split -------------------------------------------------------------------------

for axis in [0, 1, 2, -1, -3]:
    parts = []
    for i, size in enumerate([2, 1, 3]):
        shape = [2, 3, 2]
        shape[axis] = size
        parts.append(numbers(tuple(shape), 20 + i))
    cases.add("concat", {"values": parts, "axis": axis}, [np.concatenate(parts, axis)])
for axis in [0, 1, 2, -1]:
    parts = [numbers((2, 3, 2), 30 + i) for i in range(3)]
    # Element i of input j becomes element 3 i + j.
    expected = np.concatenate([p.take([i], axis) for i in range(parts[0].shape[axis])
                               for p in parts], axis)  # fmt: skip
    cases.add("concat", {"values": parts, "axis": axis, "interleave": True}, [expected],
              f"interleave {axis}")
a, b = numbers((2, 3), 1), numbers((2, 3), 2)
cases.add("concat", {"values": [a], "axis": 1}, [a], "single")
cases.add("concat", {"values": [a, a], "axis": 1}, [np.concatenate([a, a], 1)], "plain false")
cases.add("concat", {"values": [a, np.zeros((2, 0), "f4"), b], "axis": 1},
          [np.concatenate([a, b], 1)], "with nothing")
cases.add("concat", {"values": [np.array(1, np.float32), np.array(2, np.float32)], "axis": 0},
          [np.array([1, 2], "f4")], "scalars")
cases.add("concat", {"values": [Const(a), b], "axis": 0}, [np.concatenate([a, b])], "constant")
for dtype in TYPES:
    p, q = drawn((2, 3), dtype, 1), drawn((2, 5), dtype, 2)
    cases.add("concat", {"values": [p, q], "axis": -1}, [np.concatenate([p, q], 1)], opset=7)
cases.add("concat", {"values": [a, numbers((3, 3), 3)], "axis": 1},
          error="values: number 1 has shape [3, 3], the first has [2, 3]")
cases.add("concat", {"values": [a, numbers((2, 4), 3)], "axis": 1, "interleave": True},
          error="to be interleaved")
cases.add("concat", {"values": [a, drawn((2, 3), np.int32, 1)], "axis": 1},
          error="must be of the same type and rank")
cases.add("concat", {"values": [a, numbers((2, 3, 1), 1)], "axis": 1},
          error="must be of the same type and rank")
cases.add("concat", {"values": [a, b], "axis": 2}, error="axis: 2 is no axis of 2 dimensions")

for axis in [0, 1, 2, -1, -3]:
    cases.add("stack", {"values": [a, b, a + 1], "axis": axis}, [np.stack([a, b, a + 1], axis)])
cases.add("stack", {"values": [a], "axis": 1}, [a[:, None]], "single")
cases.add("stack", {"values": [np.array(4, np.int32), np.array(5, np.int32)], "axis": 0},
          [np.array([4, 5], np.int32)], "scalars")
for dtype in TYPES:
    p, q = drawn((2, 3), dtype, 1), drawn((2, 3), dtype, 2)
    cases.add("stack", {"values": [p, q], "axis": 2}, [np.stack([p, q], 2)], opset=7)
cases.add("stack", {"values": [a, numbers((3, 2), 1)], "axis": 0},
          error="values: number 1 has shape [3, 2]")
cases.add("stack", {"values": [a, b], "axis": 3}, error="axis: 3 is no axis of 3 dimensions")

x = numbers((6, 4, 3), 5)
for axis, count in [(0, 3), (1, 2), (2, 3), (-3, 2), (-1, 1)]:
    cases.add("split", {"x": x, "num_splits": count, "axis": axis}, np.split(x, count, axis))
for axis, sizes in [(0, [1, 3, 2]), (1, [4]), (1, [0, 1, 3]), (-1, [2, 1])]:
    expected = np.split(x, np.cumsum(sizes)[:-1], axis)
    cases.add("split", {"x": x, "split_sizes": sizes, "axis": axis}, expected)
    cases.add("split", {"x": x, "split_sizes": sizes, "num_splits": len(sizes), "axis": axis},
              expected, "both")
for dtype in TYPES:
    z = drawn((2, 6), dtype, 6)
    cases.add("split", {"x": z, "num_splits": 2, "axis": 1}, np.split(z, 2, 1), opset=7)
two = [numbers((1,), 1)] * 2
cases.add("split", {"x": x, "num_splits": 4, "axis": 0}, error="num_splits: is 4, with 1 outputs")
cases.add("split", {"x": x, "split_sizes": [2, 3], "axis": 0},
          error="split_sizes: [2, 3] are 5 together, axis 0 of x has 6")
cases.add("split", {"x": x, "split_sizes": [-1, 7], "axis": 0}, error="has -1, a negative size")
cases.add("split", {"x": x, "axis": 0}, error="one of split_sizes and num_splits must be given")
cases.add("split", {"x": x, "num_splits": 0, "axis": 0}, error="num_splits: is 0")

# --- pad, tile ------------------------------------------------------------------------------------


def pad(x, pads, mode="constant", value=0.0):
    full = [(0, 0)] * (x.ndim - len(pads) // 2)
    full += [tuple(pads[i : i + 2]) for i in range(0, len(pads), 2)]
    if mode == "constant":
        return np.pad(x, full, constant_values=value)
    return np.pad(x, full, "edge" if mode == "replicate" else "reflect")


for shape, pads in [((2, 3, 4, 5), [1, 2, 0, 3]), ((3, 5), [2, 1, 4, 0]), ((2, 3, 4), [0, 2]),
                    ((4,), [3, 1]), ((2, 3, 2), [1, 1, 2, 0, 0, 1]), ((3, 3), []),
                    ((2, 4, 3), [1, 0, 0, 0])]:  # fmt: skip
    x = numbers(shape, 40)
    argument = pads if pads else Const(np.zeros(0, np.int32))
    for mode in ["constant", "reflect", "replicate"]:
        if mode == "reflect" and any(p >= shape[len(shape) - len(pads) // 2 + i // 2]
                                     for i, p in enumerate(pads)):  # fmt: skip
            continue
        more = {"constant_val": 1.5} if mode == "constant" else {}
        cases.add("pad", {"x": x, "pad": argument, "mode": mode} | more,
                  [pad(x, pads, mode, 1.5)], f"{mode} {shape} {pads}")
x = numbers((1, 2, 3, 4), 41)
cases.add("pad", {"x": x, "pad": [2, 1, 3, 2], "mode": "reflect"},
          [torch.nn.functional.pad(torch.tensor(x), (3, 2, 2, 1), "reflect").numpy()], "torch")
cases.add("pad", {"x": x, "pad": [5, 1, 7, 6], "mode": "replicate"},
          [torch.nn.functional.pad(torch.tensor(x), (7, 6, 5, 1), "replicate").numpy()], "far")
cases.add("pad", {"x": x, "pad": np.array([0, 0, 1, 0, 0, 1, 2, 2], np.int32)},
          [pad(x, [0, 0, 1, 0, 0, 1, 2, 2])], "default, run time")
cases.add("pad", {"x": x, "pad": [1, 1], "constant_val": Const(np.array(-np.inf, "f4"))},
          [pad(x, [1, 1], value=-np.inf)], "inf")
cases.add("pad", {"x": np.zeros((2, 0), "f4"), "pad": [1, 2], "constant_val": 3.0},
          [np.full((2, 3), 3.0, "f4")], "nothing")
z = drawn((3, 4), np.int32, 42)
cases.add("pad", {"x": z, "pad": [1, 2, 0, 1], "constant_val": 7}, [pad(z, [1, 2, 0, 1], value=7)],
          "int32")
z = drawn((3, 4), np.int8, 42)
cases.add("pad", {"x": z, "pad": [1, 2, 2, 3], "mode": "reflect"},
          [pad(z, [1, 2, 2, 3], "reflect")], "int8", opset=7)
for pads, mode, error in [
    ([1, -1], "constant", "pad: [1, -1] has a negative number"), ([1], "constant", "pad: has 1"),
    ([4, 0], "reflect", "pad: 4 elements cannot be had from 4 by reflect (axis 3)"),
    ([0] * 10, "constant", "pad: has 10 numbers"), ([1, 1], "symmetric", "mode: 'symmetric'"),
]:  # fmt: skip
    cases.add("pad", {"x": x, "pad": pads, "mode": mode}, error=error)
cases.add("pad", {"x": np.zeros((2, 0), "f4"), "pad": [1, 0], "mode": "replicate"},
          error="cannot be had from 0")

for shape, reps in [((2, 3), [2, 3]), ((2, 3), [1, 2]), ((2, 3), [3, 1]), ((4,), [5]),
                    ((2, 1, 3), [1, 4, 2]), ((1, 2, 2), [2, 2, 2]), ((2, 0), [2, 3]),
                    ((2, 3), [1, 1])]:  # fmt: skip
    x = numbers(shape, 43)
    cases.add("tile", {"x": x, "reps": reps}, [np.tile(x, reps)], f"{shape} {reps}")
cases.add("tile", {"x": numbers((2, 3), 43), "reps": np.array([2, 2], np.int32)},
          [np.tile(numbers((2, 3), 43), (2, 2))], "run time")
for dtype in TYPES:
    z = drawn((2, 3), dtype, 44)
    cases.add("tile", {"x": z, "reps": [2, 2]}, [np.tile(z, (2, 2))], opset=7)
cases.add("tile", {"x": numbers((2, 3), 1), "reps": [2]}, error="reps: has 1 numbers, x has 2")
cases.add("tile", {"x": numbers((2, 3), 1), "reps": [2, 0]}, error="reps: [2, 0] has 0")
cases.add("tile", {"x": numbers((2, 3), 1), "reps": [2, -3]}, error="expected at least 1")

# --- reverse, reverse_sequence, sliding_windows ---------------------------------------------------

x = numbers((2, 3, 4), 50)
for axes in [None, [0], [1], [-1], [0, 2], [2, 0, 1]]:
    expected = np.flip(x, None if axes is None else tuple(axes))
    cases.add("reverse", {"x": x} | ({} if axes is None else {"axes": axes}), [expected])
for dtype in TYPES:
    z = drawn((3, 4), dtype, 51)
    cases.add("reverse", {"x": z, "axes": [1]}, [z[:, ::-1]], opset=7)
cases.add("reverse", {"x": np.zeros((0, 2), "f4")}, [np.zeros((0, 2), "f4")], "nothing")
cases.add("reverse", {"x": x, "axes": [3]}, error="axes: 3 is no axis of 3 dimensions")


def reverse_sequence(x, lengths, seq_axis, batch_axis):
    out = np.moveaxis(x, (batch_axis, seq_axis), (0, 1)).copy()
    for b, length in enumerate(lengths):
        out[b, :length] = out[b, :length][::-1].copy()
    return np.moveaxis(out, (0, 1), (batch_axis, seq_axis))


for shape, lengths, seq_axis, batch_axis in [
    ((3, 5), [2, 5, 0], 1, 0), ((5, 3), [2, 4, 1], 0, 1), ((2, 3, 4), [3, 1, 4], -1, 1),
    ((2, 4, 3), [4, 3], 1, -3), ((4, 2, 3), [1, 2, 3], 0, 2),
]:  # fmt: skip
    x = numbers(shape, 52)
    cases.add("reverse_sequence", {"x": x, "lengths": np.array(lengths, np.int32),
                                   "seq_axis": seq_axis, "batch_axis": batch_axis},
              [reverse_sequence(x, lengths, seq_axis, batch_axis)])  # fmt: skip
x = numbers((3, 4), 53)
cases.add("reverse_sequence", {"x": x, "lengths": [1, 2, 3, 2], "batch_axis": 1},
          [reverse_sequence(x, [1, 2, 3, 2], 0, 1)], "default")
z = drawn((2, 4), np.int16, 54)
cases.add("reverse_sequence", {"x": z, "lengths": np.array([3, 2], np.int8), "seq_axis": 1},
          [reverse_sequence(z, [3, 2], 1, 0)], "int16", opset=7)
for lengths, axes, error in [
    ([1, 2, 5], {"seq_axis": 1}, "lengths: 5 is not between 0 and 4"),
    ([1, 2, -1], {"seq_axis": 1}, "lengths: -1 is not between 0 and 4"),
    ([1, 2], {"seq_axis": 1}, "lengths: has 2 numbers"),
    ([1, 2, 3], {"seq_axis": 0}, "batch_axis: is 0, as seq_axis"),
]:  # fmt: skip
    cases.add("reverse_sequence", {"x": x, "lengths": lengths} | axes, error=error)


def sliding_windows(x, axis, size, stride):
    axis %= x.ndim
    count = (x.shape[axis] - size) // stride + 1
    return np.stack([x.take(range(i * stride, i * stride + size), axis) for i in range(count)],
                    axis)


for shape, axis, size, stride in [((2, 7, 3), 1, 3, 2), ((2, 7, 3), -1, 2, 1), ((6, 2), 0, 3, 3),
                                  ((8,), 0, 3, 2), ((5, 3), 0, 5, 4),
                                  ((2, 9), 1, 4, 3)]:  # fmt: skip
    x = numbers(shape, 55)
    cases.add("sliding_windows", {"x": x, "axis": axis, "size": size, "stride": stride},
              [sliding_windows(x, axis, size, stride)])
z = drawn((2, 5), np.uint8, 56)
cases.add("sliding_windows", {"x": z, "axis": 1, "size": 2}, [sliding_windows(z, 1, 2, 1)],
          "default stride", opset=7)
x = numbers((2, 5), 57)
cases.add("sliding_windows", {"x": x, "axis": 1, "size": 6}, error="size: 6 is not between 1")
cases.add("sliding_windows", {"x": x, "axis": 1, "size": 0}, error="size: 0 is not between 1")
cases.add("sliding_windows", {"x": x, "axis": 1, "size": 2, "stride": 0},
          error="stride: expected at least 1, got 0")
cases.add("sliding_windows", {"x": x, "axis": 2, "size": 2}, error="axis: 2 is no axis")

# --- crop, blocks ---------------------------------------------------------------------------------

for shape, rows, columns in [((2, 3, 5, 6), [1, 2], [0, 3]), ((2, 5, 4), [0, 0], [1, 1]),
                             ((1, 2, 4, 4), [4, 0], [0, 0])]:  # fmt: skip
    x = numbers(shape, 60)
    expected = x[..., rows[0] : x.shape[-2] - rows[1], columns[0] : x.shape[-1] - columns[1]]
    cases.add("crop", {"x": x, "crop_height": rows, "crop_width": columns}, [expected])
x = numbers((1, 2, 4, 4), 60)
cases.add("crop", {"x": x, "crop_height": [3, 2], "crop_width": [0, 0]},
          error="crop_height: 3 and 2 cannot be cut from 4")
cases.add("crop", {"x": x, "crop_height": [0, 0], "crop_width": [0, -1]},
          error="crop_width: 0 and -1 cannot be cut from 4")
cases.add("crop", {"x": x, "crop_height": [0], "crop_width": [0, 0]},
          error="crop_height: expected two numbers, got 1")


def depth_to_space(x, b):
    n, c, h, w = x.shape
    x = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // (b * b), h * b, w * b)


def space_to_depth(x, b):
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * b * b, h // b, w // b)


for b, (n, c, h, w) in [(2, (2, 3, 2, 3)), (3, (1, 2, 2, 1)), (1, (1, 2, 2, 2)), (2, (1, 1, 3, 2))]:
    deep = counted(n, c * b * b, h, w)
    wide = counted(n, c, h * b, w * b)
    cases.add("depth_to_space", {"x": deep, "block_size": b}, [depth_to_space(deep, b)])
    cases.add("space_to_depth", {"x": wide, "block_size": b}, [space_to_depth(wide, b)])
    shuffled = torch.nn.functional.pixel_shuffle(torch.tensor(deep), b).numpy()
    cases.add("pixel_shuffle", {"x": deep, "upscale_factor": b}, [shuffled])
    unshuffled = torch.nn.functional.pixel_unshuffle(torch.tensor(wide), b).numpy()
    cases.add("pixel_unshuffle", {"x": wide, "downscale_factor": Const(np.array(b, np.uint32))},
              [unshuffled], opset=6)
x = counted(1, 6, 3, 4)
cases.add("depth_to_space", {"x": x, "block_size": 2}, error="x: 6 channels are no multiple of")
cases.add("pixel_shuffle", {"x": x, "upscale_factor": 0}, error="upscale_factor: expected at least")
cases.add("space_to_depth", {"x": x, "block_size": 2}, error="x: 3 by 4 pixels cannot be divided")
cases.add("pixel_unshuffle", {"x": x, "downscale_factor": -2}, opset=6,
          error="downscale_factor: expected at least 1, got -2")
cases.add("pixel_shuffle", {"x": counted(4, 4), "upscale_factor": 2}, error="x: expected a rank")


def space_to_batch(x, block, paddings):
    x = np.pad(x, [(0, 0), (0, 0)] + [tuple(p) for p in paddings])
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block[0], block[0], w // block[1], block[1])
    return x.transpose(3, 5, 0, 1, 2, 4).reshape(-1, c, h // block[0], w // block[1])


def batch_to_space(x, block, crops):
    n, c, h, w = x.shape
    x = x.reshape(block[0], block[1], -1, c, h, w).transpose(2, 3, 4, 0, 5, 1)
    x = x.reshape(-1, c, h * block[0], w * block[1])
    return x[:, :, crops[0][0] : x.shape[2] - crops[0][1], crops[1][0] : x.shape[3] - crops[1][1]]


def pairs(values):
    return Const(np.array(values, np.int32))


for shape, block, paddings in [((2, 1, 2, 4), [2, 2], [[0, 0], [2, 0]]),
                               ((2, 3, 4, 6), [2, 3], [[0, 0], [0, 0]]),
                               ((1, 2, 3, 4), [2, 3], [[1, 2], [0, 2]]),
                               ((1, 2, 3, 2), [3, 1], [[2, 1], [0, 1]])]:  # fmt: skip
    x = counted(*shape)
    cases.add("space_to_batch", {"x": x, "block_shape": block, "paddings": pairs(paddings)},
              [space_to_batch(x, block, paddings)])
for shape, block, crops in [((8, 1, 1, 3), [2, 2], [[0, 0], [2, 0]]),
                            ((12, 2, 2, 3), [2, 3], [[0, 0], [0, 0]]),
                            ((6, 2, 3, 2), [2, 3], [[1, 2], [0, 2]])]:  # fmt: skip
    x = counted(*shape)
    cases.add("batch_to_space", {"x": x, "block_shape": block, "crops": pairs(crops)},
              [batch_to_space(x, block, crops)])
# Published with the definition of the op.
x = np.arange(1, 17, dtype=np.float32).reshape(2, 1, 2, 4)
cases.add("space_to_batch", {"x": x, "block_shape": [2, 2], "paddings": pairs([[0, 0], [2, 0]])},
          [np.array([0, 1, 3, 0, 9, 11, 0, 2, 4, 0, 10, 12, 0, 5, 7, 0, 13, 15, 0, 6, 8, 0, 14, 16],
                    "f4").reshape(8, 1, 1, 3)], "published")  # fmt: skip
x = counted(3, 1, 2, 3)
none = pairs([[0, 0], [0, 0]])
cases.add("space_to_batch", {"x": x, "block_shape": [2, 2], "paddings": none},
          error="block_shape: 2 by 3 pixels cannot be divided into blocks of 2 by 2")
cases.add("space_to_batch", {"x": x, "block_shape": [0, 2], "paddings": none},
          error="block_shape: expected two numbers of at least 1")
cases.add("space_to_batch", {"x": x, "block_shape": [1, 1], "paddings": pairs([[0, -1], [0, 0]])},
          error="paddings: expected two pairs of numbers of at least 0")
cases.add("batch_to_space", {"x": x, "block_shape": [2, 1], "crops": none},
          error="x: 3 samples are no multiple of the 2 places")
cases.add("batch_to_space", {"x": x, "block_shape": [3, 1], "crops": pairs([[3, 4], [0, 0]])},
          error="crops: 3 and 4 cannot be cut from 6")
cases.add("batch_to_space", {"x": counted(3, 2), "block_shape": [3, 1], "crops": none},
          error="x: expected a rank of 4, got 2")

cases.write()
