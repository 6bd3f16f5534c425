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
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

try:
    import quiet  # noqa: F401  (before coremltools)
    import onnxruntime
    import torch
    from coremltools.proto import MIL_pb2
    from decode import Package
    from mil_torch import run as run_torch
    from PIL import Image
    from scipy.io import wavfile
    from scipy.signal import resample_poly
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

Array = np.ndarray
Arrays = dict[str, Array]
FLOAT16 = MIL_pb2.DataType.Value("FLOAT16")
LIMIT_FP16 = 40.0  # dB
LIMIT_FP32 = 80.0
FRAMES = 12
PITCH_OUTPUTS = {"note": "Identity_1", "onset": "Identity_2", "contour": "Identity"}


def snr(reference: Array, got: Array) -> float:
    reference = np.asarray(reference, np.float64)
    noise = float(np.mean((reference - got) ** 2))
    signal = float(np.mean(reference**2))
    return float("inf") if noise == 0 else 10 * np.log10(max(signal, 1e-300) / noise)


def predict(cmlc: Path, model: Path, inputs: Arrays) -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given, **inputs)
        command = [str(cmlc), "predict", str(model), "--input", str(given), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()}")
        with np.load(made) as file:
            return {name: file[name] for name in file.files}


def sound(path: Path, rate: int) -> Array:
    """A recording as fp32 from -1 to 1, every n-th sample if its rate is n times what is asked."""
    found, samples = wavfile.read(path)
    scale = 32768 if samples.dtype == np.int16 else 1
    return (samples.astype(np.float64) / scale)[:: found // rate].astype(np.float32)


class Model:
    """One package, and what it takes."""

    def __init__(self, path: Path, samples: Path) -> None:
        self.path = path
        self.samples = samples
        self.name = path.parent.name
        self.package = Package(path)
        ((_, model),) = self.package.programs()
        function = model.mlProgram.functions["main"]
        self.types = {i.name: i.type.tensorType for i in function.inputs}
        block = function.block_specializations[function.opset]
        self.half = any(
            o.type.tensorType.dataType == FLOAT16 for op in block.operations for o in op.outputs
        )
        self.limit = LIMIT_FP16 if self.half else LIMIT_FP32

    def shape(self, name: str) -> tuple[int, ...]:
        if self.name == "espcn-keras":
            return (1, 64, 48, 1)
        if self.name == "face-detect-short":
            return (1, 3, 128, 128)
        return tuple(d.constant.size or 1 for d in self.types[name].dimensions)

    def fit(self, name: str, array: Array) -> Array:
        """In the type of an input, so that all runtimes get the same numbers."""
        kind = np.float16 if self.types[name].dataType == FLOAT16 else np.float32
        return np.asarray(array, np.float32).astype(kind)

    def noise(self, name: str, random: np.random.Generator) -> Array:
        """Pixels for an image, sound around zero, magnitudes and other things from 0 to 1."""
        if name in ("input_2", "audio_input", "estimated_frame", "lpb_time"):
            return 0.1 * random.normal(size=self.shape(name))
        pixels = name == "image" or self.name.startswith("face-")
        return random.random(self.shape(name)) * (255 if pixels else 1)

    def pictures(self) -> Iterator[Array]:
        """As [3, height, width] from 0 to 255, in the size that the only input takes."""
        (name,) = self.types
        folder = {"face": "face", "yolo": "detection", "espc": "espcn"}[self.name[:4]]
        height, width = self.shape(name)[1:3] if folder == "espcn" else self.shape(name)[2:]
        for path in sorted((self.samples / folder).glob("*.*g"))[:2]:
            with Image.open(path) as picture:
                sized = picture.convert("RGB").resize((width, height))
            yield np.asarray(sized, np.float32).transpose(2, 0, 1)

    def inputs(self) -> Iterator[Arrays]:
        for seed in range(2):
            random = np.random.default_rng(seed)
            # The score of face-mesh is next to nothing for noise, too little for fp16.
            if self.name != "face-mesh":
                yield {n: self.fit(n, self.noise(n, random)) for n in self.types}
        if self.name.startswith(("face-", "yolo")):
            (name,) = self.types
            for picture in self.pictures():
                yield {name: picture[None]}
        if self.name == "espcn-keras":
            for picture in self.pictures():
                luma = np.tensordot([0.299, 0.587, 0.114], picture, axes=1) / 255
                yield {"input_1": luma[None, :, :, None].astype(np.float32)}
        if self.name == "basic-pitch-nmp":
            window = sound(self.samples / "basic-pitch/vocadito_10.wav", 22050)[22050:][:43844]
            yield {"input_2": window.reshape(1, -1, 1)}

    def frames(self) -> tuple[Callable[[int, Arrays], Arrays], Arrays] | None:
        """What makes the inputs of frame k from the outputs before, for nets with states."""
        folder = self.samples / "dtln-aec/realworld"
        if self.name.startswith("silero-vad"):
            speech = sound(folder / "test_mic.wav", 16000)[32000:]

            def vad(k: int, before: Arrays) -> Arrays:
                return {
                    "audio_input": speech[k * 512 : k * 512 + 576].reshape(1, -1),
                    "hidden_state": before["new_hidden_state"],
                    "cell_state": before["new_cell_state"],
                }

            zeros = np.zeros((1, 128), np.float32)
            return vad, {"new_hidden_state": zeros, "new_cell_state": zeros}
        if not self.name.startswith("dtln-aec"):
            return None
        mic = sound(folder / "test_mic.wav", 16000)[32000:]
        loop = sound(folder / "test_lpb.wav", 16000)[32000:]

        def echo(k: int, before: Arrays) -> Arrays:
            cut = slice(k * 128, k * 128 + 512)
            states = before["Identity_1"]
            if "part1" in self.name:
                magnitudes = [np.abs(np.fft.rfft(s[cut])).reshape(1, 1, -1) for s in (mic, loop)]
                made = dict(zip(("mic_magnitude", "lpb_magnitude"), magnitudes, strict=True))
            else:
                made = {"estimated_frame": mic[cut].reshape(1, 1, -1),
                        "lpb_time": loop[cut].reshape(1, 1, -1)}  # fmt: skip
            return {n: self.fit(n, a) for n, a in (made | {"states_in": states}).items()}

        return echo, {"Identity_1": np.zeros((1, 2, 128, 2), np.float32)}

    def twin(self) -> tuple[onnxruntime.InferenceSession, Callable[[list[Array]], Arrays]] | None:
        """The same net in ONNX, and its outputs by our names."""
        file, names = {
            "basic-pitch-nmp": ("basic-pitch/nmp.onnx", None),
            "face-mesh": ("face/mesh.onnx", ["scores", "points"]),
            "face-detect-short": ("face/short.onnx", ["scores", "regression"]),
        }.get(self.name, ("", None))
        if not file:
            return None
        session = onnxruntime.InferenceSession(str(self.samples / file))
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
        limit = limit or model.limit
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
            if (twin := model.twin()) is not None:
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
