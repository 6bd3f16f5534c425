#!/usr/bin/env python3
"""Holds what `cmlc predict` computes for real models against two other runtimes.

    model_outputs.py --cmlc build/release/cmlc --models DIR [--only NAME]

Every ML Program in DIR runs on seeded inputs, where there are any on recorded sound and pictures as
well, and is compared with
  torch         the same program in float64 (mil_torch.py)
  onnxruntime   the same net in another format, where its authors published one
  recordings    what the authors of a net stored beside it

Models with explicit recurrent states run over frames of a recording, each runtime with its own
states. Prints the SNR of every output, the lowest of all inputs, and at the end a line that says
only "N passed, M failed, K skipped". Without the packages of requirements-runtimes.txt, or without the
models, exits with 77.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

try:
    import quiet  # noqa: F401  (before coremltools)
    import onnxruntime
    import torch
    from decode import Package
    from mil_torch import run as run_torch
    from sample_sets import Arrays, Model, predict, snr
    from scipy.io import wavfile
    from scipy.signal import resample_poly
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

Array = np.ndarray
LIMIT_FP16 = 40.0  # dB
LIMIT_FP32 = 80.0
FRAMES = 12
PITCH_OUTPUTS = {"note": "Identity_1", "onset": "Identity_2", "contour": "Identity"}


def published_twin(
    model: Model,
) -> tuple[onnxruntime.InferenceSession, Callable[[list[Array]], Arrays]] | None:
    """The same net in ONNX, and its outputs by our names."""
    file, names = {
        "basic-pitch-nmp": ("basic-pitch/nmp.onnx", None),
        "face-mesh": ("face/mesh.onnx", ["scores", "points"]),
        "face-detect-short": ("face/short.onnx", ["scores", "regression"]),
    }.get(model.name, ("", None))
    if not file:
        return None
    session = onnxruntime.InferenceSession(str(model.samples / file))
    if names is None:
        # StatefulPartitionedCall:0 to :2, in whatever order the file has them.
        names = [
            {"0": "Identity", "1": "Identity_1", "2": "Identity_2"}[o.name[-1]]
            for o in session.get_outputs()
        ]
    return session, lambda made: dict(zip(names, made, strict=True))


def pitches(cmlc: Path, model: Model) -> tuple[Arrays, Arrays]:
    """What the authors of basic-pitch recorded for a whole clip, and the same put together here.

    Windows overlap by 30 frames; of each 15 are cut at either end. The authors resampled the clip
    by another method, which is most of the difference.
    """
    folder = model.samples / "basic-pitch"
    recorded = np.load(folder / "vocadito_10/model_output.npz", allow_pickle=True)["arr_0"].item()
    rate, hop, window, overlap = 22050, 256, 43844, 30
    found, samples = wavfile.read(folder / "vocadito_10.wav")
    clip = resample_poly(samples.astype(np.float64) / 32768, rate, found)
    padded = np.concatenate([np.zeros(overlap * hop // 2), clip])
    parts: dict[str, list[Array]] = {"contour": [], "note": [], "onset": []}
    for start in range(0, len(padded), window - overlap * hop):
        cut = padded[start : start + window]
        cut = np.concatenate([cut, np.zeros(window - len(cut))]).astype(np.float32)
        made = predict(cmlc, model.path, {"input_2": cut.reshape(1, -1, 1)})
        for name, part in parts.items():
            (fitting,) = (a for n, a in made.items() if n == PITCH_OUTPUTS[name])
            part.append(fitting[0, overlap // 2 : -(overlap // 2)])
    # By 86 frames a second; the recording has five more, by another count.
    frames = len(clip) * (rate // hop) // rate
    recorded = {name: recorded[name][:frames] for name in parts}
    return recorded, {name: np.concatenate(part)[:frames] for name, part in parts.items()}


class Check:
    def __init__(self, cmlc: Path) -> None:
        self.cmlc = cmlc
        self.passed = self.failed = self.skipped = 0

    def compare(
        self, model: Model, against: str, pairs: list[tuple[Arrays, Arrays]],
        limit: float | None = None,
    ) -> None:  # fmt: skip
        limit = limit or (LIMIT_FP16 if model.half else LIMIT_FP32)
        for name in pairs[0][0]:
            problem = ""
            lowest = float("inf")
            for reference, got in pairs:
                if name not in got or got[name].shape != reference[name].shape:
                    problem = f"expected {reference[name].shape}, got {got.get(name, np.zeros(0)).shape}"
                    break
                lowest = min(lowest, snr(reference[name], got[name]))
            if not problem and not lowest >= limit:
                problem = f"expected at least {limit:.0f} dB"
            if problem:
                self.failed += 1
            else:
                self.passed += 1
            verdict = f"  FAILED: {problem}" if problem else ""
            print(f"{model.name}: {name} against {against}: {lowest:.1f} dB{verdict}", flush=True)

    def check(self, model: Model) -> None:
        try:
            inputs = list(model.inputs())
            outputs = [predict(self.cmlc, model.path, given) for given in inputs]
            references = [run_torch(model.package, given) for given in inputs]
            self.compare(model, "torch", list(zip(references, outputs, strict=True)))
            if (twin := published_twin(model)) is not None:
                session, by_name = twin
                (feed,) = [i.name for i in session.get_inputs()]
                references = [by_name(session.run(None, {feed: next(iter(given.values()))}))
                              for given in inputs]  # fmt: skip
                self.compare(model, "onnxruntime", list(zip(references, outputs, strict=True)))
            if model.name == "basic-pitch-nmp":
                self.compare(model, "what its authors recorded", [pitches(self.cmlc, model)], 40)
            if (sequence := model.frames()) is not None:
                make, start = sequence
                pairs = []
                mine = theirs = start
                for k in range(FRAMES):
                    mine = predict(self.cmlc, model.path, make(k, mine))
                    theirs = run_torch(model.package, make(k, theirs))
                    pairs.append((theirs, mine))
                self.compare(model, f"torch over {FRAMES} frames", pairs)
        except RuntimeError as error:
            self.failed += 1
            print(f"{model.name}: FAILED: {error}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cmlc", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--only", default="", help="part of a model's name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    check = Check(options.cmlc)
    packages = sorted(options.models.glob("*/*.mlpackage"))
    if not packages:
        print("skipped: no models")
        return 77
    for path in packages:
        if options.only not in path.parent.name:
            continue
        if not list(Package(path).programs()):
            check.skipped += 1  # another kind of model
            continue
        check.check(Model(path, options.models / "samples"))
    print(f"{check.passed} passed, {check.failed} failed, {check.skipped} skipped")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
