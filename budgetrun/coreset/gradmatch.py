"""GRAD-MATCH: the weighted gradients whose sum is nearest to that of all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from budgetrun.coreset.choice import Seen


@dataclass
class GradMatch:
    """`gradmatch`; if it ends early, random examples of weight 1 fill the count, as in the authors' code.

    gradients: "row", of the last layer's weights and bias for the example's own class alone, as in the authors'
    configurations for CIFAR-10 ("PerClassPerGradient"); of all of the "last" layer; or of its "bias" alone.
    regularization: at least 0. Their code does not regularise the first weight until a second example is chosen, which
    can change the second.
    """

    gradients: str
    regularization: float

    def __post_init__(self) -> None:
        if self.gradients not in ("row", "last", "bias"):
            raise ValueError(f"gradients={self.gradients} is not one of row, last, bias")
        if not 0 <= self.regularization <= 1e6:
            raise ValueError(f"regularization={self.regularization} must be in [0, 1e6]")

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        errors = seen.errors()
        inputs = torch.ones_like(seen.features[:, :1]) if self.gradients == "bias" else seen.inputs()
        if self.gradients == "row":  # one column per class that occurs
            own = torch.nn.functional.one_hot(seen.labels, errors.shape[1])
            errors = (errors * own)[:, seen.labels.unique()]
        index, weights = gradmatch(errors, inputs, count, self.regularization)
        return filled_up(index, weights, count, len(seen.labels), random)


def filled_up(index: Tensor, weights: Tensor, count: int, m: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """The chosen of m examples, and if they are fewer than `count`, random others of weight 1."""
    order = torch.randperm(m, generator=random, device=index.device)
    taken = torch.zeros_like(order, dtype=torch.bool).index_fill_(0, index, True)
    others = order[taken[order].argsort(stable=True)][: max(0, count - len(index))]  # those that are not come first
    return torch.cat([index, others]), torch.cat([weights, torch.ones_like(others, dtype=weights.dtype)])


def gradmatch(errors: Tensor, inputs: Tensor, count: int, regularization: float) -> tuple[Tensor, Tensor]:
    """At most `count` of m gradients, in the order they are chosen, and weights >= 0 of them.

    Gradient i is the outer product of errors[i] and inputs[i], [m, C] and [m, D], as a linear layer's is.
    Orthogonal matching pursuit for `min_w ||sum_i g_i - sum_{j in S} w_j g_j||^2 + regularization ||w||^2`: choose the
    gradient with the largest product with the residual, solve for the weights of all chosen, drop the most negative
    while there is one. It ends early where nothing is left to match. Source: Killamsetty et al. 2021 (GRAD-MATCH), and
    their code, which drops negative weights the same way. The host waits once for each choice.
    """

    def with_all(gradient: Tensor) -> Tensor:  # its products [m]
        return ((gradient.to(errors) @ inputs.T) * errors.T).sum(0)

    errors64, inputs64 = errors.double(), inputs.double()  # the weights of many chosen are ill-conditioned
    target = errors64.T @ inputs64
    products = with_all(target)
    nothing = (1e-6 * products.abs().max().double()).to(products)
    # a trace of regularisation keeps coinciding gradients solvable
    ridge = regularization + 1e-9 * (errors64.square().sum(1) * inputs64.square().sum(1)).mean()
    left, weights = products.clone(), target.new_empty(0)
    chosen = torch.empty(0, dtype=torch.int64, device=errors.device)
    factor = target.new_zeros(count, count)  # Cholesky factor of the products of the chosen with each other
    for _ in range(count):
        left.index_fill_(0, chosen, -torch.inf)
        best = left.argmax(0, keepdim=True)
        longer = torch.cat([chosen, best])
        e, x = errors64[longer], inputs64[longer]
        k = len(chosen)
        row = (e @ e[-1]) * (x @ x[-1])
        factor[k, :k] = torch.linalg.solve_triangular(factor[:k, :k], row[:k, None], upper=False)[:, 0]
        factor[k, k] = (row[k] + ridge - factor[k, :k].square().sum()).sqrt()
        solved = solution(longer, products, factor)
        matches, negative = torch.cat([left[best] > nothing, ~(solved.min(0, keepdim=True).values >= 0)]).tolist()
        if not matches:
            break
        chosen, weights = longer, solved
        while negative:
            worst = int(weights.argmin())
            chosen = torch.cat([chosen[:worst], chosen[worst + 1 :]])
            e, x = errors64[chosen], inputs64[chosen]
            k = len(chosen)
            gram = (e @ e.T) * (x @ x.T) + ridge * torch.eye(k, dtype=e.dtype, device=e.device)
            factor[:k, :k] = factored(gram)
            weights = solution(chosen, products, factor)
            negative = not weights.min() >= 0
        left = with_all(target - (e * weights[:, None]).T @ x)
    return chosen, weights.float()


def solution(chosen: Tensor, products: Tensor, factor: Tensor) -> Tensor:
    """The weights [k] of the chosen."""
    k = len(chosen)
    return torch.cholesky_solve(products[chosen, None].double(), factor[:k, :k])[:, 0]


def factored(gram: Tensor) -> Tensor:
    """Cholesky factor of a matrix [k, k]; many rows are factored in parts, so that a signal can interrupt.

    5,000 rows at once take 1.2 s on one core.
    """
    if len(gram) <= 2048:
        return torch.linalg.cholesky(gram)
    factor, part = gram.clone(), 256
    for i in range(0, len(gram), part):
        below = factor[i + part :, i : i + part]
        diagonal = factor[i : i + part, i : i + part]
        diagonal.copy_(torch.linalg.cholesky(diagonal))
        below.copy_(torch.linalg.solve_triangular(diagonal, below.T, upper=False).T)
        for left, rows in zip(below.split(1024), factor[i + part :, i + part :].split(1024), strict=True):
            rows -= left @ below.T
    return factor.tril()
