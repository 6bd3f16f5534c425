"""What the makers of test vectors share.

    cases = Cases("relu.json", origin="numpy")
    x = numbers((2, 3), seed=1)                  # numbers that fp16 has, so both types agree
    cases.add("relu", {"x": x}, [np.maximum(x, 0)])
    cases.write()

An ndarray becomes a tensor that is an input of the function; Const(array) a constant; plain
numbers, strings and lists stay what they are. See tests/support/op_case.h for the format.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {
    "float16": "fp16", "float32": "fp32", "float64": "fp32", "int32": "int32", "int64": "int32",
    "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "uint32": "uint32",
    "bool": "bool",
}  # fmt: skip


class Const:
    """A tensor that is a constant of the program."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.asarray(array)


def numbers(shape: tuple[int, ...], seed: int, spread: float = 1.0) -> np.ndarray:
    """Gaussian numbers, rounded to such as fp16 has."""
    drawn = np.random.default_rng(seed).normal(0, spread, shape)
    return drawn.astype(np.float16).astype(np.float32)


def number(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    value = float(value)
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    short = float(np.format_float_positional(np.float32(value), unique=True, trim="0")) \
        if abs(value) < 1e15 and (value == 0 or abs(value) > 1e-15) else float(f"{value:.9g}")
    return short


def tensor(array: np.ndarray, const: bool = False) -> dict[str, Any]:
    out = {
        "dtype": TYPES[str(array.dtype)],
        "shape": list(array.shape),
        "values": [number(v) for v in array.ravel()],
    }
    if const:
        out["const"] = True
    return out


def encode(value: Any) -> Any:
    if isinstance(value, Const):
        return tensor(value.array, const=True)
    if isinstance(value, np.ndarray):
        return tensor(value)
    if isinstance(value, list) and value and isinstance(value[0], (np.ndarray, Const)):
        return [encode(v) for v in value]
    if isinstance(value, (list, tuple)):
        return [v if isinstance(v, str) else number(v) for v in value]
    if isinstance(value, str):
        return value
    return number(value)


class Cases:
    def __init__(self, file_name: str, origin: str) -> None:
        self.path = Path(__file__).resolve().parent / file_name
        self.origin = origin
        self.cases: list[dict[str, Any]] = []

    def add(self, op: str, inputs: dict[str, Any], outputs: list[np.ndarray] | None = None,
            name: str = "", **more: Any) -> None:
        """`more`: opset, rtol, atol, rtol16, atol16, fp16, error."""
        case: dict[str, Any] = {"op": op, "name": name or str(len(self.cases))}
        case |= more
        case["inputs"] = {k: encode(v) for k, v in inputs.items()}
        if outputs is not None:
            case["outputs"] = [tensor(np.asarray(o)) for o in outputs]
        self.cases.append(case)

    def write(self) -> None:
        lines = ",\n  ".join(json.dumps(case) for case in self.cases)
        self.path.write_text(
            f'{{"origin": {json.dumps(self.origin)}, "cases": [\n  {lines}\n]}}\n'
        )
        print(f"{self.path.name}: {len(self.cases)} cases")
