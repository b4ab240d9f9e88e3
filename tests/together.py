"""One of several processes that train runs together: `torchrun ... together.py FOLDER LINE ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from cli import checked
from torch import nn

from budgetrun.train import run


@dataclass
class Plain:
    """Two layers without BatchNorm, whose statistics would be those of a process's own share."""

    def build(self, channels: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, 32), nn.ReLU(), nn.Linear(32, classes))


def trained(line: str, folder: Path, change: Callable[[Any], Any] = lambda experiment: experiment) -> dict[str, Any]:
    """Train, and return what each update was trained on, the weights at the end, and the result."""
    made = change(replace(checked(*line.split(), f"output_dir={folder}"), model=Plain()))
    if hasattr(made.sampler, "model"):
        made.sampler.model = Plain()
    drawn, really = [], made.sampler.draw

    def draw() -> Any:
        batch = really()
        drawn.append((batch.drawn.clone(), batch.index.clone()))
        return batch

    made.sampler.draw = draw  # type: ignore[method-assign]
    result = run(made)
    state = torch.load(folder / made.run_id / "checkpoint.pt", weights_only=True)
    return {"drawn": drawn, "weights": state["model"], "result": result, "folder": str(folder / made.run_id)}


def main() -> None:
    torch.set_num_threads(1)
    folder, *lines = sys.argv[1:]
    found = [trained(line, Path(folder) / str(number)) for number, line in enumerate(lines)]
    if torch.distributed.get_rank() == 0:
        torch.save(found, Path(folder) / "found.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
