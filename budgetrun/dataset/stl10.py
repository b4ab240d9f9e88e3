"""STL-10: larger images, few of them labelled."""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from budgetrun.contracts import Data
from budgetrun.dataset._fetch import check, fetch


@dataclass
class STL10:
    """5,000 + 8,000 colour images of 96x96 pixels, 10 classes (Coates et al. 2011), without the unlabelled part.

    mean, std: those of ImageNet, with which Sahayam et al. 2023 normalise every data set.
    padding: 12 pixels, an eighth of the side, like 4 on CIFAR; usual in public code for STL-10.
    The download is 2.6 GB, most of it unlabelled images; 324 MB of it are kept.
    """

    channels: ClassVar[int] = 3
    mean: list[float]
    std: list[float]
    flip: bool
    padding: int

    def load(self, folder: str) -> Data:
        from torchvision.datasets import STL10 as Published
        from torchvision.datasets.utils import download_url

        # torchvision's own class needs the unlabelled images too, and reads all 2.8 GB of them for their MD5 sum
        files = {name: md5 for name, md5 in Published.train_list + Published.test_list if name != "unlabeled_X.bin"}

        def read(root: Path) -> list[Tensor]:
            for name, md5 in files.items():
                check(root / Published.base_folder / name, md5)
            try:
                return [read_binary(root / Published.base_folder / name) for name in files]
            except FileNotFoundError:
                check(root / Published.filename, Published.tgz_md5)
                raise

        def download(scratch: Path) -> None:
            download_url(Published.url, scratch, Published.filename, Published.tgz_md5)
            (scratch / Published.base_folder).mkdir()
            with tarfile.open(scratch / Published.filename) as archive:
                # not archive.extract: its safe filter is younger than Python 3.11.2, which Debian has
                for name in files:
                    member = archive.extractfile(f"{Published.base_folder}/{name}")
                    assert member is not None
                    with member, (scratch / Published.base_folder / name).open("wb") as file:
                        shutil.copyfileobj(member, file)
            (scratch / Published.filename).unlink()

        images, labels, test_images, test_labels = fetch(
            Path(folder), [Published.filename], read, download, Published.url
        )
        return Data(
            images=images,
            labels=labels,
            test_images=test_images,
            test_labels=test_labels,
            mean=self.mean,
            std=self.std,
            flip=self.flip,
            padding=self.padding,
            classes=10,
        )


def read_binary(path: Path) -> Tensor:
    """Images uint8 [N, 3, 96, 96] of a file ..._X.bin, which has columns before rows; labels int64 [N] of ..._y.bin."""
    content = torch.from_numpy(np.fromfile(path, np.uint8))
    if path.stem.endswith("_y"):
        return content.long() - 1  # they count from 1
    return content.view(-1, 3, 96, 96).transpose(2, 3).contiguous()
