"""The similarity of examples by their gradients of the last layer, without the gradients themselves."""

from __future__ import annotations

from torch import Tensor, nn

from budgetrun.coreset.choice import Seen


class Similarity:
    """Cosines of the cross-entropy's gradients with respect to the last layer, weights and bias, of m examples.

    A gradient is the outer product of the error (softmax - onehot) and the layer's input with a 1, so that a cosine of
    gradients is the product of the two cosines. Nothing of size m x m is stored.
    """

    def __init__(self, seen: Seen) -> None:
        self.errors, self.inputs = (nn.functional.normalize(rows, dim=1) for rows in (seen.errors(), seen.inputs()))

    def to(self, point: Tensor) -> Tensor:
        """Of all to one, [m]; point: its position, [1]."""
        return (self.errors @ self.errors[point][0]) * (self.inputs @ self.inputs[point][0])

    def to_themselves(self) -> Tensor:
        """Of each to itself, [m]: 1, or 0 if its gradient is 0."""
        return self.errors.square().sum(1) * self.inputs.square().sum(1)

    def sums(self) -> Tensor:
        """Of each, the sum over all, [m]."""
        return ((self.errors @ (self.errors.T @ self.inputs)) * self.inputs).sum(1)
