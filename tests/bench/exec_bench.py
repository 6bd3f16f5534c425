"""Times cmlc's interpreter beside onnxruntime and PyTorch, one thread each.

    cmake --build --preset release --target cmlc_exec_bench
    python3 tests/bench/exec_bench.py --bench build/release/tests/cmlc_exec_bench

Each net is described once, in fp32 with random weights, and written out three times: as a Core ML
package (coremltools), as an ONNX model (onnx.helper), and as PyTorch functions. The programs take
turns, and what is compared is CPU time, which a busy machine disturbs least. The outputs must
agree. The memory that cmlc takes for preparing and running a net is held against its weights plus
twice the values that live at a time (Linux). Needs coremltools, onnx, onnxruntime and torch. Exit status 1 if anything fails or differs.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


class Net:
    """A list of steps: (op, name of the result, names of the inputs, options, weights)."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.shape = shape
        self.steps: list[tuple[str, str, list[str], dict[str, Any], dict[str, np.ndarray]]] = []
        self.rng = np.random.default_rng(seed)

    def add(self, op: str, *inputs: str, **options: Any) -> str:
        weights = {k: options.pop(k) for k in list(options) if isinstance(options[k], np.ndarray)}
        name = f"{op}_{len(self.steps)}"
        self.steps.append((op, name, list(inputs), options, weights))
        return name

    def random(self, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
        return (self.rng.standard_normal(shape) / math.sqrt(fan_in)).astype(np.float32)

    def conv(self, x: str, ci: int, co: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        fan_in = ci // groups * kernel * kernel
        return self.add("conv", x, w=self.random((co, ci // groups, kernel, kernel), fan_in),
                        b=self.random((co,), 100), stride=stride, pad=kernel // 2, groups=groups)

    def linear(self, x: str, ci: int, co: int) -> str:
        return self.add("linear", x, w=self.random((co, ci), ci), b=self.random((co,), 100))

    def norm(self, x: str, width: int) -> str:
        return self.add("layer_norm", x, w=1 + self.random((width,), 100), b=self.random((width,), 100))


def resnet50() -> Net:
    net = Net((1, 3, 224, 224), seed=1)
    x = net.add("relu", net.conv("x", 3, 64, 7, 2))
    x = net.add("max_pool", x)
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            y = net.add("relu", net.conv(x, channels, width, 1))
            y = net.add("relu", net.conv(y, width, width, 3, step))
            y = net.conv(y, width, 4 * width, 1)
            if block == 0:
                x = net.conv(x, channels, 4 * width, 1, step)
            x = net.add("relu", net.add("add", x, y))
            channels = 4 * width
    net.linear(net.add("mean", x), channels, 1000)
    return net


def mobilenet() -> Net:
    net = Net((1, 3, 224, 224), seed=2)
    x = net.add("relu", net.conv("x", 3, 32, 3, 2))
    channels = 32
    for expand, width, blocks, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
                                          (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            inner = channels * expand
            y = net.add("relu", net.conv(x, channels, inner, 1)) if expand != 1 else x
            y = net.add("relu", net.conv(y, inner, inner, 3, step, groups=inner))
            y = net.conv(y, inner, width, 1)
            x = net.add("add", x, y) if step == 1 and channels == width else y
            channels = width
    x = net.add("relu", net.conv(x, channels, 1280, 1))
    net.linear(net.add("mean", x), 1280, 1000)
    return net


def transformer(blocks: int = 2, tokens: int = 128, width: int = 768, heads: int = 12) -> Net:
    net = Net((1, tokens, width), seed=3)
    x = "x"
    split, joined = (1, tokens, heads, width // heads), (1, tokens, width)
    for _ in range(blocks):
        h = net.norm(x, width)
        q, k, v = (net.add("transpose", net.add("reshape", net.linear(h, width, width), shape=split),
                           axes=(0, 2, 1, 3)) for _ in range(3))
        scores = net.add("scale", net.add("matmul", q, k, transpose=True), by=(width // heads) ** -0.5)
        h = net.add("matmul", net.add("softmax", scores), v, transpose=False)
        h = net.add("reshape", net.add("transpose", h, axes=(0, 2, 1, 3)), shape=joined)
        x = net.add("add", x, net.linear(h, width, width))
        h = net.add("gelu", net.linear(net.norm(x, width), width, 4 * width))
        x = net.add("add", x, net.linear(h, 4 * width, width))
    return net


def write_package(net: Net, path: Path) -> None:
    import logging

    logging.disable(logging.WARNING)
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb

    @mb.program(input_specs=[mb.TensorSpec(shape=net.shape)], opset_version=ct.target.iOS17)
    def program(x):
        at = {"x": x}
        for op, name, inputs, o, w in net.steps:
            a = [at[i] for i in inputs]
            if op == "conv":
                y = mb.conv(x=a[0], weight=w["w"], bias=w["b"], strides=[o["stride"]] * 2,
                            pad_type="custom", pad=[o["pad"]] * 4, groups=o["groups"], name=name)
            elif op == "relu":
                y = mb.relu(x=a[0], name=name)
            elif op == "max_pool":
                y = mb.max_pool(x=a[0], kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom",
                                pad=[1, 1, 1, 1], name=name)
            elif op == "add":
                y = mb.add(x=a[0], y=a[1], name=name)
            elif op == "mean":
                y = mb.reduce_mean(x=a[0], axes=[2, 3], keep_dims=False, name=name)
            elif op == "linear":
                y = mb.linear(x=a[0], weight=w["w"], bias=w["b"], name=name)
            elif op == "layer_norm":
                y = mb.layer_norm(x=a[0], axes=[-1], gamma=w["w"], beta=w["b"], epsilon=np.float32(1e-5),
                                  name=name)
            elif op == "reshape":
                y = mb.reshape(x=a[0], shape=o["shape"], name=name)
            elif op == "transpose":
                y = mb.transpose(x=a[0], perm=o["axes"], name=name)
            elif op == "matmul":
                y = mb.matmul(x=a[0], y=a[1], transpose_y=o["transpose"], name=name)
            elif op == "scale":
                y = mb.mul(x=a[0], y=np.float32(o["by"]), name=name)
            elif op == "softmax":
                y = mb.softmax(x=a[0], axis=-1, name=name)
            elif op == "gelu":
                y = mb.gelu(x=a[0], mode="EXACT", name=name)
            else:
                raise ValueError(op)
            at[name] = y
        return y

    model = ct.convert(program, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32,
                       minimum_deployment_target=ct.target.iOS17, skip_model_load=True)
    model.save(str(path))


def onnx_session(net: Net, shape: tuple[int, ...]) -> Any:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    for op, name, i, o, w in net.steps:
        inputs = i + [constant(f"{name}.{key}", value) for key, value in w.items()]
        options: dict[str, Any] = {}
        kind = {"conv": "Conv", "relu": "Relu", "max_pool": "MaxPool", "add": "Add", "reshape": "Reshape",
                "layer_norm": "LayerNormalization", "transpose": "Transpose", "softmax": "Softmax",
                "gelu": "Gelu", "matmul": "MatMul", "scale": "Mul", "mean": "ReduceMean",
                "linear": "MatMul"}[op]
        if op == "conv":
            kernel = w["w"].shape[2]
            options = {"kernel_shape": [kernel] * 2, "strides": [o["stride"]] * 2, "pads": [o["pad"]] * 4,
                       "group": o["groups"]}
        elif op == "max_pool":
            options = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
        elif op == "mean":
            inputs.append(constant(f"{name}.axes", np.array([2, 3], np.int64)))
            options = {"keepdims": 0}
        elif op == "reshape":
            inputs.append(constant(f"{name}.shape", np.array(o["shape"], np.int64)))
        elif op == "transpose":
            options = {"perm": o["axes"]}
        elif op == "layer_norm":
            options = {"axis": -1, "epsilon": 1e-5}
        elif op == "scale":
            inputs.append(constant(f"{name}.by", np.float32(o["by"])))
        elif op == "matmul" and o["transpose"]:
            nodes.append(helper.make_node("Transpose", [i[1]], [f"{name}.t"], perm=[0, 1, 3, 2]))
            inputs[1] = f"{name}.t"
        elif op == "linear":
            constant(f"{name}.wt", w["w"].T)
            nodes.append(helper.make_node("MatMul", [i[0], f"{name}.wt"], [f"{name}.product"]))
            kind, inputs = "Add", [f"{name}.product", f"{name}.b"]
        nodes.append(helper.make_node(kind, inputs, [name], **options))
    used = {i for node in nodes for i in node.input}
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, net.shape)],
        [helper.make_tensor_value_info(net.steps[-1][1], TensorProto.FLOAT, shape)],
        [c for c in constants if c.name in used])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def torch_function(net: Net) -> Any:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)
    weights = {name: {k: torch.from_numpy(v) for k, v in w.items()} for _, name, _, _, w in net.steps}

    def run(x: np.ndarray) -> np.ndarray:
        at = {"x": torch.from_numpy(x)}
        with torch.inference_mode():
            for op, name, inputs, o, _ in net.steps:
                a, w = [at[i] for i in inputs], weights[name]
                if op == "conv":
                    y = F.conv2d(a[0], w["w"], w["b"], o["stride"], o["pad"], 1, o["groups"])
                elif op == "relu":
                    y = F.relu(a[0])
                elif op == "max_pool":
                    y = F.max_pool2d(a[0], 3, 2, 1)
                elif op == "add":
                    y = a[0] + a[1]
                elif op == "mean":
                    y = a[0].mean((2, 3))
                elif op == "linear":
                    y = F.linear(a[0], w["w"], w["b"])
                elif op == "layer_norm":
                    y = F.layer_norm(a[0], w["w"].shape, w["w"], w["b"], 1e-5)
                elif op == "reshape":
                    y = a[0].reshape(o["shape"])
                elif op == "transpose":
                    y = a[0].permute(o["axes"])
                elif op == "matmul":
                    y = a[0] @ (a[1].transpose(-1, -2) if o["transpose"] else a[1])
                elif op == "scale":
                    y = a[0] * o["by"]
                elif op == "softmax":
                    y = F.softmax(a[0], -1)
                else:
                    y = F.gelu(a[0])
                at[name] = y
        return y.numpy()

    return run


def cpu_times(call: Any, runs: int) -> list[float]:
    times = []
    for _ in range(runs):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return times


def compare(name: str, net: Net, args: argparse.Namespace, folder: Path) -> bool:
    package = folder / f"{name}.mlpackage"
    write_package(net, package)
    x = np.random.default_rng(9).standard_normal(net.shape).astype(np.float32)
    x.tofile(folder / "x.bin")
    run_torch = torch_function(net)
    other = run_torch(x)
    session = onnx_session(net, other.shape)
    command = [args.bench, str(package), "--inputs", str(folder), "--output", str(folder / "y.bin"),
               "--runs", str(args.runs)] + (["--isa", args.isa] if args.isa else [])
    times: dict[str, list[float]] = {"cmlc": [], "onnxruntime": [], "torch": []}
    expected = session.run(None, {"x": x})[0]
    for _ in range(args.rounds):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"{name}: {done.stderr.strip()}")
            return False
        times["cmlc"] += [float(line.split()[1]) for line in done.stdout.splitlines()]
        times["onnxruntime"] += cpu_times(lambda: session.run(None, {"x": x}), args.runs)
        times["torch"] += cpu_times(lambda: run_torch(x), args.runs)
    y = np.fromfile(folder / "y.bin", np.float32).reshape(expected.shape)
    off = np.abs(y - expected).max() / np.abs(expected).max()
    off_torch = np.abs(other - expected).max() / np.abs(expected).max()
    best = {k: min(v) for k, v in times.items()}
    for program, all_times in times.items():
        print(f"{name:12} {program:12} best {best[program] * 1e3:8.1f} ms   median "
              f"{statistics.median(all_times) * 1e3:8.1f} ms   cmlc takes "
              f"{best['cmlc'] / best[program]:5.2f} times that")
    print(f"{name:12} greatest difference to onnxruntime / greatest value: {off:.1e} "
          f"(torch: {off_torch:.1e})")
    return bool(off < 1e-4) and memory(name, [args.bench, str(package), "--runs", "2"])


def memory(name: str, command: list[str]) -> bool:
    """Whether the process grows by no more than the weights and twice the greatest live set."""
    if not sys.platform.startswith("linux"):
        return True
    done = subprocess.run([*command, "--memory"], capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{name}: {done.stderr.strip()}")
        return False
    grown, weights, live = (int(n) / 2**20 for n in done.stdout.split())
    print(f"{name:12} memory: {grown:.1f} MiB; weights {weights:.1f} MiB, values that live at a time "
          f"{live:.1f} MiB: {grown / (weights + 2 * live):.2f} of weights + 2 x values")
    return grown <= weights + 2 * live


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bench", default="build/release/tests/cmlc_exec_bench")
    parser.add_argument("--nets", default="resnet50,mobilenet,transformer")
    parser.add_argument("--runs", type=int, default=4, help="runs of each program in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--isa", default="", help="v1 or v3: what cmlc is held to")
    parser.add_argument("--keep", default="", help="a folder for the packages")
    args = parser.parse_args()
    makers = {"resnet50": resnet50, "mobilenet": mobilenet, "transformer": transformer}
    fine = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.nets.split(","):
            fine &= compare(name, makers[name](), args, folder)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
