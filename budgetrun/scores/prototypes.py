"""Prototypes: how unlike an example is to the typical one of its class, or of its cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from budgetrun.contracts import Batch, Context, UserError, path_or_none
from budgetrun.coreset.choice import check_features, seen_by


@dataclass
class Prototypes:
    """1 minus the cosine between an example's features, the input of the last layer, and its prototype.

    The prototype is the mean of the features of its class, or the nearest centre, by the Euclidean distance, of a
    k-means clustering of the features as they are, by scikit-learn (ours). According to the paper, the highest scores
    are to be kept where there are plenty of data, and the lowest where there are few.
    Source: Sorscher et al. 2022, not checked against code, which is not public. They cluster features of a
    self-supervised network.
    Cost: `n F` at the end, included in the file's cost; none with features from a file. For 50,000 examples with 128
    features and 1,000 centres, k-means takes 16 s of a core to initialise, and half a second per iteration (at most
    300).

    centres: number of clusters; null: the classes. features: path of a file of features, as a run with
    save_features=true writes it; null: those of the run.
    """

    neutral: ClassVar = {"features": None}

    centres: int | None
    features: str | None

    def __post_init__(self) -> None:
        self.features = path_or_none("features", self.features)
        if self.centres is not None and self.centres < 1:
            raise ValueError(f"centres={self.centres} must be at least 1, or null for the classes")

    def start(self, context: Context) -> None:
        if self.centres is not None and self.centres > context.n:
            raise UserError(f"scores.centres={self.centres} is more than the {context.n} examples")
        self.context = context
        check_features(context, self)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def scores(self) -> dict[str, Tensor]:
        labels = self.context.labels
        features = seen_by(self.context, self).features.float()
        if self.centres is None:
            sums = features.new_zeros(self.context.classes, features.shape[1]).index_add(0, labels, features)
            prototypes = (sums / labels.bincount(minlength=len(sums)).clamp(min=1)[:, None])[labels]
        else:
            prototypes = nearest_centres(features, self.centres, int(self.context.random.host.integers(2**31)))
        return {"score": 1 - nn.functional.cosine_similarity(features, prototypes)}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def nearest_centres(features: Tensor, centres: int, seed: int) -> Tensor:
    """The centre nearest to each of the features [n, D] after k-means, [n, D]."""
    from sklearn.cluster import KMeans  # takes a second to import

    found = KMeans(centres, n_init=1, random_state=seed).fit(features.cpu().numpy())
    return torch.from_numpy(found.cluster_centers_[found.labels_]).to(features)
