"""(j) Images in a file: `python -m benchmarks.store [FOLDER]`; ten minutes, 3 GB of disk and as much memory.

Training from a file against training from memory, in turns; the memory of each, in processes of their own; what a later
start takes; and decoding. The images are made here, below FOLDER, and removed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import loops
from benchmarks.contest import contest
from budgetrun.contracts import Data
from budgetrun.dataset import _images
from budgetrun.dataset._store import Part, stored
from budgetrun.dataset.image_folder import ImageFolder
from budgetrun.training.data import fingerprint

SIDE, TOGETHER = 64, 1000
LINKS = 60_000  # names per file; file systems limit them


@dataclass
class Made:
    """`n` images of 64x64 random pixels in a file in data_dir, and random labels of 1,000 classes."""

    n: int

    def load(self, folder: str) -> Data:
        def make(number: int) -> np.ndarray:
            return np.random.default_rng(number).integers(0, 256, (TOGETHER, 3, SIDE, SIDE), dtype=np.uint8)

        parts = [Part(TOGETHER, hashlib.sha256(bytes([k % 256, k // 256])).digest()) for k in range(self.n // TOGETHER)]
        images, facts = stored(Path(folder) / f"made-{self.n}.bin", Path(folder), (3, SIDE, SIDE), parts, make)
        labels = torch.randint(1000, (self.n,), generator=torch.Generator().manual_seed(0))
        test = torch.arange(TOGETHER)
        half = [0.5] * 3
        return Data(
            images, labels, images.at(test), labels[test], half, half, flip=True, padding=8, classes=1000, facts=facts
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where the images are made (default: a temporary folder)")
    parser.add_argument("--examples", type=int, default=200_000)
    parser.add_argument("--files", type=int, default=21_000, help="image files, for the start")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="speed,memory,start,decoding")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for what in options.only.split(","):
            {"speed": speed, "memory": memory, "start": start, "decoding": decoding}[what](Path(folder), options)


def overrides(folder: Path, n: int) -> list[str]:
    own = ["++dataset._target_=benchmarks.store.Made", f"+dataset.n={n}"]
    drop = [f"~dataset.{key}" for key in ("classes", "mean", "std", "flip", "padding")]
    return ["dataset=cifar10", *own, *drop, "model=cnn", f"data_dir={folder}", "aug=none", "device=cpu"]


def speed(folder: Path, options: argparse.Namespace) -> None:
    """Updates of cnn, whose images are in a file, and in memory; those in a file are in the system's cache too."""
    line = overrides(folder, options.examples)
    data = Made(options.examples).load(str(folder))
    lanes = {place: loops.ours([*line, f"data_on={place}"], data) for place in ("disk", "device")}
    times = contest(lanes, block=20, rounds=options.rounds, device=torch.device("cpu"))
    ratios = sorted(m / d for m, d in zip(times["device"].seconds, times["disk"].seconds, strict=True))
    quarter = len(ratios) // 4
    print(
        f"speed from a file / from memory: {ratios[len(ratios) // 2]:.3f} ({ratios[quarter]:.3f} to "
        f"{ratios[-1 - quarter]:.3f}); an update takes {1000 * times['disk'].median:.1f} ms from a file",
        flush=True,
    )


def memory(folder: Path, options: argparse.Namespace) -> None:
    """The most anonymous memory of a run, without pages of mapped files; and of a run on digits."""
    Made(options.examples).load(str(folder))
    short = ["epochs=1", "evaluations=1", f"output_dir={folder}/runs", "force=true"]
    for name, line in {
        "digits": ["dataset=digits", *short],
        "a file": [*overrides(folder, options.examples), "budget=0.05", *short],
        "memory": [*overrides(folder, options.examples), "budget=0.05", "data_on=device", *short],
    }.items():
        child = subprocess.Popen([sys.executable, "-m", "budgetrun", *line], stdout=subprocess.DEVNULL)
        most = 0
        while child.poll() is None:
            most = max(most, anonymous(child.pid))
            time.sleep(0.02)
        assert child.returncode == 0
        print(f"anonymous memory of a run from {name}: {most / 1e6:,.0f} MB at most", flush=True)


def anonymous(process: int) -> int:
    """Bytes of a process's memory that are no file's."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def start(folder: Path, options: argparse.Namespace) -> None:
    """Loading a folder of image files whose pixels were decoded before, with the fingerprint."""
    root = folder / "many"
    names = [
        f"{part}/n{k % 1000:04d}/{k}.jpg" for k in range(options.files) for part in ("train", "val")[: 1 + (k < 2000)]
    ]
    for part in ("train", "val"):
        for c in range(1000):
            (root / part / f"n{c:04d}").mkdir(parents=True)
    for number, name in enumerate(names):
        if number % LINKS == 0:
            source = root / f"source{number}.jpg"
            Image.new("RGB", (SIDE, SIDE), (9, 99, 200)).save(source)
        os.link(source, root / name)
    kind = ImageFolder(root="many", size=SIDE, channels=3, mean=None, std=None, flip=True, padding=4)
    seconds = []
    for _ in range(4):
        began = time.process_time()
        fingerprint(kind.load(str(folder)))
        seconds.append(time.process_time() - began)
    print(
        f"{len(names):,} image files: {seconds[0]:.1f} s of processor the first time, then {min(seconds[1:]):.2f} s",
        flush=True,
    )
    shutil.rmtree(root)


def decoding(folder: Path, options: argparse.Namespace) -> None:
    """Photographs of 500x375 pixels, made of smooth colours and noise, 60 kB each."""
    random, names = np.random.default_rng(0), [f"{k}.jpg" for k in range(300)]
    root = folder / "photographs"
    root.mkdir()
    for name in names:
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = smooth + random.normal(0, 8, smooth.shape).astype(np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / name, quality=90)
    size = sum((root / name).stat().st_size for name in names) / len(names)
    print(f"decoding JPEG files of 500x375 pixels and {size / 1000:.0f} kB, images per second of processor:")
    for side in (64, 256):
        exact = None
        for draft in (False, True):
            shape = _images.Shape(side, 3, "crop", draft)
            best = 0.0
            for _ in range(3):
                began = time.process_time()
                pixels = _images.decode(root, names, shape)[0].astype(int)
                best = max(best, len(names) / (time.process_time() - began))
            exact = pixels if exact is None else exact
            change = abs(pixels - exact)
            differs = f"; pixels differ by {change.mean():.2f} of 255, at most {change.max()}" if draft else ""
            print(f"  to {side}x{side}, draft={str(draft).lower()}: {best:.0f}{differs}", flush=True)


if __name__ == "__main__":
    main()
