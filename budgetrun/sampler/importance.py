"""Importance sampling from a pool, by the gradient norm, an upper bound on it, or the loss, with a gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context
from budgetrun.sampler._flag import Flag
from budgetrun.sampler._looking import check_looks

MANY = 2000  # images of a pool


@dataclass
class ImportanceSampling:
    """While the gate is open: look at a uniform pool of `B = pool x b` images, draw b with replacement, `g ∝ score`.

    Weights `1 / (B g)` make the update's expectation the pool's mean gradient. The gate compares a moving average
    (momentum 0.9, from 0) of `tau = (1 - sum (g - 1/B)^2 / sum g^2)^(-1/2) = sqrt(B sum g^2)` with a threshold;
    while it is closed, updates are uniform and the score comes from the training forward pass at no cost.
    Source: Katharopoulos & Fleuret 2018, algorithm 1, and their code (presample 3, threshold `(B + 3b) / (3b)`, their
    eq. 29: the gain that pays for B extra forward passes if `B = 2F`). On CIFAR they use pool 5, threshold 1.5. The
    bound of an image's gradient norm is `||d loss / d logits||_2` (their eq. 20 for the network's last layer), of the
    run's own loss: for the cross-entropy, theirs, `||softmax - sum_k share_k onehot(label_k)||`.
    Cost of an update: open `B F + b (F + B)`, with score=gradient_norm `(B + b) (F + B)`; closed `b (F + B)`.

    pool: multiple of the batch size, in `[1, 1000]`. threshold: null for eq. 29. momentum: in `[0, 1)`.
    score: the "bound" on the gradient norm; the "loss", as in Hu 2021 with the same algorithm; or "gradient_norm", the
    norm itself, over all parameters and in evaluation mode. No other probabilities give the re-weighted gradient of an
    image less variance (the trace of its covariance), so this is what perfect importance would buy. It is charged as
    one forward and backward pass per image of the pool; with budget_unit=updates, it is as if free. While the gate is
    closed, its average is that of the bound, which costs nothing; the threshold is that of the bound (norms would pay
    from `(B + b) / b` on), so that only the score differs.
    weights: whether to re-weight; without weights, as in Hu 2021, draws are biased to high scores on purpose.
    looks: the model's mode, "eval" as in Katharopoulos & Fleuret's code or "train" as in Hu's; there BatchNorm sees
    the pool as a whole, here in parts of b images.
    replacement: whether pools and uniform batches are drawn with replacement, as in Katharopoulos & Fleuret's code, or
    from shuffled passes over the training set, as uniform sampling does.
    looks_scale: size of the images in looks, of each side, in `(0, 1]`; bilinear.
    """

    neutral: ClassVar = {"replacement": False, "looks_scale": 1.0}

    pool: float
    threshold: float | None
    momentum: float
    score: str
    weights: bool
    looks: str
    replacement: bool
    looks_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.pool <= 1000:
            raise ValueError(f"pool={self.pool} must be in [1, 1000] (batches looked at for one trained on)")
        if self.threshold is not None and not 0 <= self.threshold < float("inf"):
            raise ValueError(f"threshold={self.threshold} must be a number from 0, or null for (B + 3b) / (3b)")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must be in [0, 1)")
        if self.score not in ("bound", "loss", "gradient_norm"):
            raise ValueError(f"score={self.score} is not one of bound, loss, gradient_norm")
        check_looks(self.looks_scale, self.looks)
        if self.score == "gradient_norm" and (self.looks == "train" or self.looks_scale < 1):
            raise ValueError(
                "score=gradient_norm is that of whole images in evaluation mode; leave out looks=train and looks_scale"
            )

    def start(self, context: Context) -> None:
        self.context = context
        self.stream = context.stream(self.plan)
        self.size = int(self.pool * context.batch_size)
        b = context.batch_size
        self.gate = (self.size + 3 * b) / (3 * b) if self.threshold is None else self.threshold
        self.tau = torch.zeros((), device=context.device)
        self.passed = Flag(context.device)  # whether tau is above the gate
        self.open = False

    def plan(self) -> Tensor:
        if not self.replacement:
            return self.context.permutation()
        n, device = self.context.n, self.context.device
        return torch.randint(n, (n,), generator=self.context.random.device, device=device)

    @property
    def takes_long(self) -> bool:
        return (self.size > MANY or self.score == "gradient_norm") and bool(self.passed)

    def draw(self) -> Batch:
        # on a GPU, the host waits here for the last scores, but not for the last backward pass
        self.open = bool(self.passed)
        if not self.open:
            return self.stream.take(self.context.batch_size)
        pool = self.stream.take(self.size)
        g = self.update(self.scores(pool))
        rows = torch.multinomial(g, self.context.batch_size, replacement=True, generator=self.context.random.device)
        batch = pool[rows]
        if self.weights:
            batch.weight = 1 / (len(pool) * g[rows])
        return batch

    def scores(self, pool: Batch) -> Tensor:
        """The score [B] of each image of a pool."""
        if self.score == "gradient_norm":
            return self.context.gradient_norms(pool)
        return self.seen(pool, *self.context.look(pool, self.looks == "train", self.looks_scale))

    def seen(self, batch: Batch, losses: Tensor, logits: Tensor) -> Tensor:
        """The score [B] of each image by a forward pass; the bound, if it is the gradient norm."""
        return losses if self.score == "loss" else self.context.logit_gradients(logits, batch).norm(dim=1)

    def update(self, score: Tensor) -> Tensor:
        """Update the gate with the distribution g [B] of these scores, and return g."""
        total = score.sum()
        # everything solved, or a loss that is not a number, which the loop reports: no preference
        g = torch.where((total > 0) & total.isfinite(), score / total, 1 / len(score))
        tau = (len(score) * g.square().sum()).sqrt()
        self.tau = self.momentum * self.tau + (1 - self.momentum) * tau
        self.passed.set(self.tau > self.gate)
        return g

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        if not self.open:
            self.update(self.seen(batch, losses, logits))

    def state_dict(self) -> dict[str, Any]:
        return {**self.stream.state_dict(), "tau": self.tau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.tau = state["tau"]
        self.passed.set(self.tau > self.gate)
