"""RHO."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from samplers import file_of
from torch import Tensor

from budgetrun.aug.mixup import Mixup
from budgetrun.contracts import Batch, Context, UserError
from budgetrun.sampler.rho import RHO


@pytest.mark.parametrize("looks", ["train", "eval"])
def test_rho_trains_on_the_highest_losses_minus_irreducible_losses_of_the_pool(
    context_for: Callable[..., Context], looks: str
) -> None:
    losses = torch.tensor([5.0, 4, 3, 2, 1, 6])
    irreducible = [4.9, 0.5, 2.9, 0.1, 0.2, 6.5]  # reducible: 0.1, 3.5, 0.1, 1.9, 0.8, -0.5
    pools = []

    def look(batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        pools.append((batch, training))
        return losses[batch.drawn], torch.zeros(len(batch), 4)

    sampler = RHO(file="il.csv", pool=3, looks=looks)
    sampler.start(context_for(6, 2, look=look, read_scores=file_of(irreducible)))
    batch = sampler.draw()
    assert batch.drawn.tolist() == [1, 3]
    assert batch.weight is None
    ((pool, training),) = pools
    assert sorted(pool.drawn.tolist()) == list(range(6))
    assert training == (looks == "train")


def test_rho_subtracts_the_irreducible_losses_of_all_sources_and_trains_on_the_views_it_looked_at(
    context_for: Callable[..., Context],
) -> None:
    pools = []

    def look(batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        pools.append(batch)
        return torch.full((len(batch),), 5.0), torch.zeros(len(batch), 4)

    irreducible = torch.rand(12, generator=torch.Generator().manual_seed(0))
    sampler = RHO(file="il.csv", pool=3, looks="eval")
    aug = (Mixup(alpha=1.0, draw="image"),)
    sampler.start(context_for(12, 4, look=look, read_scores=file_of(irreducible.tolist()), aug=aug))
    for _ in range(5):
        batch, pool = sampler.draw(), pools[-1]
        reducible = [5 - float(share @ irreducible[index]) for index, share in zip(pool.index, pool.share, strict=True)]
        rows = np.argsort(reducible)[::-1][:4]
        assert torch.equal(batch.images, pool.images[rows.copy()])
        assert torch.equal(batch.drawn, pool.drawn[rows.copy()])


def test_rho_needs_the_irreducible_loss_of_every_example(context_for: Callable[..., Context]) -> None:
    sampler = RHO(file="il.csv", pool=3, looks="eval")
    with pytest.raises(UserError, match=r"il\.csv has no irreducible loss for 2 of 6 examples"):
        sampler.start(context_for(6, 2, read_scores=file_of([1.0] * 4)))
