"""Asymmetric label noise: every class is mistaken for one other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from budgetrun.contracts import Data, Random, UserError

# CIFAR-100's fine labels by superclass; checked against the coarse labels in the published CIFAR-100N file
SUPERCLASSES = (
    (4, 30, 55, 72, 95),  # aquatic mammals
    (1, 32, 67, 73, 91),  # fish
    (54, 62, 70, 82, 92),  # flowers
    (9, 10, 16, 28, 61),  # food containers
    (0, 51, 53, 57, 83),  # fruit and vegetables
    (22, 39, 40, 86, 87),  # household electrical devices
    (5, 20, 25, 84, 94),  # household furniture
    (6, 7, 14, 18, 24),  # insects
    (3, 42, 43, 88, 97),  # large carnivores
    (12, 17, 37, 68, 76),  # large man-made outdoor things
    (23, 33, 49, 60, 71),  # large natural outdoor scenes
    (15, 19, 21, 31, 38),  # large omnivores and herbivores
    (34, 63, 64, 66, 75),  # medium-sized mammals
    (26, 45, 77, 79, 99),  # non-insect invertebrates
    (2, 11, 35, 46, 98),  # people
    (27, 29, 44, 78, 93),  # reptiles
    (36, 50, 65, 74, 80),  # small mammals
    (47, 52, 56, 59, 96),  # trees
    (8, 13, 48, 58, 90),  # vehicles 1
    (41, 69, 81, 85, 89),  # vehicles 2
)
CIFAR10 = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}  # truck, bird, deer, cat, dog -> automobile, airplane, horse, dog, cat
CIFAR100 = {c: five[(i + 1) % 5] for five in SUPERCLASSES for i, c in enumerate(five)}


@dataclass
class Asymmetric:
    """In every class that is mistaken for another, `round(rate x n)` of its n examples, at random, get that label.

    map: "pairs", class c is mistaken for `c + 1`, the last for the first (the pair flips of Han et al. 2018, any number
    of classes); "cifar10", truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog (Patrini et al. 2017;
    the other five classes stay clean, so half of `rate` of all labels are wrong); "cifar100", the next class of the
    same superclass, and for the last one the first (Patrini et al. 2017).
    Published code flips each label of such a class with probability `rate`; here the count is exact. Patrini's code
    for CIFAR-100 treats five consecutive labels as a superclass, which is wrong (the labels are in alphabetical order),
    and much later code does the same. Here it is the true superclass.
    """

    rate: float
    map: str

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate={self.rate} must be in [0, 1)")
        if self.map not in ("pairs", "cifar10", "cifar100"):
            raise ValueError(f"map={self.map} is not one of pairs, cifar10, cifar100")

    def apply(self, data: Data, random: Random) -> Data:
        """Raises UserError if the map is for another number of classes."""
        pairs = {c: (c + 1) % data.classes for c in range(data.classes)}
        classes, mistaken_for = {
            "pairs": (data.classes, pairs),
            "cifar10": (10, CIFAR10),
            "cifar100": (100, CIFAR100),
        }[self.map]
        if classes != data.classes:
            raise UserError(
                f"noise.map={self.map} is for {classes} classes and this data set has {data.classes}; "
                "noise.map=pairs is for any"
            )
        labels = data.labels.clone()
        for c, other in mistaken_for.items():
            of_class = np.flatnonzero(data.labels == c)
            labels[torch.from_numpy(random.host.permutation(of_class)[: round(self.rate * len(of_class))])] = other
        return replace(data, labels=labels, corrupted=labels != data.labels)
