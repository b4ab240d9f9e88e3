"""Checks whether the parts of an experiment go together, and fit the data and the machine."""

from __future__ import annotations

import contextlib
import copy
import inspect

import torch
from torch import Tensor, nn

from budgetrun import memory
from budgetrun.config import Experiment
from budgetrun.contracts import (
    ChecksShape,
    Data,
    FromScratch,
    KeepsFiles,
    KnowsChannels,
    Model,
    Random,
    Resizes,
    ScalesLooks,
    SetsMomentum,
    Settings,
    TakesWhole,
    UserError,
    check_pixels,
    check_row,
    check_schedule,
)
from budgetrun.errors import at_own, one_line
from budgetrun.folder.run import check_made
from budgetrun.identity import is_expected, made_files
from budgetrun.training.budget import Budget, model_flops
from budgetrun.training.data import bytes_of, place_of, scaled, trained_shape
from budgetrun.training.machine import find_device, uses_bf16
from budgetrun.training.rates import aim
from budgetrun.training.returned import check_loss, check_optimizer, check_step
from budgetrun.training.trackers import check_packages
from budgetrun.training.views import fitted

MANY = 10**6  # updates of a run that is as good as any


def check_parts(experiment: Experiment) -> torch.device:
    """The device; raises UserError if it does not exist, parts do not go together, or files of other runs are missing.

    Touches no data.
    """
    dataset = experiment.dataset
    if isinstance(dataset, KnowsChannels):
        check_pixels(dataset.mean, dataset.std, dataset.channels)
    check_row(experiment.aug)
    check_packages(experiment.logger)
    check_schedule(experiment.schedule, experiment.settings.lr)
    check_momentum(experiment)
    check_branches(experiment)
    scorer, init_from = experiment.scores, experiment.settings.init_from
    if scorer is not None and init_from is not None and isinstance(scorer, FromScratch):
        raise UserError(
            f"scores={experiment.names['scores']} is about what this run learns from nothing; leave out init_from"
        )
    if experiment.freeze is not None and experiment.settings.compile:
        raise UserError(
            f"freeze={experiment.names['freeze']} changes which layers train, and compile=true compiles them once; "
            "leave out either"
        )
    for path in made_files(experiment.resolved):
        if not is_expected(path):
            check_made(path)
    return find_device(experiment.settings.device)


def check_momentum(experiment: Experiment) -> None:
    """Raise UserError if the schedule sets the momentum of an optimizer that has none."""
    schedule, settings, names = experiment.schedule, experiment.settings, experiment.names
    if not isinstance(schedule, SetsMomentum) or schedule.momentum(0.0) is None:
        return
    optimizer = experiment.optimizer.build([nn.Parameter(torch.zeros(1))], settings.lr, settings.weight_decay)
    check_optimizer(optimizer, experiment.optimizer)
    if not all(group.get("momentum") or "betas" in group for group in optimizer.param_groups):
        raise UserError(
            f"schedule={names['schedule']} sets the momentum, and optimizer={names['optimizer']} has none; choose "
            "another optimizer, give it a momentum, or set schedule.cycle_momentum=false"
        )


def check_branches(experiment: Experiment) -> None:
    """Raise UserError if runs with smaller budgets cannot begin as this one. Whether the sampler follows the budget
    shows when it asks for it, see Common."""
    settings, names = experiment.settings, experiment.names
    if not settings.earlier:
        return
    differs = {
        "budget_unit=seconds": settings.budget_unit == "seconds",
        f"scores={names['scores']}": experiment.scores is not None,
        f"freeze={names['freeze']}": experiment.freeze is not None,
        f"aug={names['aug']}": any(isinstance(step, Resizes) for step in experiment.aug),
        f"sampler={names['sampler']}": isinstance(experiment.sampler, KeepsFiles),
        "a value that is tuned": bool(experiment.tuning),
    }
    for what in (what for what, is_so in differs.items() if is_so):
        raise UserError(f"branches={settings.branches} cannot go with {what}; leave out either")
    at_second = set()  # update
    for part in (settings.budget, *settings.earlier):
        budget = Budget("updates", part * MANY, 1, torch.device("cpu"), full=MANY)
        budget.updates = 1
        at_second.add(aim(experiment, budget))
    if len(at_second) > 1:
        raise UserError(
            f"branches={settings.branches}: with schedule={names['schedule']}, runs with other budgets have another "
            "learning rate from the second update on; choose schedule=trapezoid, without a warm-up, or leave them out"
        )


