"""scikit-learn's handwritten digits: real data that needs no download."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from budgetrun.contracts import Data, UserError


@dataclass
class Digits:
    """1,797 images of 8x8 pixels, 10 classes, split 80 to 20 within every class (1,438 train, 359 test).

    The split is the same for every seed. Pixel values 0 .. 16 are scaled to 0 .. 255.
    mean, std: of the training part, measured. Digits are not mirrored.
    """

    channels: ClassVar[int] = 1
    mean: list[float]
    std: list[float]
    flip: bool
    padding: int

    def load(self, folder: str) -> Data:
        # the file that sklearn.datasets.load_digits reads: importing scikit-learn takes 2 s, reading its file 0.03 s
        found = importlib.util.find_spec("sklearn")
        if found is None or found.origin is None:
            raise UserError("dataset=digits comes with scikit-learn, which is not installed; install scikit-learn")
        table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
        pixels, target = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
        images = torch.from_numpy(np.round(pixels * (255 / 16)).astype(np.uint8))[:, None]
        labels = torch.from_numpy(target)
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
        test = np.zeros(len(labels), dtype=bool)
        for c in range(10):
            of_class = order[target[order] == c]
            test[of_class[: round(0.2 * len(of_class))]] = True
        return Data(
            images=images[~test],
            labels=labels[~test],
            test_images=images[test],
            test_labels=labels[test],
            mean=self.mean,
            std=self.std,
            flip=self.flip,
            padding=self.padding,
            classes=10,
        )
