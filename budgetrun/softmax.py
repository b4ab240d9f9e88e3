"""Quantities that several methods compute from a network's logits."""

from __future__ import annotations

import math

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


def divergence(logits: Tensor) -> Tensor:
    """The Jensen-Shannon divergence [B] in nats of V predictions each, from logits [V, B, classes]."""
    log_p = logits.log_softmax(2)
    log_mean = log_p.logsumexp(0) - math.log(len(logits))
    return (log_p.exp() * (log_p - log_mean)).sum(2).mean(0)
