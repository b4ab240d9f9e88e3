"""Image files: finding them below folders, and decoding them, once, into one file."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import threading
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from budgetrun.contracts import MOST, Facts
from budgetrun.dataset._store import Part, kept_as, stored
from budgetrun.errors import UserError, one_line
from budgetrun.stored import Stored, mean_and_std

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("budgetrun")

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # Pillow's names; for an EPS, it would run a program
SYSTEM = ("thumbs.db", "desktop.ini")  # left in folders by Windows, as hidden files are by others
LARGEST = 120_000_000  # pixels, more than cameras have; decoding takes 1 GB
LARGE = 25_000_000  # pixels, above which only one image at a time is decoded
TOGETHER = 1000  # images that are decoded before the file is written to
DECODING = 2  # increase it when decoding changes: the pixels that were kept are then decoded again


@dataclass
class Shape:
    """How image files become images of one shape, [channels, size, size]. channels: 3, colour, or 1, grey.

    fit: squash resizes both sides to `size`, as torchvision's Resize((size, size)) does it; crop the shorter one, and
    takes the middle, as Resize(size) and CenterCrop(size). Antialiased bilinear.
    draft: a JPEG file of more than four times the size is made smaller while it is decoded, to no less than twice the
    size. 500x375 to 64x64: 1.65 times faster; pixels differ by 1.2 of 255 on average.
    """

    size: int
    channels: int
    fit: str = "squash"
    draft: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MOST:
            raise ValueError(f"size={self.size} must be at least 1 pixel, and at most {MOST:,}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels} is not one of 1, 3")
        if self.fit not in ("squash", "crop"):
            raise ValueError(f"fit={self.fit} is not one of squash, crop")

    @property
    def whole(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size


def one_spelling(name: str) -> str:
    """The same spelling for names that look the same: some systems write é as one character, others as two."""
    return unicodedata.normalize("NFC", name)


class Walk:
    """Finds the image files below folders: each folder and each file once, however many links lead to it.

    kinds: the folders, each with the kind of its images, such as part and class. A link to a folder is followed unless
    it leads where the walk goes anyway: into one of these folders, or to one that contains them. Raises UserError if a
    folder or file is of two kinds, since one of them must be wrong.
    """

    def __init__(self, kinds: dict[Path, str]) -> None:
        self.kinds = kinds
        self.real = {folder: os.path.realpath(folder) for folder in kinds}
        self.reached: dict[str, tuple[str, str]] = {}  # by real path: the path that led there first, and the kind
        self.walked: dict[str, tuple[str, str]] = {}  # folders by real path: the path that led there, and the kind
        self.followed = False  # a link to a file: only then are files looked up by their real paths
        self.unread: Counter[str] = Counter()  # files, by their suffix
        self.repeated = 0  # links to files and folders that are found anyway
        for folder, real in self.real.items():
            self.reach(real, str(folder), kinds[folder])

    def below(self, top: Path) -> list[str]:
        """The image files in one of the folders and in those below it, as paths below it, sorted.

        Paths are strings: with Path objects, it takes six times as long.
        """
        found: list[str] = []
        kind, begin = self.kinds[top], str(top)
        todo = [(begin, "", self.real[top])]
        while todo:
            folder, below, real = todo.pop()
            self.walked[real] = folder, kind
            images, others = entries(folder)
            if self.followed:
                images = [name for name in images if self.reach(f"{real}/{name}", f"{folder}/{name}", kind)]
            found += [below + name for name in images]
            for name, linked, is_folder in others:
                path, place = f"{folder}/{name}", f"{real}/{name}"
                if linked:
                    check_link(Path(path))
                    place = os.path.realpath(path)
                    is_folder = os.path.isdir(place)  # noqa: PTH112 -- it is a string
                if is_folder:
                    if linked and self.leads_back(place, real):
                        self.repeated += 1
                    elif self.reach(place, path, kind):
                        todo.append((path, f"{below}{name}/", place))
                elif not name.lower().endswith(SUFFIXES):
                    self.unread[Path(name).suffix.lower() or "without a suffix"] += 1
                elif not linked or self.follow(place, path, kind):
                    found.append(below + name)
        return sorted(found)

    def follow(self, place: str, path: str, kind: str) -> bool:
        """Whether the link `path` leads to a file that is reached for the first time."""
        self.followed = True
        folder, name = os.path.split(place)
        if folder in self.walked and is_image(name):
            first, of = self.walked[folder]
            self.reached.setdefault(place, (f"{first}/{name}", of))
        return self.reach(place, path, kind)

    def leads_back(self, place: str, real: str) -> bool:
        """Whether a link in the folder `real` leads to one that contains it, or contains or is in one of the walk's."""
        own = self.real.values()
        return any(is_in(other, place) for other in (real, *own)) or any(is_in(place, other) for other in own)

    def reach(self, place: str, path: str, kind: str) -> bool:
        """Whether this real path is reached for the first time."""
        now = path, kind
        first = self.reached.setdefault(place, now)
        if first[1] != kind:
            raise UserError(f"{first[0]} and {path} are the same, {place}; remove one of them")
        self.repeated += first is not now
        return first is now

    def say(self, root: Path) -> None:
        """Log what was found in the folder but adds no images."""
        if several := ", ".join(f"{count:,} {suffix}" for suffix, count in self.unread.most_common() if count):
            log.warning("%s: not read: %s; images are %s", root, several, " ".join(SUFFIXES))
        if self.repeated:
            log.warning("%s: ignored links to what is read anyway: %s", root, f"{self.repeated:,}")


