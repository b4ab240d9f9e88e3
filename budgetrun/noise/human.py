"""Human label noise: the labels that people gave to CIFAR's training images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from budgetrun.contracts import Data, Random, UserError, path

HOME = "https://github.com/UCSC-REAL/cifar-10-100n (folder data)"
LABELS = ("aggre_label", "worse_label", "random_label1", "random_label2", "random_label3", "noisy_label")


@dataclass
class Human:
    """CIFAR-10N and CIFAR-100N (Wei et al. 2022): the labels of crowd workers, from the published file.

    file: CIFAR-10_human.pt or CIFAR-100_human.pt. labels: which of the file's labels. CIFAR-10N has `random_label1`,
    `random_label2` and `random_label3`, by one worker each (17 to 18% wrong), `aggre_label`, their majority (9%), and
    `worse_label`, a wrong label if any of the three is wrong (40%). CIFAR-100N has `noisy_label` (40%). All shares were
    counted in the files.
    The labels are the same for every seed. The file's clean labels must be those of the data set. The file is read as
    data only: one that would run code is refused.
    """

    file: str
    labels: str

    published: ClassVar = {"CIFAR-10_human.pt": "873e69c39cb9b5e97fb6bae2d60bb59b38a5cbc31d2b868f7903dcb2b9dd2310"}

    def __post_init__(self) -> None:
        self.file = path("file", self.file)
        if self.labels not in LABELS:
            raise ValueError(f"labels={self.labels} is not one of {', '.join(LABELS)}")

    def apply(self, data: Data, random: Random) -> Data:
        """Raises UserError if the file is missing, broken, without these labels, or for another data set."""
        clean, noisy = self.read()
        count = len(data.labels) + (0 if data.val_labels is None else len(data.val_labels))
        position = torch.arange(count) if data.position is None else data.position
        if not len(clean) == len(noisy) == count or not torch.equal(clean[position], data.labels):
            raise UserError(
                f"noise.file={self.file} is for another data set: its clean_label is not what the {count} training "
                "labels are here; CIFAR-10_human.pt is for dataset=cifar10, CIFAR-100_human.pt for dataset=cifar100"
            )
        labels = noisy[position]
        return replace(data, labels=labels, corrupted=labels != data.labels)

    def read(self) -> tuple[Tensor, Tensor]:
        """The file's clean labels and the chosen ones, int64, of all training examples."""
        if not Path(self.file).exists():
            raise UserError(f"noise.file={self.file} is not there; get it from {HOME} and put it there by hand")
        # what NumPy arrays are unpickled with, under the names before and since version 2
        rebuild = np.empty(0).__reduce__()[0]
        names = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
        allowed: list[Any] = [*((rebuild, name) for name in names), np.ndarray, np.dtype, np.dtypes.Int64DType]
        try:
            with torch.serialization.safe_globals(allowed):
                given = dict(torch.load(self.file, weights_only=True))
        except Exception as error:  # whatever reading another kind of file raises
            raise UserError(
                f"noise.file={self.file} is broken, half-downloaded, or no file of CIFAR-10N's or CIFAR-100N's labels; "
                f"get it from {HOME}"
            ) from error
        keys = ("clean_label", self.labels)
        for key in keys:
            if key not in given:
                raise UserError(
                    f"noise.file={self.file} has no {key}, only {', '.join(map(str, given))}; set noise.labels"
                )
        clean, noisy = (torch.as_tensor(given[key]).long() for key in keys)
        return clean, noisy
