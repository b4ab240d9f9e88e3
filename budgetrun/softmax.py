"""Quantities that several methods compute from a network's logits."""

from __future__ import annotations

import torch
from torch import Tensor


def errors(logits: Tensor, label: Tensor, share: Tensor) -> Tensor:
    """softmax - sum_k share_k onehot(label_k), [B, classes], for labels and shares [B, K].

    The gradient of the cross-entropy with respect to the logits, and so to the last layer's bias.
    """
    return logits.softmax(1).scatter_add(1, label, -share)


def entropy(p: Tensor) -> Tensor:
    """-sum p log p in nats over the last dimension, of probabilities p."""
    return torch.special.entr(p).sum(-1)
