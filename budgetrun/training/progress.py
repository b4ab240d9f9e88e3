"""What a run shows while it runs: a bar on a terminal, and one line per evaluation everywhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

from budgetrun.config import Experiment
from budgetrun.contracts import Data, Selects
from budgetrun.digits import quantity, short
from budgetrun.training.budget import Budget
from budgetrun.training.network import Network

log = logging.getLogger("budgetrun")
UNITS = {
    "updates": "updates",
    "examples": "images trained on",
    "flops": "FLOPs, looks included,",
    "seconds": "seconds, choosing included,",
}


def plan(experiment: Experiment, data: Data, network: Network, budget: Budget) -> list[str]:
    """What a run is about to do, in lines: what it trains on what, for how much, and what may surprise."""
    settings, names, sampler = experiment.settings, experiment.names, experiment.sampler
    weights = sum(parameter.numel() for parameter in network.net.parameters())
    parts = [f"{len(sampler.selection()):,} of them used"] if isinstance(sampler, Selects) else []
    parts += [] if data.corrupted is None else [f"{int(data.corrupted.sum()):,} corrupted by noise={names['noise']}"]
    chosen = [f"{group}={names[group]}" for group in ("sampler", "select", "aug") if group in names]
    chosen += [f"scores={names['scores']}"] if experiment.scores is not None else []
    more = f" ({', '.join(parts)})" if parts else ""
    full = budget.full * budget.step
    model = " ".join(map(str, filter(None, [names["model"], experiment.resolved["model"].get("name")])))  # as timm's
    said = [
        f"{model} with {weights:,} weights on {names['dataset']}, {len(data.labels):,} training images"
        f"{more}: {', '.join(chosen)}, seed={settings.seed}",
        f"budget={settings.budget:g}: {short(budget.allowed)} of the {short(full)} {UNITS[budget.unit]} of a full "
        f"training run ({quantity(settings.epochs, 'epoch')})",
    ]
    layers = len(network.layers) if experiment.freeze is not None else 0
    frozen = experiment.freeze.frozen(0.0, layers) if experiment.freeze is not None else 0
    if frozen and settings.init_from is None:  # no refusal: a model of one's own may load its weights itself
        said.append(
            f"freeze={names['freeze']} without init_from: {frozen} of {layers} layers keep the weights that the model "
            "is built with, which are random unless it loads some itself"
        )
    return said


class Progress:
    """The share of the budget spent, the time left, images trained on per second, and the last test accuracy."""

    def __init__(self, budget: Budget) -> None:
        from tqdm import tqdm

        self.budget = budget
        self.bar = tqdm(
            total=100.0,
            initial=self.percent(),
            leave=False,
            disable=not sys.stderr.isatty(),
            bar_format="{n:5.1f}% of the budget |{bar:30}| {remaining} left{postfix}",
        )
        self.accuracy: float | None = None
        self.drawn = 0.0
        self.mark()

    def percent(self) -> float:
        return 100 * self.budget.share

    def mark(self) -> None:
        self.since, self.images = self.budget.seconds_now(), self.budget.examples_backward

    def images_per_second(self) -> float:
        return (self.budget.examples_backward - self.images) / max(1e-9, self.budget.seconds_now() - self.since)

    def step(self) -> None:
        if not self.bar.disable and time.perf_counter() - self.drawn > 0.2:
            self.drawn = time.perf_counter()
            accuracy = "" if self.accuracy is None else f", test accuracy {100 * self.accuracy:.2f} %"
            self.bar.set_postfix_str(f"{self.images_per_second():,.0f} images/s{accuracy}", refresh=False)
            self.bar.update(self.percent() - self.bar.n)

    def evaluated(self, line: dict[str, Any]) -> None:
        """Show a line of metrics; called with the clock stopped, so that the evaluation's own time does not count."""
        self.accuracy = line["test_accuracy"]
        validation = f", val accuracy {100 * line['val_accuracy']:.2f} %" if "val_accuracy" in line else ""
        log.info(
            "%5.1f%% of the budget, update %d: lr %.3g, train loss %.4f, test accuracy %.2f %%%s, %s images/s",
            100 * line["progress"],
            line["updates"],
            line["lr"],
            line["train_loss"],
            100 * line["test_accuracy"],
            validation,
            f"{self.images_per_second():,.0f}",
        )


@contextlib.contextmanager
def shown(budget: Budget) -> Iterator[Progress]:
    """A Progress whose log lines do not break its bar."""
    progress = Progress(budget)
    redirected: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if not progress.bar.disable:
        from tqdm.contrib.logging import logging_redirect_tqdm  # in a notebook, it would warn of a missing widget

        redirected = logging_redirect_tqdm()
    with redirected:
        try:
            yield progress
        finally:
            progress.bar.close()


def duration(seconds: float) -> str:
    """A length of time in words, to two digits."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} seconds"