def is_in(place: str, folder: str) -> bool:
    """Whether a path is that of the folder or of something below it."""
    return place == folder or place.startswith(folder.rstrip("/") + "/")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name was put there by an operating system, not by people."""
    return name.startswith(".") or name.lower() in SYSTEM


def check_link(path: Path) -> None:
    """Raise UserError if this is a broken link: images may be missing."""
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to {path.readlink()}, which does not exist; fix or remove it")


def is_image(name: str) -> bool:
    """Whether a file of this name is read as an image."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def entries(folder: str) -> tuple[list[str], list[tuple[str, bool, bool]]]:
    """What is in a folder and not hidden: the names of image files, and the rest, links last.

    The rest is each a name, whether it is a link, and whether it is a folder itself.
    """
    images, others = [], []
    try:
        with os.scandir(folder) as scan:
            for one in scan:
                name = one.name
                if is_image(name) and one.is_file(follow_symlinks=False):
                    images.append(name)
                elif not is_hidden(name):
                    others.append((name, one.is_symlink(), one.is_dir(follow_symlinks=False)))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror})") from error
    return images, sorted(others, key=lambda entry: (entry[1], entry[0]))


def read(root: Path, names: list[str], shape: Shape, kept_in: Path) -> tuple[Stored, Facts]:
    """The images of these files below `root`, and what is kept beside them.

    They are as people see them: turned as the camera recorded, and on white if transparent.
    The pixels are kept in a file in the folder `kept_in`, and decoded again if a file's name, size or times have
    changed. Raises UserError that names a file that cannot be read.
    """
    how = "-crop" * (shape.fit == "crop") + "-draft" * shape.draft
    kept = kept_as(kept_in, root, f"{shape.size}x{shape.size}x{shape.channels}{how}", "bin")
    several = [names[begin : begin + TOGETHER] for begin in range(0, len(names), TOGETHER)]
    parts = [Part(len(some), state_of(root, some, f"{DECODING} {shape}".encode())) for some in several]
    animated = 0

    def make(number: int) -> np.ndarray:
        nonlocal animated
        images, count = decode(root, several[number], shape)
        animated += count
        return images

    found = stored(kept, root, shape.whole, parts, make)
    if animated:
        log.warning("%s has animated or multi-page images: of these %s the first frame is read", root, f"{animated:,}")
    return found


