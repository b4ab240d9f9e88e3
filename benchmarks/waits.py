"""`python -m benchmarks.waits [override ...]`: how often the host waits for the device in an update, and what for.

It trains on a pretended CUDA device (pretended_cuda.py), so it needs no GPU. Without overrides, it prints the table of
docs/gpu.md: every option of the groups below, each with the defaults of the others. With overrides, it prints one line
for them, such as those of a sampler of your own.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from benchmarks.pretended_cuda import pretended_cuda
from budgetrun.config import Experiment, experiment
from budgetrun.errors import UserError
from budgetrun.folder import scorefile
from budgetrun.launch import plugins
from budgetrun.launch.command import CONF, composed
from budgetrun.launch.compose import task_part
from budgetrun.train import run
from budgetrun.training.budget import Budget
from budgetrun.training.data import fingerprint, load

# 6 updates in two epochs of 431 digits
SHORT = ["validation=0.7", "model.width=2", "batch_size=128", "epochs=2", "evaluations=1", "device=cuda", "force=true"]
GROUPS = ("sampler", "aug", "noise", "scores", "loss", "optimizer", "schedule")
# what an option needs to be at work in a run as short as this
AT_WORK = {
    "sampler=craig": "sampler.every=30",  # it would choose anew in nearly every update
    "sampler=is": "sampler.threshold=0",  # an open gate, so that it looks
    "sampler=vr": "sampler.threshold=0",
    "sampler=sb": "sampler.prime=0",
    "sampler=sb_batchwise": "sampler.begin=0 sampler.interrupt=3",
    "sampler=osgd": "sampler.thresholds=[0.000001]",
    "sampler=pacing": "sampler.file={file}",
    "sampler=self_paced": "sampler.until=1",
    "sampler=rho": "sampler.pool=2 sampler.file={file}",
    "sampler=subset": "sampler.file={file}",
    "scores=dual": "epochs=4",  # it needs several visits
    "scores=dyn_unc": "epochs=4",
    "scores=tdds": "epochs=4",
    "scores=eva": "epochs=4 scores.early=[0,0.5] scores.late=[0.5,1]",
}
NEED_FILES = ("noise=cifar10n", "noise=cifar100n")  # people's labels


@dataclass
class Measured:
    """A run on the pretended device. operations: on it, per update. waits: during updates, by place and reason."""

    updates: int
    operations: float
    waits: Counter[tuple[str, str]]


def measured(asked: Experiment) -> Measured:
    """Train, and count while the budget's clock is running: evaluations and files may wait."""
    begin, end = Budget.start, Budget.stop
    seen: Counter[tuple[str, str]] = Counter()
    operations = 0
    with pretended_cuda() as device, tempfile.TemporaryDirectory() as folder:
        device.counting = False

        def start(budget: Budget) -> None:
            device.counting = True
            begin(budget)

        def stop(budget: Budget) -> None:
            nonlocal seen, operations
            seen, operations = device.waits.copy(), device.operations  # the last time, the loop is over
            device.counting = False
            end(budget)

        asked = copy.deepcopy(asked)
        asked.settings.output_dir = folder
        with (
            mock.patch.object(Budget, "start", start),
            mock.patch.object(Budget, "stop", stop),
            mock.patch("budgetrun.training.views.AHEAD_BYTES", 0),  # as with large images: one batch at a time
        ):
            updates = run(asked)["updates"]
        return Measured(updates, operations / updates, seen)


def checked(overrides: list[str]) -> Experiment:
    plugins.register()
    cfg = composed([], [*SHORT, *overrides])
    return experiment(task_part(cfg), cfg.hydra.runtime.choices)


def options() -> list[str]:
    """Every option of the groups, as an override."""
    found = [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
    return [option for option in found if option not in NEED_FILES]


def overrides_of(option: str, file: Path) -> list[str]:
    """The overrides of an option at work. file: scores, for those that read some."""
    return [option, *AT_WORK.get(option, "").format(file=file).split()]


def write_scores(path: Path) -> Path:
    """A file of scores of the digits."""
    data = load(checked([]))
    columns = {"score": torch.rand(len(data.labels), generator=torch.Generator().manual_seed(0))}
    scorefile.write(path, columns, {"dataset_fingerprint": fingerprint(data)})
    return path


def row(name: str, found: Measured) -> str:
    total = sum(found.waits.values()) / found.updates
    places = "; ".join(f"`{place}`: {why}" for place, why in sorted(found.waits))
    return f"| {name} | {found.operations:.0f} | {total:.2f} | {places} |"


def table() -> Iterator[str]:
    """Every option that makes the host wait, with places and reasons; then, group by group, those that do not."""
    without: dict[str, list[str]] = {group: [] for group in GROUPS}
    with tempfile.TemporaryDirectory() as folder:
        file = write_scores(Path(folder) / "scores.csv")
        for option in options():
            found = measured(checked(overrides_of(option, file)))
            if found.waits:
                yield row(f"`{option}`", found)
            else:
                group, _, name = option.partition("=")
                without[group].append(f"`{name}` {found.operations:.0f}")
    yield "\nWithout a wait, and the operations of an update:\n"
    yield from (f"- {group}: {', '.join(names)}" for group, names in without.items() if names)


def main() -> int:
    torch.set_num_threads(1)
    print("| | operations per update | waits per update | where, and why |\n| --- | --- | --- | --- |")
    try:
        if sys.argv[1:]:
            print(row(f"`{' '.join(sys.argv[1:])}`", measured(checked(sys.argv[1:]))))
        else:
            for line in table():
                print(line, flush=True)
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
