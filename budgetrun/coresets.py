"""Core-sets: few examples that stand for all of them, by what a network says of each.

First the algorithms, on tensors of any device; then the methods made of them, as parts of a sampler or a scorer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context, UserError
from budgetrun.softmax import errors

PAIRS = 2**24  # of examples that are compared at a time

# ---- the algorithms


def k_center_greedy(features: Tensor, count: int, first: Tensor) -> Tensor:
    """`count` of the points [m, D] in order: `first` [1], then always the one farthest from all that are chosen.

    Source: Sener & Savarese 2018, k-Center-Greedy, Euclidean. Waits for nothing.
    """
    squares = features.square().sum(1)
    distance = torch.full_like(squares, torch.inf)  # squared, of each to the nearest of the chosen
    chosen = [first]
    for _ in range(count - 1):
        point = chosen[-1]
        to_point = squares - 2 * (features @ features[point][0]) + squares[point]
        distance = torch.minimum(distance, to_point.clamp(min=0))
        distance[point] = -1  # never again, even where points coincide
        chosen.append(distance.argmax(keepdim=True))
    return torch.cat(chosen)


def herding(features: Tensor, count: int) -> Tensor:
    """`count` of the points [m, D] in order, each the one that brings the mean of the chosen nearest to that of all.

    Source: Welling 2009, in the features' own space and without repetition. (DeepCore's takes the farthest for the
    nearest.) Waits for nothing.
    """
    mean, squares = features.mean(0), features.square().sum(1)
    taken = torch.zeros_like(squares)
    total = torch.zeros_like(mean)
    chosen = []
    for i in range(count):
        wanted = (i + 1) * mean - total  # what would make the mean exact
        point = (squares - 2 * (features @ wanted) + taken).argmin(keepdim=True)
        taken[point] = torch.inf
        total = total + features[point][0]
        chosen.append(point)
    return torch.cat(chosen)


def craig(gradients: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`count` of the gradients [m, d] by greedy facility location, and how many gradients are nearest to each.

    Greedy for F(S) = sum_i max_{j in S} s_ij, with s_ij = max distance - ||g_i - g_j||. Source: Mirzasoleiman et al.
    2020, and their code. It takes m^2 numbers of memory: UserError above 4 GiB. A choice waits for the host.
    """
    m = len(gradients)
    if 4 * m * m > 2**32:
        raise UserError(
            f"CRAIG compares {m} examples with each other, which takes {4 * m * m / 2**30:.0f} GiB; "
            "choose by class (balanced=true), or another method"
        )
    # in parts, between which a signal is heard: 30,000 examples at once take 29 s on a core
    part = PAIRS // m + 1
    distance = gradients.new_empty(m, m)
    for rows in torch.arange(m, device=gradients.device).split(part):
        distance[rows] = torch.cdist(gradients[rows], gradients, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = torch.stack([rows.max() for rows in distance.split(part)]).max().expand(m)  # of each to the chosen
    gains = torch.cat(
        [(nearest[:, None] - columns).sum(0, dtype=torch.float64) for columns in distance.split(part, dim=1)]
    )
    chosen: list[int] = []
    for _ in range(count):
        point = int(gains.argmax())
        chosen.append(point)
        to_point = distance[point]
        # only rows that come nearer change the gains: over all choices about m log(count) of them, not m x count; in
        # parts that stay in a cache, 64 rows of 6,000: 0.65 s a class of Fashion-MNIST, 1.0 s with 256 rows
        for rows in (to_point < nearest).nonzero()[:, 0].split(2**19 // m + 1):
            before = nearest[rows, None]
            gains -= (before - distance[rows].clamp_(to_point[rows, None], before)).sum(0, dtype=torch.float64)
        nearest = torch.minimum(nearest, to_point)
        gains[point] = -torch.inf
    index = torch.tensor(chosen, device=distance.device)
    owner = distance[index].argmin(0)
    return index, torch.zeros(count, device=distance.device).index_add_(0, owner, torch.ones_like(nearest))


def gradmatch(errors: Tensor, inputs: Tensor, count: int, regularization: float) -> tuple[Tensor, Tensor]:
    """At most `count` of m gradients, in the order they are chosen, and weights >= 0 of them.

    Gradient i is the outer product of errors[i] and inputs[i], [m, C] and [m, D], as a linear layer's is.
    Orthogonal matching pursuit for min_w ||sum_i g_i - sum_{j in S} w_j g_j||^2 + regularization ||w||^2: choose the
    gradient of the largest product with what is left, solve for the weights of all chosen, drop the most negative
    while there is one. It ends early where nothing is left to match. Source: Killamsetty et al. 2021 (GRAD-MATCH), and
    their code, which drops negative weights the same way. A choice waits for the host.
    """

    def with_all(gradient: Tensor) -> Tensor:  # its products [m]
        return ((gradient.to(errors) @ inputs.T) * errors.T).sum(0)

    errors64, inputs64 = errors.double(), inputs.double()  # the weights of many chosen are ill-conditioned
    target = errors64.T @ inputs64
    products = with_all(target)
    nothing = 1e-6 * float(products.abs().max())
    # a trace of regularisation keeps coinciding gradients solvable
    ridge = regularization + 1e-9 * (errors64.square().sum(1) * inputs64.square().sum(1)).mean()
    left, weights = products.clone(), target.new_empty(0)
    chosen: list[int] = []
    factor = target.new_zeros(count, count)  # Cholesky's, of the products of the chosen with each other
    for _ in range(count):
        left[chosen] = -torch.inf
        best = int(left.argmax())
        if not left[best] > nothing:
            break
        chosen.append(best)
        e, x = errors64[chosen], inputs64[chosen]
        k = len(chosen) - 1
        row = (e @ e[-1]) * (x @ x[-1])
        factor[k, :k] = torch.linalg.solve_triangular(factor[:k, :k], row[:k, None], upper=False)[:, 0]
        factor[k, k] = (row[k] + ridge - factor[k, :k].square().sum()).sqrt()
        while True:
            k = len(chosen)
            weights = torch.cholesky_solve(products[chosen, None].double(), factor[:k, :k])[:, 0]
            worst = int(weights.argmin())
            if weights[worst] >= 0:
                break
            del chosen[worst]
            e, x = errors64[chosen], inputs64[chosen]
            gram = (e @ e.T) * (x @ x.T) + ridge * torch.eye(k - 1, dtype=e.dtype, device=e.device)
            factor[: k - 1, : k - 1] = factored(gram)
        left = with_all(target - (e * weights[:, None]).T @ x)
    return torch.tensor(chosen, dtype=torch.int64, device=errors.device), weights.float()


def factored(gram: Tensor) -> Tensor:
    """Cholesky's factor of a matrix [k, k]; of many rows in parts, between which a signal is heard.

    5,000 rows at once take 1.2 s on a core.
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


def glister(gradients: Tensor, logits: Tensor, labels: Tensor, count: int, step: float, rounds: int) -> Tensor:
    """`count` of the gradients [m, classes] of the last bias, in order: those that lower the validation loss the most.

    Each of the `rounds` takes an equal part of them by the product with the gradient of the validation loss, of logits
    [v, classes] and labels [v], after one step of this size along the sum of what is chosen so far. Source: Killamsetty
    et al. 2021 (GLISTER), with its Taylor approximation, and their code's "RGreedy" for the last bias, in which the
    logits are linear. (DeepCore's never refreshes the gradient.) Waits for nothing.
    """
    chosen = torch.empty(0, dtype=torch.int64, device=gradients.device)
    available = torch.zeros(len(gradients), device=gradients.device)
    total = torch.zeros_like(gradients[0])
    size = -(-count // rounds)
    while len(chosen) < count:
        gradient = bias_gradients(logits - step * total, labels).mean(0)
        taken = (gradients @ gradient + available).topk(min(size, count - len(chosen))).indices
        available[taken] = -torch.inf
        total = total + gradients[taken].sum(0)
        chosen = torch.cat([chosen, taken])
    return chosen


def bias_gradients(logits: Tensor, labels: Tensor) -> Tensor:
    """softmax - onehot [m, classes]: the gradient of the cross-entropy with respect to the last layer's bias."""
    return errors(logits, labels[:, None], torch.ones_like(logits[:, :1]))


# ---- the methods


@dataclass
class Seen:
    """Of m examples: the input [m, D] of the network's last linear layer, its logits [m, classes], and labels [m]."""

    features: Tensor
    logits: Tensor
    labels: Tensor

    def __getitem__(self, rows: Tensor) -> Seen:
        return Seen(self.features[rows], self.logits[rows], self.labels[rows])

    def errors(self) -> Tensor:
        """Gradients [m, classes] of the cross-entropy by the last layer's bias.

        By all of the layer they are the outer products of these and `inputs`.
        """
        return bias_gradients(self.logits, self.labels)

    def inputs(self) -> Tensor:
        """The features and a 1 for the bias, [m, D + 1]."""
        return torch.cat([self.features, torch.ones_like(self.features[:, :1])], dim=1)


class Method(Protocol):
    """Chooses among examples. With a class attribute `needs_validation = True` it is given the held-out ones too."""

    def __call__(
        self, seen: Seen, held: Seen | None, count: int, random: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Positions [count] among the seen, the first chosen first, and their weights [count] or None (all 1)."""
        ...


@dataclass
class KCenter:
    """k_center_greedy on the features, from a random first example."""

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, None]:
        first = torch.randint(len(seen.labels), (1,), generator=random, device=seen.labels.device)
        return k_center_greedy(seen.features, count, first), None


@dataclass
class Herding:
    """herding on the features."""

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, None]:
        return herding(seen.features, count), None


@dataclass
class Craig:
    """craig on the gradients of the last bias, as the authors' code does."""

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        return craig(seen.errors(), count)


@dataclass
class GradMatch:
    """gradmatch, filled up to the count with random others of weight 1 where it ends early, as the authors' code does.

    gradients: of the "last" layer, or of its "bias" alone.
    regularization: at least 0.
    """

    gradients: str
    regularization: float

    def __post_init__(self) -> None:
        if self.gradients not in ("last", "bias"):
            raise ValueError(f"gradients={self.gradients} is not one of last, bias")
        if not 0 <= self.regularization <= 1e6:
            raise ValueError(f"regularization={self.regularization} must be in [0, 1e6]")

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        inputs = seen.inputs() if self.gradients == "last" else torch.ones_like(seen.features[:, :1])
        index, weights = gradmatch(seen.errors(), inputs, count, self.regularization)
        order = torch.randperm(len(seen.labels), generator=random, device=index.device)
        others = order[~torch.isin(order, index)][: count - len(index)]
        return torch.cat([index, others]), torch.cat([weights, torch.ones_like(others, dtype=weights.dtype)])


@dataclass
class Glister:
    """glister on the held-out examples.

    Their code chooses among all classes at once; on the digits that ends at chance level (10% of them, budget 0.3; by
    class 93%, uniform 97.8%; one seed), as one round then takes the examples of one class.
    step: at least 0; their code takes the learning rate. rounds: between which the gradient is refreshed, at least 1.
    """

    step: float
    rounds: int
    needs_validation = True

    def __post_init__(self) -> None:
        if not 0 <= self.step <= 1e6:
            raise ValueError(f"step={self.step} must be in [0, 1e6]")
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds} must be at least 1")

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, None]:
        assert held is not None
        return glister(seen.errors(), held.logits, held.labels, count, self.step, self.rounds), None


@dataclass
class Chosen:
    """index: int64 [k], the chosen examples. place: [k], in (0, 1], 1 for the first of its class, or of all.

    weight: [k] or None, with mean 1.
    """

    index: Tensor
    place: Tensor
    weight: Tensor | None


def check(context: Context, method: Method, fraction: float, balanced: bool, where: str) -> None:
    """Raise UserError where the data do not allow such a choice; `where` is the group, for messages."""
    if getattr(method, "needs_validation", False) and context.validation is None:
        raise UserError(f"{where}={type(method).__name__.lower()} chooses by held-out examples; set validation=0.1")
    if not any(count for _, count in groups(context, fraction, balanced)):
        raise UserError(f"{where}: {fraction:g} of the {context.n} examples is not even one; choose more of them")


def groups(context: Context, fraction: float, balanced: bool) -> Iterator[tuple[Tensor, int]]:
    """The examples to choose among, class by class or all at once, and how many."""
    every = torch.arange(context.n, device=context.device)
    for rows in [every[context.labels == c] for c in range(context.classes)] if balanced else [every]:
        yield rows, round(fraction * len(rows))


def choose(context: Context, method: Method, fraction: float, balanced: bool) -> Chosen:
    """A part of the training examples, of each class if `balanced`, by the network as it is.

    Looks at every un-augmented example once, and at the held-out ones if the method does; charged.
    """
    seen = look(context, context.everything(), context.labels)
    held = None
    if getattr(method, "needs_validation", False) and (batch := context.validation) is not None:
        held = look(context, batch.split(context.batch_size), batch.label[:, 0])
    index, place, weight = [], [], []
    for rows, count in groups(context, fraction, balanced):
        if count:
            found, weights = method(seen[rows], held, count, context.random.device)
            index.append(rows[found])
            place.append(1 - torch.arange(count, device=rows.device) / len(rows))
            weight += [] if weights is None else [weights]
    weights = torch.cat(weight) if weight else None
    return Chosen(torch.cat(index), torch.cat(place), None if weights is None else weights / weights.mean())


def look(context: Context, parts: Iterator[Batch] | list[Batch], labels: Tensor) -> Seen:
    features, logits = zip(*map(context.embed, parts), strict=True)
    return Seen(torch.cat(features), torch.cat(logits), labels)
