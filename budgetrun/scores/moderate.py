"""Moderate: examples at the median distance from the middle of their class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context, path_or_none
from budgetrun.coreset.choice import check_features, seen_by


@dataclass
class Moderate:
    """How near an example's distance from its class is to the median of all distances, by rank.

    `-|rank / (n - 1) - 1/2|` of the Euclidean distance between the example's features, the input of the last layer, and
    their median in its class, component by component. So a sampler that keeps the highest scores keeps the middle.
    (The authors' file names the examples to leave out, and their `--rate` is the part kept. The function of this name
    in the code of D2 pruning keeps the two ends.)
    Source: Xia et al. 2023, and their code.
    Cost: `n F` at the end, included in the file's cost; none with features from a file.

    features: path of a file of features, as a run with save_features=true writes it; null: those of the run.
    """

    neutral: ClassVar = {"features": None}

    features: str | None

    def __post_init__(self) -> None:
        self.features = path_or_none("features", self.features)

    def start(self, context: Context) -> None:
        self.context = context
        check_features(context, self)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def scores(self) -> dict[str, Tensor]:
        n, labels = self.context.n, self.context.labels
        features = seen_by(self.context, self).features.float()
        distance = torch.zeros_like(features[:, 0])
        for label in labels.unique().tolist():
            rows = labels == label
            distance[rows] = (features[rows] - median(features[rows])).norm(dim=1)
        rank = distance.argsort(stable=True).argsort()
        return {"score": -(rank / max(n - 1, 1) - 0.5).abs()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def median(rows: Tensor) -> Tensor:
    """Of each column of [m, D]; the mean of the two in the middle, where torch's own takes the lower."""
    ordered, m = rows.sort(dim=0).values, len(rows)
    return (ordered[(m - 1) // 2] + ordered[m // 2]) / 2