def state_of(root: Path, names: list[str], how: bytes) -> bytes:
    """A digest that changes with a file's name, size or times. Raises UserError if it is not a file."""
    says = []
    with opened(root) as here:
        for name in names:
            try:
                found = os.stat(name, dir_fd=here)
            except OSError as error:
                raise UserError(f"{root / name} cannot be read ({error.strerror})") from error
            if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for a writer
                raise UserError(f"{root / name} is not a file; remove it")
            # ctime too: files whose names are swapped keep their mtimes
            says.append(f"{name}\0{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")
    return hashlib.sha256(b"\0".join([how, os.fsencode("\0".join(says))])).digest()


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[int]:
    """The folder as a descriptor: a `stat` of a name in it takes 4.4 us instead of 4.8."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def decode(root: Path, names: list[str], shape: Shape) -> tuple[np.ndarray, int]:
    """The images of these files, uint8 [N, C, H, W], and how many of them have more frames."""
    images = np.empty((len(names), *shape.whole), np.uint8)
    one_by_one = threading.Lock()

    def decode_one(number: int) -> bool:
        path = root / names[number]
        try:
            images[number], animated = pixels(path, shape, one_by_one)
        except Exception as error:  # Pillow raises many kinds, depending on the fault
            reason = one_line(error)
            raise UserError(f"{path} cannot be read as an image ({reason}); replace or remove it") from error
        return animated

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow's, about unused metadata, and about sizes, which are checked here
        animated = sum(pool.map(decode_one, range(len(names))))  # Pillow releases Python's lock while decoding
    return images, animated


def pixels(path: Path, shape: Shape, one_by_one: threading.Lock) -> tuple[np.ndarray, bool]:
    """uint8 [C, H, W] of a file, and whether it has more frames. one_by_one: held for a large image."""
    from PIL import Image

    if not path.stat().st_size:
        raise ValueError("it is empty")
    with Image.open(path, formats=FORMATS) as image:
        count = image.width * image.height
        if count > LARGEST:
            raise ValueError(f"{image.width} x {image.height} pixels are more than {LARGEST:,}; make it smaller")
        if image.mode.startswith(("I", "F")):  # Pillow would clip them
            raise ValueError(f"mode {image.mode} has more than 8 bits per channel")
        with one_by_one if count > LARGE else contextlib.nullcontext():
            if shape.draft:
                image.draft(None, (2 * shape.size, 2 * shape.size))
            whole = upright(on_white(image, "L" if shape.channels == 1 else "RGB"), image)
            small = np.asarray(fitted(whole, shape))
        # a camera's MPO is a photograph with a preview or a depth map
        animated = image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    return small.reshape(shape.size, shape.size, shape.channels).transpose(2, 0, 1), animated


def fitted(image: Image, shape: Shape) -> Image:
    """The image in this size."""
    from PIL.Image import Resampling

    size = shape.size
    if shape.fit == "squash":
        return image.resize((size, size), Resampling.BILINEAR)
    shorter = min(image.size)
    width, height = (int(size * side / shorter) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Resampling.BILINEAR).crop((left, top, left + size, top + size))


def on_white(image: Image, mode: str) -> Image:
    """The image in this mode. Transparent pixels become white: the colours stored for them are arbitrary."""
    from PIL.Image import new

    image.load()
    if image.has_transparency_data:
        ground = new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        image = ground
    return image if image.mode == mode else image.convert(mode)


def upright(image: Image, opened: Image) -> Image:
    """The image, turned or mirrored for display as the file's metadata say."""
    from PIL.ExifTags import Base
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    orientation = 1
    with contextlib.suppress(Exception):  # unreadable metadata count as none
        orientation = opened.getexif().get(Base.Orientation, 1)
    return image.transpose(turns[orientation]) if orientation in turns else image


def pixels_of(
    images: Stored, facts: Facts, mean: list[float] | None, std: list[float] | None
) -> tuple[list[float], list[float]]:
    """The mean and standard deviation that are given, or else those of these images, the first ones of their file."""
    if mean is None or std is None:
        measured = facts(f"mean and standard deviation of the first {len(images)}", lambda: mean_and_std(images))
        mean, std = measured[0] if mean is None else mean, measured[1] if std is None else std
    return mean, std
