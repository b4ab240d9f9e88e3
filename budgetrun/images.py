"""Image files: those below a folder, and their pixels as one tensor, which is decoded once and kept."""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from budgetrun.errors import UserError, one_line
from budgetrun.results import replacing

log = logging.getLogger("budgetrun")

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


def check_size(size: int) -> None:
    """Raise ValueError where images cannot have so many pixels a side."""
    if size < 1:
        raise ValueError(f"size={size} must be at least 1 pixel")


def below(root: Path) -> list[str]:
    """The image files in `root` and its folders, as paths below it, sorted; hidden ones are left out."""
    found = [
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    return sorted(found)


def read(root: Path, names: list[str], size: int, channels: int, kept_in: Path) -> Tensor:
    """The images of these files below `root`, with both sides resized to `size`: uint8 [N, channels, size, size].

    channels: 3, colour, or 1, grey. Resized as torchvision's Resize((size, size)) does it: antialiased bilinear.
    What was decoded is kept in a file in the folder `kept_in`, and decoded anew when a file's name, size or time of
    change is another. Raises UserError that names a file that cannot be read.
    """
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]
    kept = kept_in / f"{root.name}-{size}x{size}x{channels}-{place}.bin"
    state = hashlib.sha256(f"{size} {channels}".encode())
    for name in names:
        try:
            stat = (root / name).stat()
        except OSError as error:
            raise UserError(f"{root / name} cannot be read ({error.strerror})") from error
        state.update(os.fsencode(f"\n{name} {stat.st_size} {stat.st_mtime_ns}"))
    key = state.digest()
    if (images := read_kept(kept, key)) is None:
        kept_in.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")):
            if (images := read_kept(kept, key)) is None:  # another job may have decoded them meanwhile
                log.info("decoding the %s images of %s, once; they are kept in %s", f"{len(names):,}", root, kept)
                images = decode(root, names, size, channels)
                with replacing(kept) as file:
                    file.write(key)
                    np.save(file, images)
    return torch.from_numpy(images)


def read_kept(path: Path, key: bytes) -> np.ndarray | None:
    """What `read` kept in this file, if it is of that key."""
    try:
        with path.open("rb") as file:
            return np.load(file) if file.read(len(key)) == key else None
    except (FileNotFoundError, EOFError, ValueError):  # the latter two where the file is damaged
        return None


def decode(root: Path, names: list[str], size: int, channels: int) -> np.ndarray:
    """The images of these files: uint8 [N, channels, size, size]."""
    from PIL import Image

    try:
        images = np.empty((len(names), channels, size, size), np.uint8)
    except (MemoryError, ValueError) as error:  # the latter where the number of bytes has too many digits
        raise UserError(f"the images of {root} do not fit ({error}); set dataset.size={size} lower") from error

    def decode_one(number: int) -> None:
        path = root / names[number]
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):  # Pillow would clip them
                    raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
                whole = image.convert("L" if channels == 1 else "RGB")
            pixels = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR))
        except Exception as error:  # Pillow raises many kinds, by what is wrong with a file
            reason = one_line(error)
            raise UserError(f"{path} cannot be read as an image ({reason}); replace it or take it away") from error
        images[number] = pixels.reshape(size, size, channels).transpose(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding Python's lock
        for _ in pool.map(decode_one, range(len(names))):
            pass
    return images


def mean_and_std(images: Tensor) -> tuple[list[float], list[float]]:
    """Of each channel, for pixels uint8 [N, C, H, W] scaled to [0, 1]: all pixels', computed in float64."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        mean = (counts @ values) / counts.sum()
        means.append(mean.item())
        stds.append(((counts @ (values - mean) ** 2) / counts.sum()).sqrt().item())
    return means, stds
