"""Core-sets: a few examples that represent all of them, chosen by a network's output for each.

Each method has its own file beside this one. This module is how a sampler or a scorer calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from budgetrun.contracts import Batch, ByFeatures, Context, UserError
from budgetrun.softmax import errors


@dataclass
class Seen:
    """Of m examples: the input [m, D] of the network's last linear layer, its logits [m, classes], and labels [m]."""

    features: Tensor
    logits: Tensor
    labels: Tensor

    def __getitem__(self, rows: Tensor) -> Seen:
        return Seen(self.features[rows], self.logits[rows], self.labels[rows])

    def errors(self) -> Tensor:
        """Gradients [m, classes] of the cross-entropy with respect to the last layer's bias.

        With respect to the whole layer, they are the outer products of these and `inputs`.
        """
        return bias_gradients(self.logits, self.labels)

    def inputs(self) -> Tensor:
        """The features and a 1 for the bias, [m, D + 1]."""
        return torch.cat([self.features, torch.ones_like(self.features[:, :1])], dim=1)


class Method(Protocol):
    """Chooses among examples. Optional: NeedsValidation, and contracts.ByFeatures, without logits if from a file."""

    def __call__(
        self, seen: Seen, held: Seen | None, count: int, random: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Positions [count] in `seen`, in the order of the choice, and their weights [count], or None if all are 1.

        A method that chooses whole batches returns some more.
        """
        ...


@runtime_checkable
class NeedsValidation(Protocol):
    """A method that says whether it needs the held-out examples too."""

    needs_validation: bool


def needs_validation(method: object) -> bool:
    return isinstance(method, NeedsValidation) and method.needs_validation


@dataclass
class Chosen:
    """index: int64 [k], the chosen examples. place: [k], in (0, 1], 1 for the first of its class, or of all.

    weight: [k] or None, with mean 1.
    """

    index: Tensor
    place: Tensor
    weight: Tensor | None


COUNTS = ("round", "ceil", "equal")


def check_counts(counts: str) -> None:
    """Raise ValueError if `counts` is unknown."""
    if counts not in COUNTS:
        raise ValueError(f"counts={counts} is not one of {', '.join(COUNTS)}")


def check(context: Context, method: Method, fraction: float, balanced: bool, counts: str, where: str) -> None:
    """Raise UserError if the data do not allow such a choice. where: the group, for messages."""
    if needs_validation(method) and context.validation is None:
        raise UserError(f"{where}={type(method).__name__.lower()} chooses by held-out examples; set validation=0.1")
    if not any(count for _, count in groups(context, fraction, balanced, counts)):
        raise UserError(f"{where}: {fraction:g} of the {context.n} examples is not even one; choose more of them")
    check_features(context, method)


def check_features(context: Context, part: object) -> None:
    """Raise UserError if a part's file of features, or the model's features, cannot be used: before any training."""
    if isinstance(part, ByFeatures) and part.features is not None:
        context.read_features(part.features)
    else:
        context.needs_features()


def seen_by(context: Context, part: object, scale: float = 1.0) -> Seen:
    """All examples as a part sees them: by its file of features, or by the current network, which is charged."""
    if isinstance(part, ByFeatures) and part.features is not None:
        features = context.read_features(part.features)
        return Seen(features, features[:, :0], context.labels)
    return look(context, context.everything(), context.labels, scale)


def groups(context: Context, fraction: float, balanced: bool, counts: str) -> Iterator[tuple[Tensor, int]]:
    """The examples to choose among, class by class or all at once, and how many."""
    every = torch.arange(context.n, device=context.device)
    total = round(fraction * context.n)
    if not balanced:
        yield every, total
        return
    of_class = torch.zeros(context.classes, dtype=torch.int64, device=context.device)
    of_class.index_add_(0, context.labels, torch.ones_like(every))  # bincount would make the host wait three times
    for rows in context.labels.argsort(stable=True).split(of_class.tolist()):
        match counts:
            case "round":
                count = round(fraction * len(rows))
            case "ceil":
                count = -(-total * len(rows) // context.n)
            case _:
                count = min(-(-total // context.classes), len(rows))
        yield rows, count


def choose(
    context: Context, method: Method, fraction: float, balanced: bool, counts: str, scale: float = 1.0
) -> Chosen:
    """Choose a part of the training examples, of each class if `balanced`, with the current network.

    counts: how many of each class, if `balanced`: its share, rounded by "round" or "ceil"; or "equal", the same
    number of each, and all of a class that has fewer. scale: of the images in looks.
    Looks at every un-augmented example once, unless the method has features from a file, and at the held-out ones if
    the method needs them; all is charged.
    """
    seen = seen_by(context, method, scale)
    held = None
    if needs_validation(method) and (batch := context.validation) is not None:
        held = look(context, batch.split(context.batch_size), batch.label[:, 0], scale)
    index, place, weight = [], [], []
    for rows, count in groups(context, fraction, balanced, counts):
        if count:
            found, weights = method(seen[rows], held, count, context.random.device)
            index.append(rows[found])
            place.append(1 - torch.arange(len(found), device=rows.device) / len(rows))
            weight += [] if weights is None else [weights]
    weights = torch.cat(weight) if weight else None
    return Chosen(torch.cat(index), torch.cat(place), None if weights is None else weights / weights.mean())


def look(context: Context, parts: Iterator[Batch] | list[Batch], labels: Tensor, scale: float = 1.0) -> Seen:
    features, logits = zip(*(context.embed(part, scale) for part in parts), strict=True)
    return Seen(torch.cat(features), torch.cat(logits), labels)


def bias_gradients(logits: Tensor, labels: Tensor) -> Tensor:
    """softmax - onehot [m, classes]: the gradient of the cross-entropy with respect to the last layer's bias."""
    return errors(logits, labels[:, None], torch.ones_like(logits[:, :1]))
