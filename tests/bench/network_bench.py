#!/usr/bin/env python3
"""Measures cmlc on NeuralNetworks whose weights fill an .mlmodel file, and coremltools beside it.

    network_bench.py --cmlc build/release/cmlc [--megabytes 2000] [--peer MODEL.mlmodel ...]

Makes a model of inner products with fp32 weights, as large as asked for (at most 2047 MB: a protobuf
message has no more), and runs `cp` and every kind of compression over it, one thread. For each run:
CPU time, that of cp beside it, and the peak of resident memory, mapped files included, as a part of
the larger of the two files. With --peer also CPU times for 4 bits on the models that are named: cmlc
against a process that loads, quantizes and saves with coremltools, and against quantize_weights
alone in it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROW = 4096
ROWS = 4096  # of one layer: 64 MiB
MODES = {
    "quantize --nbits 4 --mode linear": "linear",
    "quantize --nbits 4 --mode linear --scales minmax": "linear",
    "palettize --nbits 4 --mode uniform": "linear_lut",
    "palettize --nbits 4 --mode kmeans": "kmeans_lut",
}
PEER = """
import sys, time, numpy, coremltools as ct
from coremltools._deps import _kmeans1d
from coremltools.models.neural_network import quantization_utils as q
_, source, mode, target = sys.argv
def flat(nbits, w):  # its own kmeans_lut fails; this is what that calls, in the shape it needs
    codes, lut = _kmeans1d.cluster(w.reshape(-1), 1 << nbits)
    lut = numpy.asarray(lut + lut[-1:] * ((1 << nbits) - len(lut)), numpy.float64)
    return lut, numpy.asarray(codes).reshape(w.shape).astype(numpy.uint32)
model = ct.models.MLModel(source, skip_model_load=True)
start = time.process_time()
how = ("custom_lut", flat) if mode == "kmeans_lut" else (mode, None)
small = q.quantize_weights(model, 4, how[0], lut_function=how[1])
print("took", time.process_time() - start)
ct.utils.save_spec(small if not hasattr(small, "get_spec") else small.get_spec(), target)
"""


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def head(field: int, size: int) -> bytes:
    return varint(field << 3 | 2) + varint(size)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def make(path: Path, megabytes: int) -> None:
    """Writes a model layer by layer; the values are a block of bell-shaped ones, shifted each time."""
    import numpy as np

    noise = np.random.default_rng(1).normal(0, 0.05, ROW * ROWS + ROWS).astype(np.float32)
    size = 4 * ROW * ROWS
    weights = head(1, size)
    dense = number(1, ROW) + number(2, ROWS) + head(20, len(weights) + size) + weights
    layers = max(1, megabytes * 1000 * 1000 // (size + 200))
    names = [head(1, len(n)) + n for n in (b"dense%03d" % i for i in range(layers))]
    bodies = [len(n) + len(head(140, len(dense) + size)) + len(dense) + size for n in names]
    total = sum(len(head(1, b)) + b for b in bodies)
    with path.open("wb") as file:
        file.write(number(1, 1) + head(500, total))
        for i, (name, body) in enumerate(zip(names, bodies, strict=True)):
            file.write(head(1, body) + name + head(140, len(dense) + size) + dense)
            file.write(noise[i * 7 : i * 7 + ROW * ROWS].tobytes())


def run(command: list[str]) -> tuple[float, float, str]:
    """CPU seconds, peak of resident memory in bytes, and what was printed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return usage.ru_utime + usage.ru_stime, peak, said


def large(cmlc: str, folder: Path, megabytes: int) -> None:
    source = folder / "large.mlmodel"
    # What a process holds counts for those that it starts: numpy stays in one of its own.
    subprocess.run([sys.executable, __file__, "--make", str(source),
                    "--megabytes", str(megabytes)], check=True)  # fmt: skip
    size = source.stat().st_size
    print(f"{size / 1e6:.0f} MB of fp32 weights, one thread")
    print(f"{'':50} {'CPU s':>7} {'/ cp':>6} {'peak MB':>8} {'/ file':>7} {'result MB':>9}")
    ways = ["info", "palettize --nbits 4", "palettize --nbits 4 --mode uniform",
            "quantize --nbits 8 --scales minmax", "quantize --nbits 4 --mode linear",
            "quantize --dtype fp16"]  # fmt: skip
    small = folder / "small.mlmodel"
    for way in [*ways, "decompress"]:
        copied, _, _ = run(["cp", str(source), str(folder / "copy.mlmodel")])
        (folder / "copy.mlmodel").unlink()
        target = folder / "out.mlmodel"
        read = small if way == "decompress" else source
        command = [cmlc, *way.split(), str(read)]
        if not way.startswith("info"):
            command += ["-q", "--threads", "1", "-o", str(target)]
        cpu, peak, _ = run(command)
        result = target.stat().st_size if target.exists() else 0
        larger = max(result, read.stat().st_size)
        print(f"{way:50} {cpu:7.2f} {cpu / copied:6.2f} {peak / 1e6:8.0f} {peak / larger:7.3f} "
              f"{result / 1e6:9.0f}", flush=True)  # fmt: skip
        if way == "palettize --nbits 4":
            target.rename(small)
        else:
            target.unlink(missing_ok=True)


def peers(cmlc: str, folder: Path, models: list[Path], rounds: int) -> None:
    for model in models:
        for way, mode in MODES.items():
            ours, theirs, alone = [], [], []
            for _ in range(rounds):
                for _ in range(3):
                    out = folder / "ours.mlmodel"
                    ours.append(run([cmlc, *way.split(), "-q", "--threads", "1", str(model),
                                     "-o", str(out)])[0])  # fmt: skip
                cpu, _, said = run([sys.executable, "-W", "ignore", "-c", PEER, str(model), mode,
                                    str(folder / "theirs.mlmodel")])  # fmt: skip
                theirs.append(cpu)
                alone.append(float(said.rsplit("took", 1)[1]))
            mine = min(ours)
            print(f"{model.name}: {way}: cmlc {mine:.3f} s, coremltools {min(theirs):.2f} s "
                  f"({min(theirs) / mine:.0f}x), quantize_weights alone {min(alone):.2f} s "
                  f"({min(alone) / mine:.0f}x)", flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cmlc", default="build/release/cmlc")
    parser.add_argument("--megabytes", type=int, default=2000, help="of the large model; 0: none")
    parser.add_argument("--peer", nargs="*", type=Path, default=[], metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=3, help="of --peer")
    parser.add_argument("--work-dir", type=Path, help="for the large files")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(args.make, min(args.megabytes, 2047))
        return 0
    with tempfile.TemporaryDirectory(dir=args.work_dir) as scratch:
        if args.megabytes:
            large(args.cmlc, Path(scratch), args.megabytes)
        peers(args.cmlc, Path(scratch), args.peer, args.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
