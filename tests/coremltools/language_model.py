#!/usr/bin/env python3
"""Holds what `cmlc predict` computes for decoders with a key and value cache against PyTorch.

    language_model.py --cmlc build/release/cmlc

A small decoder-only language model (RMS norm, rotary embedding, grouped-query attention with
scaled_dot_product_attention of iOS 18, SwiGLU, caches as states) is made in PyTorch with seeded
weights, and becomes an ML Program in two ways:
  converted     traced and converted by coremltools; the mask is an input, and what the caches hold
                so far is cut out of them, so that every step has other shapes
  built         with coremltools' builder; the program makes a boolean mask from a position, and
                reads whole caches
Each is run as `cmlc predict --sequence` over a prompt of several tokens and the tokens that follow
one by one, in fp32 and fp16, and its logits are compared with PyTorch's in float64. Then the same
with 4-bit weights: compressed and decompressed must give the same bits. The last line says only
"N passed, M failed, K skipped". Without PyTorch exits with 77.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

try:
    import quiet  # noqa: F401  (before coremltools)
    import coremltools as ct
    import torch
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil import mil
    from torch import nn
    from torch.nn import functional
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

Array = np.ndarray
Tensor = torch.Tensor
TOKENS, WIDTH, INNER, LAYERS = 97, 64, 160, 2
HEADS, KEY_HEADS, HEAD = 4, 2, 16
CONTEXT = 32
EPSILON = 1e-5
PROMPT = 7
STEPS = 6  # after the prompt
LIMITS = {"fp32": 80.0, "fp16": 40.0}  # dB


def snr(reference: Array, got: Array) -> float:
    reference = np.asarray(reference, np.float64)
    noise = float(np.mean((reference - got) ** 2))
    return float("inf") if noise == 0 else 10 * np.log10(float(np.mean(reference**2)) / noise)


# In PyTorch ----------------------------------------------------------------------------------------


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * self.weight


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2 = Norm(), Norm()
        self.query = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.key = nn.Linear(WIDTH, KEY_HEADS * HEAD, bias=False)
        self.value = nn.Linear(WIDTH, KEY_HEADS * HEAD, bias=False)
        self.out = nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        self.gate = nn.Linear(WIDTH, INNER, bias=False)
        self.up = nn.Linear(WIDTH, INNER, bias=False)
        self.down = nn.Linear(INNER, WIDTH, bias=False)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x[..., : HEAD // 2], x[..., HEAD // 2 :]
    return x * cos + torch.cat((-second, first), -1) * sin


class Decoder(nn.Module):
    """Ids [1, q] and an additive mask [1, 1, q, end] to logits [1, q, TOKENS]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = Norm()
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        angles = torch.outer(
            torch.arange(CONTEXT), 10000.0 ** (-torch.arange(0, HEAD, 2) / HEAD)
        ).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        shape = (LAYERS, 1, KEY_HEADS, CONTEXT, HEAD)
        self.register_buffer("key_cache", torch.zeros(shape))
        self.register_buffer("value_cache", torch.zeros(shape))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        count, end = ids.shape[-1], mask.shape[-1]
        begin = end - count
        cos, sin = self.cos[begin:end], self.sin[begin:end]
        x = self.embedding(ids)
        for index, layer in enumerate(self.layers):
            y = layer.norm(x)
            query = layer.query(y).view(1, count, HEADS, HEAD).transpose(1, 2)
            key = layer.key(y).view(1, count, KEY_HEADS, HEAD).transpose(1, 2)
            value = layer.value(y).view(1, count, KEY_HEADS, HEAD).transpose(1, 2)
            self.key_cache[index, :, :, begin:end] = rotate(key, cos, sin)
            self.value_cache[index, :, :, begin:end] = value
            key = self.key_cache[index, :, :, :end].repeat_interleave(HEADS // KEY_HEADS, 1)
            value = self.value_cache[index, :, :, :end].repeat_interleave(HEADS // KEY_HEADS, 1)
            y = functional.scaled_dot_product_attention(
                rotate(query, cos, sin), key, value, attn_mask=mask
            )
            x = x + layer.out(y.transpose(1, 2).reshape(1, count, HEADS * HEAD))
            y = layer.norm2(x)
            x = x + layer.down(functional.silu(layer.gate(y)) * layer.up(y))
        return self.head(self.norm(x))


def causal(begin: int, end: int) -> Array:
    """Of tokens [begin, end): what lies ahead of a token is masked out."""
    rows, columns = np.arange(begin, end)[:, None], np.arange(end)
    return np.where(columns <= rows, 0, -np.inf).astype(np.float32)[None, None]


def steps() -> list[tuple[int, int]]:
    """Ranges of tokens: the prompt, then one at a time."""
    return [(0, PROMPT)] + [(k, k + 1) for k in range(PROMPT, PROMPT + STEPS)]


# As ML Programs -------------------------------------------------------------------------------------


def converted(decoder: Decoder, half: bool, path: Path) -> None:
    example = (torch.zeros(1, 3, dtype=torch.int32), torch.zeros(1, 1, 3, 5))
    traced = torch.jit.trace(decoder.eval(), example, check_trace=False)
    count, end = ct.RangeDim(1, CONTEXT, 1), ct.RangeDim(1, CONTEXT, 1)
    kind = np.float16 if half else np.float32
    cache = (LAYERS, 1, KEY_HEADS, CONTEXT, HEAD)
    # coremltools knows states of fp16 alone; fp32 ones are refused by its converter.
    states = [
        ct.StateType(ct.TensorType(shape=cache, dtype=np.float16), name=name)
        for name in ("key_cache", "value_cache")
    ]
    ct.convert(
        traced,
        inputs=[
            ct.TensorType("ids", (1, count), np.int32),
            ct.TensorType("mask", (1, 1, count, end), kind),
        ],
        outputs=[ct.TensorType("logits", dtype=kind)],
        states=states,
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        skip_model_load=True,
    ).save(str(path))


def built(decoder: Decoder, half: bool, path: Path) -> None:
    kind = np.float16 if half else np.float32
    dtype = "fp16" if half else "fp32"
    names = [f"{what}_{k}" for k in range(LAYERS) for what in ("keys", "values")]
    weights = {n: p.detach().numpy().astype(kind) for n, p in decoder.state_dict().items()}
    count = mil.get_new_symbol()

    def norm(x: mil.Var, weight: str) -> mil.Var:
        mean = mb.reduce_mean(x=mb.square(x=x), axes=[-1], keep_dims=True)
        scaled = mb.mul(x=x, y=mb.rsqrt(x=mb.add(x=mean, y=kind(EPSILON)), epsilon=kind(1e-12)))
        return mb.mul(x=scaled, y=weights[weight])

    def turned(x: mil.Var, cos: mil.Var, sin: mil.Var) -> mil.Var:
        first, second = mb.split(x=x, num_splits=2, axis=-1)
        swapped = mb.concat(values=[mb.mul(x=second, y=kind(-1)), first], axis=-1)
        return mb.add(x=mb.mul(x=x, y=cos), y=mb.mul(x=swapped, y=sin))

    def heads(x: mil.Var, weight: str, n: int) -> mil.Var:
        y = mb.linear(x=x, weight=weights[weight])
        return mb.transpose(x=mb.reshape(x=y, shape=[-1, n, HEAD]), perm=[1, 0, 2])

    def repeated(x: mil.Var) -> mil.Var:
        groups = mb.tile(x=mb.expand_dims(x=x, axes=[1]), reps=[1, HEADS // KEY_HEADS, 1, 1])
        return mb.reshape(x=groups, shape=[HEADS, CONTEXT, HEAD])

    def body(ids: mil.Var, position: mil.Var, *caches: mil.Var) -> mil.Var:
        length = mb.shape(x=ids)
        positions = mb.range_1d(
            start=mb.squeeze(x=position), end=mb.squeeze(x=mb.add(x=position, y=length)), step=1
        )
        ends = mb.add(x=position, y=length)
        attends = mb.less_equal(
            x=np.arange(CONTEXT, dtype=np.int32), y=mb.expand_dims(x=positions, axes=[1])
        )
        cos = mb.gather(x=weights["cos"], indices=positions, axis=0)
        sin = mb.gather(x=weights["sin"], indices=positions, axis=0)
        x = mb.gather(x=weights["embedding.weight"], indices=ids, axis=0)
        for k in range(LAYERS):
            layer = f"layers.{k}."
            y = norm(x, layer + "norm.weight")
            query = turned(heads(y, layer + "query.weight", HEADS), cos, sin)
            found = []
            for cache, made in zip(
                caches[2 * k : 2 * k + 2],
                (turned(heads(y, layer + "key.weight", KEY_HEADS), cos, sin),
                 heads(y, layer + "value.weight", KEY_HEADS)),
                strict=True,
            ):  # fmt: skip
                updated = mb.slice_update(
                    x=mb.read_state(input=cache),
                    update=mb.cast(x=made, dtype="fp16"),
                    begin=mb.concat(values=[[0], position, [0]], axis=0),
                    end=mb.concat(values=[[KEY_HEADS], ends, [HEAD]], axis=0),
                )
                updated = mb.coreml_update_state(state=cache, value=updated)
                found.append(repeated(mb.cast(x=updated, dtype=dtype)))
            y = mb.scaled_dot_product_attention(
                query=query, key=found[0], value=found[1], attn_mask=attends
            )
            y = mb.reshape(x=mb.transpose(x=y, perm=[1, 0, 2]), shape=[-1, HEADS * HEAD])
            x = mb.add(x=x, y=mb.linear(x=y, weight=weights[layer + "out.weight"]))
            y = norm(x, layer + "norm2.weight")
            gate = mb.silu(x=mb.linear(x=y, weight=weights[layer + "gate.weight"]))
            y = mb.mul(x=gate, y=mb.linear(x=y, weight=weights[layer + "up.weight"]))
            x = mb.add(x=x, y=mb.linear(x=y, weight=weights[layer + "down.weight"]))
        return mb.linear(x=norm(x, "norm.weight"), weight=weights["head.weight"], name="logits")

    inputs = [
        mb.TensorSpec((count,), dtype=mil.types.int32),
        mb.TensorSpec((1,), dtype=mil.types.int32),
        *[mb.StateTensorSpec((KEY_HEADS, CONTEXT, HEAD), dtype=mil.types.fp16) for _ in names],
    ]
    # The builder names inputs after the parameters of a function.
    parameters = ", ".join(["ids", "position", *names])
    scope: dict[str, Callable[..., mil.Var]] = {"body": body}
    exec(f"def program({parameters}): return body({parameters})", scope)  # noqa: S102
    program = mb.program(input_specs=inputs, opset_version=ct.target.iOS18)(scope["program"])
    ct.convert(
        program,
        convert_to="mlprogram",
        inputs=[
            ct.TensorType("ids", (ct.RangeDim(1, CONTEXT, 1),)),
            ct.TensorType("position", (1,)),
        ],
        pass_pipeline=ct.PassPipeline.DEFAULT,
        compute_precision=ct.precision.FLOAT32,  # as it was built
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    ).save(str(path))


# Running --------------------------------------------------------------------------------------------


def run(cmlc: Path, *arguments: str | Path) -> None:
    done = subprocess.run(
        [str(a) for a in (cmlc, *arguments)], capture_output=True, text=True, timeout=600
    )
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()}")


def predict(cmlc: Path, model: Path, sequence: list[dict[str, Array]], folder: Path) -> list[Array]:
    """The logits of every step, [q, TOKENS]."""
    files: list[str | Path] = []
    for index, given in enumerate(sequence):
        file = folder / f"step{index}.npz"
        np.savez(file, **given)
        files += ["--input", file]
    made = folder / "out.npz"
    run(cmlc, "predict", model, "--sequence", *files, "-o", made)
    with np.load(made) as found:
        return [found[f"logits.0.{k}"].reshape(-1, TOKENS) for k in range(len(sequence))]


class Check:
    def __init__(self) -> None:
        self.passed = self.failed = 0

    def expect(self, what: str, problem: str = "") -> None:
        if problem:
            self.failed += 1
        else:
            self.passed += 1
        print(what + (f"  FAILED: {problem}" if problem else ""), flush=True)


def inputs(form: str, half: bool, tokens: Array) -> list[dict[str, Array]]:
    kind = np.float16 if half else np.float32
    if form == "converted":
        return [{"ids": tokens[None, a:b], "mask": causal(a, b).astype(kind)} for a, b in steps()]
    return [{"ids": tokens[a:b], "position": np.array([a], np.int32)} for a, b in steps()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cmlc", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="write the packages there")
    options = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(1)
    decoder = Decoder().eval()
    tokens = np.random.default_rng(1).integers(0, TOKENS, PROMPT + STEPS).astype(np.int32)

    # All tokens at once, so that the reference needs no caches.
    with torch.no_grad():
        exact = copy.deepcopy(decoder).double()
        mask = torch.from_numpy(causal(0, len(tokens))).double()
        reference = exact(torch.from_numpy(tokens)[None], mask)[0].numpy()

    check = Check()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        for form, make in (("converted", converted), ("built", built)):
            for precision, limit in LIMITS.items():
                name = f"{form}, {precision}"
                half = precision == "fp16"
                model = folder / f"{form}-{precision}.mlpackage"
                try:
                    make(decoder, half, model)
                    given = inputs(form, half, tokens)
                    logits = np.concatenate(predict(options.cmlc, model, given, Path(temporary)))
                    found = snr(reference, logits)
                    same = np.mean(reference.argmax(-1) == logits.argmax(-1))
                    check.expect(
                        f"{name}: logits of {len(given)} steps against PyTorch: {found:.1f} dB, "
                        f"likeliest token equal in {100 * same:.0f} %",
                        "" if found >= limit else f"expected at least {limit:.0f} dB",
                    )
                    small, plain = (folder / f"{form}-{precision}-{w}.mlpackage"
                                    for w in ("palettized", "decompressed"))  # fmt: skip
                    run(options.cmlc, "palettize", "--nbits", "4", "--weight-threshold", "0", model,
                        "-o", small)  # fmt: skip
                    run(options.cmlc, "decompress", small, "-o", plain)
                    one, two = (np.concatenate(predict(options.cmlc, m, given, Path(temporary)))
                                for m in (small, plain))  # fmt: skip
                    check.expect(
                        f"{name}: 4-bit weights and what they stand for, the same bits",
                        "" if np.array_equal(one, two) else "the logits differ",
                    )
                except RuntimeError as error:
                    check.expect(name, str(error))
    print(f"{check.passed} passed, {check.failed} failed, 0 skipped")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
