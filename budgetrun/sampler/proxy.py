"""Selection by proxy: a small network picks what the large one trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from budgetrun.contracts import Batch, Context, Model
from budgetrun.sampler._looking import check_looks


@dataclass
class Proxy:
    """A small network looks at a uniform pool of `pool x b` images; both networks train on the b of its highest loss.

    The proxy starts from its own random weights and makes an update on the chosen batch before the trained model does,
    with the same optimizer settings, learning rate and loss. No re-weighting: biased to hard on purpose.
    Source: the code of Jordan 2024, `airbench96_faster` (pool 2: 512 of 1,024). Selection via proxy, Coleman et al.
    2020, chooses a part of the data by a small network, once and beforehand. With SGD at 0.1 on the digits, a pool of 3
    collapses (41%; 2: 97.8%, uniform 97.8%; budget 0.3, one seed).
    Published: the small network goes through all batches before the large one's training, looks in training mode, and
    learns from every fourth; the large one sees the same batches and trains on the images marked in them. Here both
    train in one run, the proxy learns at every update and looks in evaluation mode, and its cost is charged.
    Cost of an update: `pool b F' + b (F' + B')` of the proxy, then `b (F + B)`.

    model: the proxy, as in the group model. pool: multiple of the batch size.
    looks_scale: size of the images that the proxy looks at, of each side, in `(0, 1]`; bilinear.
    """

    neutral: ClassVar = {"looks_scale": 1.0}

    model: Model
    pool: float
    looks_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.pool <= 1000:
            raise ValueError(f"pool={self.pool} must be in [1, 1000] (batches looked at for one trained on)")
        check_looks(self.looks_scale)

    def start(self, context: Context) -> None:
        self.context = context
        self.stream = context.stream(context.permutation)
        self.proxy = context.second(self.model)
        self.size = int(self.pool * context.batch_size)

    def draw(self) -> Batch:
        pool = self.stream.take(self.size)
        losses, _ = self.proxy.look(pool, self.looks_scale)
        batch = pool[losses.topk(self.context.batch_size).indices]
        self.proxy.learn(batch)
        return batch

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {**self.stream.state_dict(), "proxy": self.proxy.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.proxy.load_state_dict(state["proxy"])
