"""The features of all examples at the end of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from budgetrun.contracts import Context


def features_of(context: Context) -> Tensor:
    """The input of the last layer, float32 [n, D], for all un-augmented examples in order; charged as `n F`."""
    return torch.cat([context.embed(part)[0].float() for part in context.everything()])
