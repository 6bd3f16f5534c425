"""Recorded sound and pictures for the models of a folder, in the form that each takes.

Needs the packages of requirements-runtimes.txt.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import quiet  # noqa: F401  (before coremltools)
from coremltools.proto import MIL_pb2
from decode import Package
from PIL import Image
from scipy.io import wavfile

Array = np.ndarray
Arrays = dict[str, Array]
FLOAT16 = MIL_pb2.DataType.Value("FLOAT16")


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

    def pictures(self, count: int = 2) -> Iterator[Array]:
        """As [3, height, width] from 0 to 255, in the size that the only input takes."""
        (name,) = self.types
        folder = {"face": "face", "yolo": "detection", "espc": "espcn"}[self.name[:4]]
        height, width = self.shape(name)[1:3] if folder == "espcn" else self.shape(name)[2:]
        for path in sorted((self.samples / folder).glob("*.*g"))[:count]:
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

    def recordings(self, cmlc: Path, count: int) -> list[Arrays]:
        """Up to `count` samples of what was recorded, none of noise; pictures also mirrored."""
        if self.name.startswith(("face-", "yolo", "espcn")):
            (name,) = self.types
            pictures = list(self.pictures(count))
            pictures += [picture[:, :, ::-1] for picture in pictures]
            if not self.name.startswith("espcn"):
                return [{name: np.ascontiguousarray(p[None])} for p in pictures[:count]]
            lumas = [np.tensordot([0.299, 0.587, 0.114], p, axes=1) / 255 for p in pictures]
            return [{name: luma[None, :, :, None].astype(np.float32)} for luma in lumas[:count]]
        if self.name == "basic-pitch-nmp":
            size = 43844
            clips = [
                sound(self.samples / f"basic-pitch/vocadito_{number}.wav", 22050)
                for number in (10, 14)
            ]
            windows = [
                clip[at : at + size].reshape(1, -1, 1)
                for clip in clips
                for at in range(0, len(clip) - size, size)
            ]
            return [{"input_2": window} for window in windows[:count]]
        sequence = self.frames()
        if sequence is None:
            return []
        make, outputs = sequence
        made: list[Arrays] = []
        for k in range(count):
            made.append({n: self.fit(n, a) for n, a in make(k, outputs).items()})
            outputs = predict(cmlc, self.path, made[-1])
        return made
