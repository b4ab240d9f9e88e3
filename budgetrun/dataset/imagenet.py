"""ImageNet: ILSVRC 2012, from its folders or its archives."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from budgetrun.contracts import Data, UserError
from budgetrun.dataset.image_folder import ImageFolder

ARCHIVES = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


@dataclass
class ImageNet(ImageFolder):
    """1,281,167 + 50,000 photographs of 1,000 classes (Russakovsky et al. 2015), tested on the validation images.

    In `root`, folders train/ and val/ with one folder per class, as torchvision has them; or the published archives,
    which are unpacked there, once, and checked by their MD5 sums. The other parameters are those of an image folder.
    The pixels are decoded once: 244 GiB at 256 pixels per side, 15 GiB at 64.
    """

    def load(self, folder: str) -> Data:
        root = Path(folder) / self.root
        if not ((root / "train").is_dir() and (root / "val").is_dir()):
            unpack(root)
        return super().load(folder)


def unpack(root: Path) -> None:
    """Make the folders train/ and val/ from the archives; each is there when it is complete.

    Raises UserError if an archive is missing or broken.
    """
    from torchvision.datasets import imagenet as published

    remedy = f"ImageNet cannot be downloaded: put train/ and val/, or {', '.join(ARCHIVES)}, there"
    if not root.is_dir():
        raise UserError(f"{root} is not there; {remedy}")
    scratch = root / ".unpacking"
    try:
        with FileLock(root / ".unpacking.lock"):
            for part in ("train", "val"):
                if (root / part).is_dir():
                    continue
                shutil.rmtree(scratch, ignore_errors=True)
                if part == "train":
                    published.parse_train_archive(root, folder=scratch.name)
                else:
                    published.parse_devkit_archive(root)
                    published.parse_val_archive(root, folder=scratch.name)
                scratch.rename(root / part)
    except RuntimeError as error:  # torchvision's, for an archive that is missing or broken
        why = str(error).partition(". ")[0]
        raise UserError(f"{root} has no complete folders train/ and val/, and {why}; {remedy}") from error
    except OSError as error:
        raise UserError(f"{root} cannot be written ({error.strerror or error}); make room there") from error
