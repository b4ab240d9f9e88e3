"""The focal loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from budgetrun.contracts import Batch


@dataclass
class Focal:
    """`-sum_k share_k (1 - p(label_k))^gamma log p(label_k)`, p the softmax: easy examples count for less.

    Source: Lin et al. 2018, eq. 4.
    Published: one sigmoid per class, and a class weight alpha; here the softmax over the classes, and no weight.
    gamma: at least 0; 0 is the cross-entropy, theirs is 2.
    """

    gamma: float

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 100:
            raise ValueError(f"gamma={self.gamma} must be at least 0 and at most 100")

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        log_p = logits.log_softmax(1).gather(1, batch.label)
        # 1 - p from the logarithm: exact where p is near 1; at p = 1 the power's slope is infinite for gamma < 1
        missed = (-log_p.expm1()).clamp(min=1e-12)
        return -(batch.share * missed**self.gamma * log_p).sum(1)
