"""Cross-entropy, with or without label smoothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from budgetrun.contracts import Batch
from budgetrun.softmax import errors


@dataclass
class CrossEntropy:
    """`-sum_k share_k sum_c q_kc log p_c`, where `q_k` is `(1 - smoothing) onehot(label_k) + smoothing / classes`.

    Source: Szegedy et al. 2016, section 7, for the smoothing.
    smoothing: in `[0, 1)`; 0 is the plain cross-entropy, theirs is 0.1.
    """

    smoothing: float

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing={self.smoothing} must be in [0, 1)")

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        if batch.label.shape[1] == 1:
            return F.cross_entropy(logits, batch.label[:, 0], reduction="none", label_smoothing=self.smoothing)
        log_p = logits.log_softmax(1)
        losses = -(batch.share * log_p.gather(1, batch.label)).sum(1)
        return (1 - self.smoothing) * losses - self.smoothing * log_p.mean(1) if self.smoothing else losses

    def logit_gradients(self, logits: Tensor, batch: Batch) -> Tensor:
        """softmax - sum_k share_k q_k, [B, classes]."""
        if not self.smoothing:
            return errors(logits, batch.label, batch.share)
        return errors(logits, batch.label, (1 - self.smoothing) * batch.share) - self.smoothing / logits.shape[1]