def check_views(experiment: Experiment, data: Data) -> None:
    """Raise UserError if a step of the augmentation does not accept the images."""
    for step in fitted(experiment.aug, data):
        if isinstance(step, ChecksShape):
            step.check(trained_shape(data, experiment.settings))


def check_calls(experiment: Experiment, data: Data) -> None:
    """Raise UserError if a step of the augmentation, or the loss, does not return what it must.

    So it does if a step changes the size of the images to one that the model does not take. Each is called once, on two
    made-up images. The random state that others draw from is left as it was.
    """
    steps = fitted(experiment.aug, data)
    whole = bool(steps) and isinstance(steps[0], TakesWhole) and steps[0].takes_whole
    random = Random.seeded(0, "check", torch.device("cpu"))
    shape = trained_shape(data, experiment.settings)
    size, changed = data.images.shape[1:] if whole else shape, ""
    images: Tensor | None = torch.randint(256, (2, *size), dtype=torch.uint8, generator=random.device)
    with torch.random.fork_rng(devices=[]):
        for name, step in zip(experiment.resolved["aug"], steps, strict=True):
            if images is not None:
                before, images = images.shape, check_step(step, name, images, random)
                changed = name if images is not None and images.shape != before else changed
        check_loss(experiment.loss, data.classes)
    if images is not None and images.shape[1:] != shape:
        try:
            model_flops(outline(experiment.model, data, experiment.settings), images.shape[1:], data.classes)
        except UserError as error:
            sides = ["x".join(map(str, each[-2:])) for each in (images.shape, shape)]
            raise UserError(f"aug.{changed} makes images of {sides[0]} of those of {sides[1]}, and {error}") from error


def shapes_of(experiment: Experiment, shape: torch.Size) -> list[torch.Size]:
    """The smaller shapes of images [C, H, W] that pass through the network at some time; most runs have none."""
    smaller = [small for step in experiment.aug if isinstance(step, Resizes) for small in step.shapes(shape)]
    if isinstance(experiment.sampler, ScalesLooks) and (scale := experiment.sampler.looks_scale) < 1:
        smaller += [torch.Size((each[0], *scaled(each[1:], scale))) for each in (shape, *smaller)]
    return smaller


def built(model: Model, data: Data, settings: Settings) -> nn.Module:
    """The network, for the images that a run trains on; raises UserError if the model has none for them."""
    channels, height, width = trained_shape(data, settings)
    size = {}
    if "image_size" in inspect.signature(model.build).parameters:
        if height != width:
            raise UserError(
                f"the model asks for the pixels per side of square images, and these are {height}x{width}; "
                f"set image_size={max(height, width)}, or choose another model"
            )
        size = {"image_size": height}
    try:
        with memory.explained():
            return model.build(channels, data.classes, **size)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"the model cannot be built for images of {channels}x{height}x{width} and {data.classes} classes "
            f"({one_line(error)}{at_own(error)}); set image_size, or choose another model"
        ) from error


def outline(model: Model, data: Data, settings: Settings) -> nn.Module:
    """The network without its weights, on the meta device; with its weights if it cannot be built there.

    The random state that initial weights are drawn from is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        with contextlib.suppress(Exception), torch.device("meta"):  # a user's module may raise anything,
            return built(model, data, settings)
        return built(model, data, settings)  # and if it is at fault, it raises again


def check_memory(net: nn.Module, data: Data, settings: Settings, device: torch.device, passes: int = 1) -> None:
    """Raise UserError if training the network, which fits the images, takes more memory than there is.

    It takes at least the weights and their gradients, what a batch leaves for the backward pass, and the images if they
    live on the device. data: as `load` returns them. passes: images per row of a batch.
    """
    twin = copy.deepcopy(net).to("meta")
    weights = {t.untyped_storage()._cdata: t for t in (*twin.parameters(), *twin.buffers())}
    left: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        left[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        twin(torch.empty(2, *trained_shape(data, settings), device="meta"))
    of_two = sum(t.untyped_storage().nbytes() for place, t in left.items() if place not in weights)
    half = uses_bf16(settings.precision, device) or settings.compile  # both keep less
    of_batch = settings.batch_size * passes * of_two // (4 if half else 2)
    of_data = bytes_of(data, settings) if place_of(data, settings, device) == "device" else 0
    count = sum(p.numel() for p in twin.parameters())
    memory.check(
        2 * sum(p.nbytes for p in twin.parameters()) + of_batch + of_data,
        f"the data, a model of {count:,} weights and a batch of {settings.batch_size:,} images",
        "choose a smaller model, or set batch_size or image_size lower",
        device,
    )
