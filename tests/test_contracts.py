"""What the shared types say about parts that are used for the wrong purpose, or do not go together."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from cli import CONF, OPTIONS
from hydra.utils import get_object

from budgetrun import contracts
from budgetrun.acquisition import MOST_MEMBERS
from budgetrun.aug.augmix import AugMix
from budgetrun.aug.crop import Crop
from budgetrun.aug.mixup import Mixup
from budgetrun.aug.ricap import RICAP
from budgetrun.config import Experiment
from budgetrun.contracts import MOST, Batch, Context, Schedule, UserError, check_row, check_schedule, fits, passes, path
from budgetrun.coreset.choice import Method
from budgetrun.launch.preflight import Preflight
from budgetrun.sampler.uniform import Uniform
from budgetrun.schedule.constant import Constant
from budgetrun.schedule.cosine import Cosine
from budgetrun.schedule.linear import Linear
from budgetrun.schedule.step import Step

PROTOCOLS: dict[str, Any] = {
    "dataset": contracts.Dataset,
    "model": contracts.Model,
    "sampler": contracts.Sampler,
    "select": contracts.Rule,
    "aug": contracts.Augmentation,
    "noise": contracts.Noise,
    "freeze": contracts.Freezing,
    "loss": contracts.Loss,
    "optimizer": contracts.Optimizer,
    "schedule": contracts.Schedule,
    "scores": contracts.Scorer,
    "logger": contracts.Logger,
    "coreset": Method,
}


# the classes that options name, and the groups whose folders or modules they are in
TARGETS = {
    target: target.split(".")[1]
    for group, option in OPTIONS
    for target in re.findall(r"_target_: ([\w.]+)", (CONF / group / f"{option}.yaml").read_text())
}


def test_every_component_fits_its_own_group_and_no_other() -> None:
    assert set(TARGETS.values()) == set(PROTOCOLS)
    for target, group in TARGETS.items():
        part = object.__new__(get_object(target))
        for other, protocol in PROTOCOLS.items():
            assert (fits(part, protocol) is None) == (group == other), f"{target} as {other}"


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([2, 0, 2]), torch.tensor([True, False, True])], ids=type)
def test_rows_of_a_batch_are_chosen_by_a_slice_numbers_or_a_mask(rows: Any) -> None:
    images = torch.arange(3 * 4, dtype=torch.uint8).view(3, 1, 2, 2)
    plain = Batch.plain(images, torch.tensor([5, 6, 7]), torch.tensor([1, 0, 1]))
    for weight in (None, torch.tensor([0.5, 1.0, 2.0])):
        taken = replace(plain, weight=weight)[rows]
        which = torch.arange(3)[rows].tolist()
        assert taken.images.tolist() == [images[row].tolist() for row in which]
        assert taken.drawn.tolist() == [5 + row for row in which]
        assert (taken.index[:, 0].tolist(), len(taken)) == (taken.drawn.tolist(), len(which))
        assert taken.label[:, 0].tolist() == [[1, 0, 1][row] for row in which]
        assert taken.share.tolist() == [[1.0]] * len(which)
        assert (taken.weight is None) == (weight is None)
        assert weight is None or taken.weight is None or taken.weight.tolist() == [[0.5, 1.0, 2.0][r] for r in which]


class Mine:
    """Parts as a user might write them."""

    def __call__(self, lr: Any, progress: Any) -> Any:
        return lr

    def load(self, folder: Any, *, checked: Any = False) -> Any:
        return None

    def build(self, *sizes: int) -> Any:
        return None

    def apply(self, data: Any) -> Any:
        return data

    draw = 3


class Sized:
    """Models that ask for the image size, by its name or by another one."""

    def build(self, channels: int, classes: int, image_size: int) -> Any:
        return None


class Misnamed:
    def build(self, channels: int, classes: int, size: int) -> Any:
        return None


class Rounding:
    def __call__(self, lr: int, progress: Unknown) -> float:  # noqa: F821
        return lr


@pytest.mark.parametrize(
    ("part", "group", "why"),
    [
        (Mine(), "schedule", None),
        (Mine(), "dataset", None),
        (Mine(), "model", None),
        (Sized(), "model", None),
        (Misnamed(), "model", "it has no method build with channels, classes, or also image_size"),
        (lambda a, b: a, "loss", None),
        (Rounding(), "schedule", None),
        (max, "schedule", None),
        (Mine(), "noise", "it has no method apply with data, random"),
        (Mine(), "sampler", "it has no method start"),
        (object(), "loss", "it cannot be called"),
        (lambda batch: batch, "aug", "it cannot be called with batch, random"),
        (Linear(final=0), "loss", "the lr of __call__ is a float, and must be a Tensor"),
        (RICAP, "sampler", "it has no method start"),
    ],
)
def test_what_a_part_lacks_is_reported(part: Any, group: str, why: str | None) -> None:
    assert fits(part, PROTOCOLS[group]) == why


def test_images_are_mixed_once() -> None:
    check_row([Crop(1), RICAP(0.3, "batch")])
    with pytest.raises(UserError, match=r"aug=\[mixup,ricap\]"):
        check_row([Mixup(0.3, "batch"), Crop(1), RICAP(0.3, "batch")])


def test_further_views_come_last_and_once() -> None:
    plain, views = (AugMix(3.0, 3, None, 1.0, False, consistency) for consistency in (0.0, 12.0))
    for steps in ([RICAP(0.3, "batch"), views], [plain, Crop(1), views], [views]):
        check_row(steps)
        assert passes(steps) == 3
    assert passes([plain, Crop(1)]) == 1
    for steps in ([views, Crop(1)], [views, views]):
        with pytest.raises(UserError, match="comes after a step with a consistency loss"):
            check_row(steps)


class Wrong:
    def __call__(self, lr: float, progress: float) -> float:
        return lr - progress


@pytest.mark.parametrize(
    ("schedule", "lr", "words"),
    [
        (Constant(), 1e-12, None),
        (Linear(final=0.1), 0.1, None),
        (Cosine(final=0.0), 0.1, None),
        (Step(milestones=[0.5], factor=0.1), 0.1, None),
        (Linear(final=0.1), 0.09, "lr=0.09 is below the learning rate that the schedule ends with, 0.1"),
        (Cosine(final=0.2), 0.1, "ends with, 0.2"),
        (Wrong(), 0.2, "-0.3 at 50%"),
        (lambda lr, progress: float("nan"), 0.2, "nan at 0%"),
    ],
)
def test_learning_rates_are_numbers_that_do_not_end_above_the_first(schedule: Schedule, lr: float, words: str) -> None:
    if words is None:
        return check_schedule(schedule, lr)
    with pytest.raises(UserError, match=words):
        check_schedule(schedule, lr)


@pytest.mark.parametrize("text", ["", "  ", "a\0b", "~nobody_of_this_name"])
def test_a_value_that_is_not_a_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^file="):
        path("file", text)


def test_a_path_stays_as_it_is_but_for_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert [path("file", text) for text in ("a/b", "/x/*.csv", "./~a", "~", "~/a")] == [
        "a/b",
        "/x/*.csv",
        "./~a",
        "/home/me",
        "/home/me/a",
    ]


AUGMIX = {"severity": 3.0, "width": 3, "depth": 1, "alpha": 1.0, "all_operations": False, "consistency": 0.0}
PACING = {"file": "a.csv", "order": "lowest", "pace": "linear", "balanced": True}
BANDIT = {"score": "ucb", "keep": 0.5, "epsilon": 0.1, "alpha": 0.8, "confidence": 1.0, "every": 1}
KAKURENBO = {"fraction": 0.3, "milestones": [], "factors": [], "tau": 0.7}
KAKURENBO |= {"confidence": "classes", "scale_lr": True, "looks": "eval"}
SETA = {"ratio": 0.1, "groups": 5, "window": 1.0, "delta": 0.875}
# class, its other values, a field, and the ends of its range
RANGES = [
    ("aug.mixup.Mixup", {"draw": "batch"}, "alpha", 1e-6, 1e6),
    ("aug.cutmix.CutMix", {"draw": "batch", "probability": 1.0}, "alpha", 1e-6, 1e6),
    ("aug.ricap.RICAP", {"draw": "batch"}, "beta", 1e-6, 1e6),
    ("aug.randaugment.RandAugment", {"magnitude": 4, "ranges": "arazo2021"}, "operations", 0, 100),
    ("aug.cutout.Cutout", {"fill": [0.5]}, "side", 1e-6, 1),
    ("aug.random_erasing.RandomErasing", {"area": [0, 1], "ratio": 1, "fill": None}, "probability", 0, 1),
    ("aug.augmix.AugMix", AUGMIX, "severity", 0.1, 10),
    ("aug.augmix.AugMix", AUGMIX, "width", 1, 100),
    ("aug.augmix.AugMix", AUGMIX, "depth", 1, 100),
    ("aug.augmix.AugMix", AUGMIX, "alpha", 1e-6, 1e6),
    ("aug.augmix.AugMix", AUGMIX, "consistency", 0, 1e6),
    ("coreset.gradmatch.GradMatch", {"gradients": "last"}, "regularization", 0, 1e6),
    ("coreset.glister.Glister", {"greedy": "rounds", "rounds": 1}, "step", 0, 1e6),
    ("loss.focal.Focal", {}, "gamma", 0, 100),
    ("model.cnn.CNN", {}, "width", 1, 10**6),
    ("model.wide_resnet.WideResNet", {"depth": 10, "dropout": 0.0}, "width", 1, 10**6),
    ("model.wide_resnet.WideResNet", {"width": 1, "dropout": 0.0}, "depth", 10, 1000),
    ("optimizer.adamw.AdamW", {"betas": [0.9, 0.9]}, "eps", 1e-30, 1),
    ("schedule.step.Step", {"milestones": [0.5]}, "factor", 1e-6, 1),
    ("scores.ensemble.Ensemble", {"acquisition": "entropy", "since": 0.0}, "members", 1, MOST_MEMBERS),
    ("sampler.active_bias.ActiveBias", {"score": "variance", "use": "draw", "warmup": 0.1}, "epsilon", 0, 1e6),
    ("sampler.ordered_sgd.OrderedSGD", {"thresholds": [], "backward": "all", "accuracy": "running"}, "keep", 1e-9, 1),
    ("sampler.pacing.Pacing", PACING | {"until": 1.0}, "first", 1e-9, 1),
    ("sampler.pacing.Pacing", PACING | {"first": 1.0}, "until", 1e-9, 10),
    ("sampler.self_paced.SelfPaced", {"use": "draw", "until": 1.0, "refresh": True}, "first", 1e-9, 1),
    ("sampler.self_paced.SelfPaced", {"use": "draw", "first": 1.0, "refresh": True}, "until", 1e-9, 1),
    ("coreset.per_batch.GradMatchPB", {"size": 1, "gradients": "last"}, "regularization", 0, 1e6),
    ("sampler.bandit.Bandit", BANDIT, "keep", 1e-6, 1),
    ("sampler.bandit.Bandit", BANDIT, "alpha", 1e-6, 1),
    ("sampler.bandit.Bandit", BANDIT, "epsilon", 0, 1),
    ("sampler.bandit.Bandit", BANDIT, "confidence", 0, 1e6),
    ("sampler.bandit.Bandit", BANDIT, "every", 1, MOST),
    ("sampler.infobatch.InfoBatch", {"delta": 0.875}, "ratio", 0, 0.999),
    ("sampler.kakurenbo.Kakurenbo", KAKURENBO, "fraction", 0, 0.999),
    ("sampler.kakurenbo.Kakurenbo", KAKURENBO, "tau", 1e-6, 1),
    ("sampler.seta.SeTa", SETA, "ratio", 0, 0.999),
    ("sampler.seta.SeTa", SETA, "groups", 1, 1000),
    ("sampler.seta.SeTa", SETA, "delta", 0, 1),
    ("sampler.online_batch.OnlineBatchSelection", {"final": 1.0, "refresh": 0.0, "sort": 1}, "pressure", 1, 1e12),
    ("sampler.online_batch.OnlineBatchSelection", {"final": 1.0, "pressure": 2.0, "sort": 1}, "refresh", 0, MOST),
    (
        "sampler.selective_backprop.SelectiveBackprop",
        {"history": 9, "prime": 0.0, "stale": 1, "floor": 0.0, "looks": "eval"},
        "beta",
        0,
        1000,
    ),
    (
        "sampler.selective_backprop.SelectiveBackprop",
        {"beta": 2.0, "prime": 0.0, "stale": 1, "floor": 0.0, "looks": "eval"},
        "history",
        1,
        MOST,
    ),
    (
        "sampler.selective_backprop.SelectiveBackprop",
        {"history": 9, "beta": 2.0, "stale": 1, "floor": 0.0, "looks": "eval"},
        "prime",
        0,
        MOST,
    ),
]


@pytest.mark.parametrize(("kind", "others", "field", "least", "most"), RANGES)
def test_values_that_float32_or_a_loop_cannot_handle_are_refused(
    kind: str, others: dict[str, Any], field: str, least: float, most: float
) -> None:
    make = get_object(f"budgetrun.{kind}")
    for value in (least, most):
        make(**(others | {field: value}))
    tiny = [1e-300] if least else []
    for value in (-1, -1e300, *tiny, most * 1.01 + 1, 1e300, 10**400, float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ValueError, match=rf"^{field}="):
            make(**(others | {field: value}))


def test_the_pre_check_starts_a_method_at_the_beginning_of_the_budget(
    experiment_for: Callable[..., Experiment],
) -> None:
    """A method may ask how far the run has come; what follows in its `start` is checked too."""

    class Asking(Uniform):
        def start(self, context: Context) -> None:
            assert context.progress() == 0.0
            raise UserError("it does not fit")

    with pytest.raises(UserError, match="it does not fit"):
        Preflight()(replace(experiment_for("epochs=1"), sampler=Asking()))
