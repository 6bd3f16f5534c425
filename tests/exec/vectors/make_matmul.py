"""Vectors for ops of matmul.cc: numpy in double, PyTorch for attention."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from common import Cases, Const
from common import numbers as gaussian

cases = Cases("matmul.json", origin="numpy in double precision; PyTorch in double precision for attention")
TOLERANCE = {"rtol": 2e-6, "atol": 4e-6}


def numbers(shape, seed, spread=1.0):
    return np.round(gaussian(shape, seed, spread) * 32) / 32


def double(array):
    return np.asarray(array, np.float64)


def raw(value):
    return value.array if isinstance(value, Const) else value


def linear(name, x, w, b=None, opset=5, **more):
    y = double(raw(x)) @ double(raw(w)).T
    if b is not None:
        y = y + double(raw(b))
    inputs = {"x": x, "weight": w} | ({} if b is None else {"bias": b})
    cases.add("linear", inputs, [y.astype(raw(x).dtype)], name=name, opset=opset, **(TOLERANCE | more))


linear("two_dimensions", numbers((3, 5), 1), Const(numbers((4, 5), 2)), Const(numbers((4,), 3)))
linear("no_bias", numbers((2, 3, 7), 1), Const(numbers((5, 7), 2)))
linear("vector", numbers((6,), 1), Const(numbers((3, 6), 2)), Const(numbers((3,), 3)))
linear("one_row", numbers((1, 33), 1), Const(numbers((17, 33), 2)), Const(numbers((17,), 3)))
linear("four_dimensions", numbers((2, 1, 3, 4), 1), Const(numbers((2, 4), 2)), Const(numbers((2,), 3)))
linear("weight_at_run_time", numbers((3, 5), 1), numbers((4, 5), 2))
linear("wide", numbers((2, 9), 1), Const(numbers((61, 9), 2)), Const(numbers((61,), 3)))
linear("fp16", numbers((3, 5), 1).astype(np.float16), Const(numbers((4, 5), 2).astype(np.float16)))
linear("fp32_bias", numbers((3, 5), 1).astype(np.float16), Const(numbers((4, 5), 2).astype(np.float16)),
       Const(np.array([0.1, 0.2, 0.3, 0.4], np.float32)), opset=7)
linear("fp16_weight", numbers((3, 5), 1), Const(numbers((4, 5), 2).astype(np.float16)), opset=8)
linear("no_rows", np.zeros((0, 5), np.float32), Const(numbers((4, 5), 2)))
linear("no_features", np.zeros((2, 0), np.float32), Const(np.zeros((3, 0), np.float32)), Const(numbers((3,), 3)))
linear("overflow_of_fp16", np.full((1, 2), 60000, np.float16), Const(np.ones((1, 2), np.float16)))
ints = np.array([[2**30, 3, -5], [7, -2**31, 1]], np.int32)
weights = np.array([[4, 5, 6], [-7, 8, 2**31 - 1]], np.int32)


def wrapped(y):
    return (np.asarray(y, object) & 0xFFFFFFFF).astype(np.uint32).astype(np.int32)


def exact(array):
    return np.asarray(array).astype(object)


cases.add("linear", {"x": ints, "weight": Const(weights), "bias": Const(np.array([1, -2], np.int32))},
          [wrapped(exact(ints) @ exact(weights).T + exact(np.array([1, -2])))], name="integers_wrap")
for error, name, change in (
    ("weight: expected two dimensions", "features", {"weight": Const(numbers((4, 6), 2))}),
    ("weight: expected two dimensions", "rank", {"weight": Const(numbers((5,), 2))}),
    ("bias: expected a number", "bias", {"bias": Const(numbers((5,), 2))}),
    ("bias: expected a number", "bias_rank", {"bias": Const(numbers((1, 4), 2))}),
    ("x: expected at least 1", "scalar", {"x": 1.5}),
    ("weight: is fp", "mixed_too_early", {"x": np.ones((3, 5), np.int32)}),
):
    cases.add("linear", {"x": numbers((3, 5), 1), "weight": Const(numbers((4, 5), 2))} | change,
              name="bad_" + name, error=error)


def matmul(name, x, y, tx=None, ty=None, opset=5, dtype=None, **more):
    a, b = raw(x), raw(y)
    one = a.swapaxes(-1, -2) if tx and a.ndim > 1 else a
    other = b.swapaxes(-1, -2) if ty and b.ndim > 1 else b
    z = np.matmul(double(one), double(other))
    inputs = {"x": x, "y": y}
    if tx is not None:
        inputs["transpose_x"] = tx
    if ty is not None:
        inputs["transpose_y"] = ty
    cases.add("matmul", inputs, [np.asarray(z).astype(dtype or a.dtype)], name=name, opset=opset,
              **(TOLERANCE | more))


matmul("plain", numbers((3, 5), 1), numbers((5, 4), 2))
matmul("transpose_x", numbers((5, 3), 1), numbers((5, 4), 2), tx=True)
matmul("transpose_y", numbers((3, 5), 1), numbers((4, 5), 2), ty=True)
matmul("transpose_both", numbers((5, 3), 1), numbers((4, 5), 2), tx=True, ty=True)
matmul("vectors", numbers((7,), 1), numbers((7,), 2))
matmul("vector_matrix", numbers((5,), 1), numbers((2, 5, 3), 2))
matmul("matrix_vector", numbers((2, 3, 5), 1), numbers((5,), 2))
matmul("vector_ignores_its_transpose", numbers((3, 5), 1), numbers((5,), 2), ty=True)
matmul("batch", numbers((2, 3, 4, 5), 1), numbers((2, 3, 5, 2), 2))
matmul("broadcast_right", numbers((3, 2, 4, 5), 1), numbers((2, 5, 3), 2))
matmul("broadcast_left", numbers((4, 5), 1), numbers((3, 5, 2), 2))
matmul("broadcast_both", numbers((3, 1, 2, 4), 1), numbers((1, 2, 4, 3), 2))
matmul("broadcast_transposed", numbers((2, 1, 4, 3), 1), numbers((3, 5, 4), 2), tx=True, ty=True)
matmul("shared_right_transposed_left", numbers((3, 4, 2), 1), numbers((4, 5), 2), tx=True)
for side in ("left", "right"):
    def as_const(array, this):
        return Const(array) if this == side else array
    matmul(f"const_{side}", as_const(numbers((2, 3, 5), 1), "left"), as_const(numbers((5, 7), 2), "right"))
    matmul(f"const_{side}_transposed", as_const(numbers((5, 3), 1), "left"),
           as_const(numbers((2, 7, 5), 2), "right"), tx=True, ty=True)
matmul("fp16", numbers((3, 5), 1).astype(np.float16), numbers((5, 4), 2).astype(np.float16))
matmul("const_of_fp32", numbers((3, 5), 1).astype(np.float16), Const(numbers((5, 4), 2)), opset=7)
matmul("const_of_fp16_on_the_left", Const(numbers((3, 5), 1).astype(np.float16)), numbers((5, 4), 2), opset=7,
       dtype=np.float32)
matmul("const_of_int", numbers((3, 5), 1), Const(np.arange(10, dtype=np.int32).reshape(5, 2) - 4), opset=9)
matmul("int_with_const_of_fp32", np.arange(6, dtype=np.int32).reshape(2, 3),
       Const(np.array([[0.5], [-0.75], [0.125]], np.float32)), opset=7, fp16=False)
matmul("no_depth", np.zeros((2, 0), np.float32), np.zeros((0, 3), np.float32))
matmul("no_batch", np.zeros((0, 2, 3), np.float32), np.zeros((0, 3, 4), np.float32))
matmul("wide", numbers((2, 3), 1), numbers((3, 131), 2))
matmul("tall", numbers((97, 2), 1), numbers((2, 3), 2))
infinite = numbers((3, 4), 5)
infinite[0, 1], infinite[1, 2] = np.inf, np.nan
with np.errstate(all="ignore"):
    matmul("infinity_and_nan", infinite, np.abs(numbers((4, 2), 6)) + np.float32(0.5))
cases.add("matmul", {"x": ints, "y": weights, "transpose_y": True}, [wrapped(exact(ints) @ exact(weights).T)],
          name="integers_wrap")
small = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
cases.add("matmul", {"x": small, "y": small - 9, "transpose_x": True},
          [np.matmul(small.swapaxes(1, 2), small - 9)], name="integers_transposed")
cases.add("matmul", {"x": np.arange(4, dtype=np.int32), "y": small, "transpose_y": True},
          [np.matmul(np.arange(4), small.swapaxes(1, 2)).astype(np.int32)], name="integers_vector")
for error, name, change in (
    ("x: fp", "depth", {"y": numbers((4, 4), 2)}),
    ("x: fp", "batch", {"x": numbers((2, 3, 5), 1), "y": numbers((3, 5, 4), 2)}),
    ("y: expected at least 1", "scalar", {"y": 2.5}),
    ("y: is fp", "mixed_too_early", {"x": np.ones((3, 5), np.int32)}),
    ("y: is fp", "mixed_without_const", {"x": np.ones((3, 5), np.int32), "opset": 7}),
    ("x: expected fp16, fp32 or int32", "bool", {"x": np.ones((3, 5), bool)}),
):
    opset = change.pop("opset", 5)
    cases.add("matmul", {"x": numbers((3, 5), 1), "y": numbers((5, 4), 2)} | change, name="bad_" + name,
              error=error, opset=opset)


def einsum(name, x, y, equation, **more):
    plain = "nchw,nwhu->nchu" if x.ndim == 4 else "chw,whr->chr"
    a, b = double(raw(x)), double(raw(y))
    outer = np.broadcast_shapes(a.shape[:-3] + a.shape[-2:-1], b.shape[:-3] + b.shape[-2:-1])
    a = np.broadcast_to(a, outer[:-1] + (a.shape[-3], outer[-1], a.shape[-1]))
    b = np.broadcast_to(b, outer[:-1] + (b.shape[-3], outer[-1], b.shape[-1]))
    z = np.einsum(plain, a, b)
    cases.add("einsum", {"values": [x, y], "equation": equation}, [z.astype(x.dtype)], name=name,
              **(TOLERANCE | more))


einsum("four", numbers((2, 3, 2, 4), 1), numbers((2, 4, 2, 5), 2), "nchw,nwhu->nchu")
einsum("four_other_letters", numbers((1, 3, 2, 4), 1), numbers((1, 4, 2, 3), 2), "abcd, adce -> abce")
einsum("four_broadcast", numbers((1, 3, 2, 4), 1), numbers((3, 4, 1, 2), 2), "nchw,nwhu->nchu")
einsum("three", numbers((3, 2, 4), 1), numbers((4, 2, 5), 2), "chw,whr->chr")
einsum("three_broadcast", numbers((3, 1, 4), 1), numbers((4, 2, 5), 2), "chw,whr->chr")
einsum("three_one_row", numbers((3, 1, 5), 1), numbers((5, 1, 2), 2), "xyz,zyw->xyw")
cases.add("einsum", {"values": [numbers((1, 3, 2, 4), 1), Const(numbers((1, 4, 2, 3), 2))],
                     "equation": "nchw,nwhu->nchu"},
          [np.einsum("nchw,nwhu->nchu", numbers((1, 3, 2, 4), 1), numbers((1, 4, 2, 3), 2))], name="const", **TOLERANCE)
for error, name, shapes, equation in (
    ("equation: expected one like", "equation", ((2, 3, 2, 4), (2, 4, 2, 5)), "nchw,nwhu->nhcu"),
    ("equation: expected one like", "matmul", ((3, 4), (4, 5)), "ij,jk->ik"),
    ("equation: expected one like", "no_arrow", ((2, 3, 2, 4), (2, 4, 2, 5)), "nchw,nwhu"),
    ("values: fp", "depth", ((2, 3, 2, 4), (2, 3, 2, 5)), "nchw,nwhu->nchu"),
    ("values: fp", "height", ((2, 3, 2, 4), (2, 4, 3, 5)), "nchw,nwhu->nchu"),
    ("values: expected fp16 or fp32 of 4", "rank", ((3, 2, 4), (4, 2, 5)), "nchw,nwhu->nchu"),
):
    cases.add("einsum", {"values": [numbers(s, 1) for s in shapes], "equation": equation}, name="bad_" + name,
              error=error)
cases.add("einsum", {"values": [numbers((3, 2, 4), 1)], "equation": "chw,whr->chr"}, name="bad_count",
          error="values: expected two tensors")


def attention(name, q, k, v, mask=None, y=None, **more):
    if y is None:
        scores = double(q) @ double(k).swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        if mask is not None:
            m = raw(mask)
            scores = scores + (np.where(m, 0.0, -np.inf) if m.dtype == bool else double(m))
        weights = torch.softmax(torch.from_numpy(scores), -1).numpy()
        y = weights @ double(v)
        if q.ndim > 2 and (mask is None or not np.isnan(y).any()):
            t = None
            if mask is not None:
                m = raw(mask) if raw(mask).dtype == bool else double(raw(mask))
                t = torch.from_numpy(np.broadcast_to(m, scores.shape).copy())
            z = F.scaled_dot_product_attention(*(torch.from_numpy(double(a)) for a in (q, k, v)), t).numpy()
            assert np.allclose(y, z, equal_nan=True), name
    inputs = {"query": q, "key": k, "value": v} | ({} if mask is None else {"attn_mask": mask})
    cases.add("scaled_dot_product_attention", inputs, [y.astype(q.dtype)], name=name, opset=8,
              **(TOLERANCE | more))


q, k, v = numbers((2, 3, 5, 4), 1), numbers((2, 3, 7, 4), 2), numbers((2, 3, 7, 6), 3)
attention("plain", q, k, v)
attention("three_dimensions", q[0], k[0], v[0])
attention("five_dimensions", q[None], k[None], v[None])
rng = np.random.default_rng(4)
bools = rng.random((2, 3, 5, 7)) < 0.6
bools[..., 0] = True
attention("bool_mask", q, k, v, bools)
attention("bool_mask_of_rows", q, k, v, np.array([True, False, True, True, False, True, False]))
attention("bool_mask_const", q, k, v, Const(bools[:1, :1]))
attention("bool_mask_by_batch", q, k, v, bools[:, :1, :1])
attention("bool_mask_by_head", q, k, v, bools[0])
attention("causal", q, k, v, np.tril(np.ones((5, 7), bool)))
attention("float_mask", q, k, v, numbers((2, 1, 5, 7), 5))
attention("float_mask_of_rows", q, k, v, numbers((1, 7), 5))
attention("float_mask_of_columns", q, k, v, numbers((5, 1), 5), fp16=True)
low = np.zeros((5, 7), np.float32)
low[1, 2:], low[3, :3] = -np.inf, -np.inf
attention("float_mask_with_infinity", q, k, v, low)
none = bools.copy()
none[0, 1, 2], none[1, 0] = False, False
with np.errstate(all="ignore"):
    attention("rows_that_attend_to_nothing", q, k, v, none)
# Scores beyond fp16: 8 * 200 * 200 / sqrt(8) is 113137.
big = np.full((1, 1, 2, 8), 200, np.float32)
big[0, 0, 1] *= -1
attention("scores_beyond_fp16", big, big, numbers((1, 1, 2, 3), 3))
attention("one_position", q[:, :, :1], k[:, :, :1], v[:, :, :1])
attention("fp16", q[:1].astype(np.float16), k[:1].astype(np.float16), v[:1].astype(np.float16))
many = numbers((1, 1, 150, 2), 6)
attention("many_rows", many, numbers((1, 1, 5, 2), 7), numbers((1, 1, 5, 1), 8))
attention("no_keys", q[:1, :1, :2], k[:1, :1, :0], v[:1, :1, :0], y=np.zeros((1, 1, 2, 6)))
for error, name, change in (
    ("key: has 3 features", "features", {"key": numbers((2, 3, 7, 3), 2)}),
    ("value: has 6 positions", "positions", {"value": numbers((2, 3, 6, 6), 2)}),
    ("key: expected fp16 or fp32", "batch", {"key": numbers((2, 1, 7, 4), 2)}),
    ("value: expected fp16 or fp32", "rank", {"value": numbers((3, 7, 6), 2)}),
    ("attn_mask: expected bool", "mask", {"attn_mask": np.ones((5, 6), bool)}),
    ("attn_mask: expected bool", "mask_rank", {"attn_mask": np.ones((2, 2, 3, 5, 7), bool)}),
    ("attn_mask: expected bool", "mask_type", {"attn_mask": np.ones((5, 7), np.int32)}),
):
    cases.add("scaled_dot_product_attention", {"query": q, "key": k, "value": v} | change, name="bad_" + name,
              opset=8, error=error)
cases.write()
