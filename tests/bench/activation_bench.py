#!/usr/bin/env python3
"""What quantizing activations costs in quality, by every way to find ranges, and what calibration costs
in time.

    python3 tests/bench/activation_bench.py --cmlc build/release/cmlc [--models DIR] [--images 128]

Prints a table of output SNRs (mean over samples, in dB) of models whose activations are quantized to
8 bits, against the float model, for each --ranges and both modes: for the example model, where it is
also accuracy, and for every model of DIR that recorded samples come with. Then it runs a network of
ResNet-50's size over random images with `cmlc predict` and `cmlc calibrate`, in turns and with one
thread, and prints the ratio of their CPU times.

Needs coremltools; for the models of DIR Pillow and SciPy, for the network onnx and torch too (the
packages of tests/coremltools/requirements-runtimes.txt).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/coremltools"))
DIGITS = ROOT / "examples/digits"
WAYS = ("mse", "minmax", "ema", "percentile", "kl")
MODES = ("linear_symmetric", "linear")
SAMPLES = 24


class Tool:
    def __init__(self, program: Path) -> None:
        self.program = str(program.resolve())

    def run(self, *arguments: str | Path) -> str:
        call = [self.program, *map(str, arguments)]
        return subprocess.run(call, check=True, capture_output=True, text=True).stdout

    def cpu(self, *arguments: str | Path) -> float:
        """User and system time of a run."""
        child = os.spawnv(os.P_NOWAIT, self.program, [self.program, *map(str, arguments)])
        _, status, usage = os.wait4(child, 0)
        if status:
            raise RuntimeError(f"{arguments[0]} failed")
        return usage.ru_utime + usage.ru_stime


def quality(tool: Tool, model: Path, name: str, data: list[str], folder: Path,
            labels: Path | None = None) -> None:  # fmt: skip
    stats = folder / "stats"
    stats.unlink(missing_ok=True)
    tool.run("calibrate", model, *data, "-q", "-o", stats)
    rows: dict[str, dict[tuple[str, str], str]] = {}
    for mode in MODES:
        for way in WAYS:
            out = folder / "a8.mlpackage"
            tool.run("activations", model, "--stats", stats, "--ranges", way, "--mode", mode, "-q",
                     "-o", out)  # fmt: skip
            more = ["--labels", labels] if labels else []
            report = json.loads(tool.run("compare", model, out, *data, *more, "--json"))
            for output in report["outputs"]:
                snr = output["snr_db"]["mean"]
                text = "exact" if snr is None else f"{snr:.2f}"
                if labels:
                    text += f" ({100 * output['accuracy_b']:.2f} %)"
                rows.setdefault(output["name"], {})[mode, way] = text
    for output, row in rows.items():
        for mode in MODES:
            cells = "".join(f"{row[mode, way]:>16}" for way in WAYS)
            print(f"{name[:26]:26} {output[:18]:18} {mode:16} {cells}", flush=True)


def models(tool: Tool, models: Path, folder: Path) -> None:
    try:
        from sample_sets import Model
    except ImportError as error:
        print(f"no models: {error}")
        return
    for path in sorted(models.glob("*/*.mlpackage")):
        try:
            model = Model(path, models / "samples")
            recordings = model.recordings(Path(tool.program), SAMPLES)
        except (ValueError, KeyError):
            continue  # no ML Program
        data: list[str] = []
        for i, sample in enumerate(recordings):
            np.savez(folder / f"{i}.npz", **sample)
            data += ["--data", str(folder / f"{i}.npz")]
        if data:
            quality(tool, path, path.parent.name, data, folder)


def speed(tool: Tool, folder: Path, images: int) -> None:
    from exec_bench import resnet50, write_package

    model = folder / "resnet50.mlpackage"
    write_package(resnet50(), model)
    ratios = []
    for _ in range(3):
        data = ["--random", str(images), "--threads", "1", "-q"]
        plain = tool.cpu("predict", model, *data, "-o", folder / "out.npz")
        calibrated = tool.cpu("calibrate", model, *data, "-o", folder / "out.stats")
        (folder / "out.stats").unlink()
        ratios.append(calibrated / plain)
        print(f"{images} images: predict {plain:.2f} s, calibrate {calibrated:.2f} s of CPU, "
              f"ratio {ratios[-1]:.3f}", flush=True)  # fmt: skip
    print(f"median ratio {np.median(ratios):.3f} (target 1.3)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cmlc", type=Path, required=True)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--images", type=int, default=128, help="0: leave the timing out")
    options = parser.parse_args()
    tool = Tool(options.cmlc)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(" " * 63 + "".join(f"{way:>16}" for way in WAYS))
        quality(tool, DIGITS / "digits.mlpackage", "digits",
                ["--data", str(DIGITS / "samples/images.npy"), "--batched"], folder,
                DIGITS / "samples/labels.npy")  # fmt: skip
        if options.models:
            models(tool, options.models, folder)
        if options.images:
            speed(tool, folder, options.images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
