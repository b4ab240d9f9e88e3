"""scikit-learn's handwritten digits: real data that needs no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from budgetrun.contracts import Data


@dataclass
class Digits:
    """1,797 images of 8x8 pixels, 10 classes, split 80 to 20 within every class (1,438 train, 359 test).

    The split is the same for every seed. Pixel values 0 .. 16 are scaled to 0 .. 255.
    mean, std: of the training part, measured. Digits are not mirrored.
    """

    mean: list[float]
    std: list[float]
    flip: bool
    padding: int

    def load(self, folder: str) -> Data:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8))[:, None]
        labels = torch.from_numpy(digits.target.astype(np.int64))
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
        test = np.zeros(len(labels), dtype=bool)
        for c in range(10):
            of_class = order[digits.target[order] == c]
            test[of_class[: round(0.2 * len(of_class))]] = True
        return Data(
            images=images[~test], labels=labels[~test], test_images=images[test], test_labels=labels[test],
            mean=self.mean, std=self.std, flip=self.flip, padding=self.padding, classes=10,
        )  # fmt: skip
