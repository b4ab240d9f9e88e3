"""What a run leaves for other runs, tables and reports: kept.csv, scores.csv, selected.npz, features.npz."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.config import Experiment
from budgetrun.contracts import Additive, Context, Data, OfKind, OfPart, Scorer, Selects
from budgetrun.folder import features, scorefile, selected
from budgetrun.folder.run import RunFolder
from budgetrun.identity import made_files
from budgetrun.training.budget import Budget
from budgetrun.training.data import digest
from budgetrun.training.diagnostics import Diagnostics
from budgetrun.training.network import Network
from budgetrun.training.returned import check_columns


@dataclass
class Files:
    """Writes them, each whole or not at all. Of several processes, all go through a method, and the first one writes.

    fingerprint: of the clean data. commit: of the code, None if unknown.
    """

    experiment: Experiment
    folder: RunFolder
    data: Data
    fingerprint: str
    budget: Budget
    network: Network
    commit: str | None

    def origin(self, group: str, labels: Tensor, runs: dict[str, int]) -> dict[str, Any]:
        """What the first line of a file says: which examples it is about, what made it, and the cost."""
        return {
            "dataset_fingerprint": self.fingerprint,
            "labels_fingerprint": digest(labels),
            "method": self.experiment.names[group],
            "run_id": self.experiment.run_id,
            "flops": sum(runs.values()),
            "runs": runs,
            "commit": self.commit,
        }

    def kept(self, sampler: Selects) -> None:
        """Write the examples that the run trains on, and the runs that led to them."""
        about = {
            "kind": "kept",
            **self.origin("sampler", self.data.labels, self.budget.before),
            "parents": [f"{path.parent.name}/{path.name}" for path in made_files(self.experiment.resolved)],
            "of": len(self.data.labels),
        }
        columns = {"index": sampler.selection().sort().values}
        self.network.world.of_first(lambda: scorefile.write(self.folder.kept_path, columns, about))

    def scores(self, scorer: Scorer) -> None:
        """Write the scorer's file, with what its scores are about, and the recall of each example's class if known."""
        data, network = self.data, self.network
        with network.as_compiled():
            columns = scorer.scores()
        held_out = data.val_labels if isinstance(scorer, OfPart) and scorer.of == "validation" else None
        labels = data.labels if held_out is None else held_out
        check_columns(columns, len(labels), scorer)
        if held_out is None and data.val_images is not None and data.val_labels is not None:
            recalls = network.recalls(data.val_images, data.val_labels, data.classes)[labels]
            columns = {**columns, "recall": recalls[columns["index"]] if "index" in columns else recalls}
        about = self.origin("scores", labels, self.runs())
        if isinstance(scorer, OfKind):
            about["kind"] = scorer.kind

        def write() -> None:
            more = {}
            if isinstance(scorer, Additive):
                scorer.sums.replace(self.folder.sums_path)
                more = scorefile.additive(self.folder.sums_path, scorer.taken, scorer.acquisition)
            scorefile.write(self.folder.scores_path, columns, {**about, **more})

        network.world.of_first(write)

    def selected(self, diagnostics: Diagnostics) -> None:
        """Write how often each example was trained on, and the most and least selected ones with small images."""
        data = self.data

        def write() -> None:  # the images are read by the first process alone
            index = diagnostics.extremes(selected.COUNT)
            clean = torch.zeros_like(index, dtype=torch.bool)
            columns = {
                "index": index if data.position is None else data.position[index],
                "visits": diagnostics.visits[index],
                "label": data.labels[index],
                "corrupted": clean if data.corrupted is None else data.corrupted[index],
                "image": small(data.images[index]),
            }
            host = {name: values.cpu().numpy() for name, values in columns.items()}
            selected.write(self.folder.selected_path, diagnostics.visits.cpu().numpy(), host)

        self.network.world.of_first(write)

    def features(self, context: Context) -> None:
        """Write the input of the last layer of the final network for every training example, un-augmented."""
        # all of them may not fit on the device
        parts = [context.embed(batch)[0].cpu() for batch in context.everything()]
        about = self.origin("model", context.labels, self.runs())
        self.network.world.of_first(lambda: features.write(self.folder.features_path, parts, about))

    def runs(self) -> dict[str, int]:
        """The FLOPs of the runs that led to a file, this one included."""
        return {**self.budget.before, self.experiment.run_id: self.budget.flops}


def small(images: Tensor) -> Tensor:
    """Images uint8 [n, C, H, W] to look at: uint8 [n, 1 or 3, h, w], at most selected.LARGEST pixels per side."""
    shown = images.float()
    if shown.shape[1] not in (1, 3):
        shown = shown.mean(1, keepdim=True)
    height, width = shown.shape[2:]
    if max(height, width) > selected.LARGEST:
        smaller = [max(1, round(side * selected.LARGEST / max(height, width))) for side in (height, width)]
        shown = torch.nn.functional.interpolate(shown, smaller, mode="area")
    return shown.round().to(torch.uint8)
