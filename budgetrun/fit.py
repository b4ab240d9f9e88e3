"""Whether experiments fit this machine and their data, and how long their updates take here."""

from __future__ import annotations

import contextlib
import copy
import json
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from budgetrun import memory, scorefile
from budgetrun.budget import full_updates, model_flops
from budgetrun.config import Experiment
from budgetrun.contracts import Context, Data, Model, Random, Settings, check_pixels, check_row, check_schedule
from budgetrun.data import (
    bytes_of,
    check_resized,
    corrupt,
    digest,
    fingerprint,
    held_out,
    load,
    trained_on,
    trained_shape,
)
from budgetrun.identity import made_files
from budgetrun.machine import find_device, synchronize, uses_bf16
from budgetrun.results import check_made
from budgetrun.views import Views

ENOUGH = 0.5  # seconds of updates that are timed


class NeedsAModel(Exception):
    """A method asked for what only a run has."""


def needs_a_model(*_: Any, **__: Any) -> Any:
    raise NeedsAModel


def check_parts(experiment: Experiment) -> torch.device:
    """The device; raises UserError where it is not there, or parts do not go together. Touches no data."""
    dataset: Any = experiment.dataset
    if hasattr(dataset, "channels"):
        check_pixels(dataset.mean, dataset.std, dataset.channels)
    check_row(experiment.aug)
    check_schedule(experiment.schedule, experiment.settings.lr)
    return find_device(experiment.settings.device)


def check_views(experiment: Experiment, data: Data) -> None:
    """Raise UserError where a step of the augmentation cannot take the images."""
    for step in experiment.aug:
        if (check := getattr(step, "check", None)) is not None:
            check(trained_shape(data, experiment.settings))


def outline(model: Model, data: Data) -> nn.Module:
    """The network without its weights, on the meta device; whole where it cannot be built there."""
    size = data.images.shape[1], data.classes
    try:
        with torch.device("meta"):
            return model.build(*size)
    except Exception:  # whatever somebody's module raises: it says so again
        return model.build(*size)


def check_memory(net: nn.Module, data: Data, settings: Settings, device: torch.device) -> None:
    """Raise UserError where training the network, which fits the images, takes more memory than there is.

    It takes at least the weights and their gradients, what a batch leaves for the backward pass, and the data.
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
    half = uses_bf16(settings.precision, device) or settings.compile  # which keeps less
    of_batch = settings.batch_size * of_two // (4 if half else 2)
    count = sum(p.numel() for p in twin.parameters())
    memory.check(
        2 * sum(p.nbytes for p in twin.parameters()) + of_batch + bytes_of(data, settings),
        f"the data, a model of {count:,} weights and a batch of {settings.batch_size:,} images",
        "choose a smaller model, or set batch_size or image_size lower", device,
    )  # fmt: skip


class Fit:
    """Checks experiments one by one; data and models are read and built once for all that share them."""

    def __init__(self) -> None:
        self.data: tuple[str, Data] | None = None
        self.models: set[str] = set()
        self.flops: dict[str, tuple[int, int]] = {}  # of a model, forward and an update
        self.noises: set[str] = set()
        self.times: dict[str, float] = {}
        self.fingerprints: dict[str, str] = {}

    def __call__(self, experiment: Experiment) -> None:
        """Raises UserError where the experiment does not fit."""
        with memory.explained():
            self.check(experiment)

    def check(self, experiment: Experiment) -> None:
        settings, resolved = experiment.settings, experiment.resolved
        device = check_parts(experiment)
        for path in made_files(resolved):
            check_made(path)
        data = self.data_of(experiment)
        check_resized(data, settings)
        full_updates(settings, len(trained_on(data, settings).labels))
        noise = json.dumps([self.source(experiment), resolved["noise"]])  # one seed says whether it fits
        if noise not in self.noises:
            corrupt(data, experiment)
            self.noises.add(noise)
        check_views(experiment, data)
        self.check_model(experiment.model, experiment, data, device)
        self.rehearse(experiment, data, device)

    def check_model(self, model: Model, experiment: Experiment, data: Data, device: torch.device) -> None:
        settings = experiment.settings
        how = [settings.batch_size, settings.precision, settings.compile, str(device)]
        key = json.dumps([self.source(experiment), settings.image_size, repr(model), how])
        if key not in self.models:
            self.flops_of(model, experiment)
            check_memory(outline(model, data), data, settings, device)
            self.models.add(key)

    def rehearse(self, experiment: Experiment, data: Data, device: torch.device) -> None:
        """Start the sampler and the scorer, without a model: they say whether the data and their files fit them."""
        settings, cpu = experiment.settings, torch.device("cpu")
        trained = trained_on(data, settings)
        n, random = len(trained.labels), Random.seeded(settings.seed, "sampler", cpu)

        def read_scores(file: str) -> dict[str, Tensor]:
            seen = trained_on(corrupt(data, experiment), settings).labels
            run = {"dataset_fingerprint": self.fingerprint(experiment), "labels_fingerprint": digest(seen)}
            return scorefile.read(file, "sampler.file", run, n)[0]

        def second(model: Model) -> Any:
            self.check_model(model, experiment, data, device)
            raise NeedsAModel

        context = Context(
            n=n, classes=data.classes, labels=trained.labels, batch_size=settings.batch_size, fraction=settings.budget,
            epoch=n // settings.batch_size, device=cpu, random=random, view=Views(trained, experiment.aug, random),
            validation=held_out(trained), progress=lambda: 0.0, read_scores=read_scores, look=needs_a_model,
            embed=needs_a_model, gradient_norms=needs_a_model, logit_gradients=needs_a_model, second=second,
        )  # fmt: skip
        for method in (experiment.sampler, experiment.scores):
            with contextlib.suppress(NeedsAModel):  # then only the run itself can tell
                if method is not None:
                    method.start(context)

    def fingerprint(self, experiment: Experiment) -> str:
        """That of the clean data, computed once for a source."""
        if (source := self.source(experiment)) not in self.fingerprints:
            self.fingerprints[source] = fingerprint(self.data_of(experiment))
        return self.fingerprints[source]

    def source(self, experiment: Experiment) -> str:
        settings = experiment.settings
        return json.dumps([experiment.resolved["dataset"], settings.validation, settings.data_dir])

    def data_of(self, experiment: Experiment) -> Data:
        if self.data is None or self.data[0] != self.source(experiment):
            self.data = self.source(experiment), load(experiment)
        return self.data[1]

    def updates(self, experiment: Experiment) -> int:
        """How many uniform updates its budget is worth."""
        examples = len(trained_on(self.data_of(experiment), experiment.settings).labels)
        return round(experiment.settings.budget * full_updates(experiment.settings, examples))

    def flops_of(self, model: Model, experiment: Experiment) -> tuple[int, int]:
        """The FLOPs of an image, forward alone and in an update; raises UserError where it does not fit the model."""
        data = self.data_of(experiment)
        key = json.dumps([self.source(experiment), experiment.settings.image_size, repr(model)])
        if key not in self.flops:
            self.flops[key] = model_flops(outline(model, data), trained_shape(data, experiment.settings))
        return self.flops[key]

    def seconds(self, experiment: Experiment) -> float:
        """How long it takes here without looks and evaluations, by the time of some updates on made-up images."""
        data, settings = self.data_of(experiment), experiment.settings
        shape = trained_shape(data, settings)
        kind = [experiment.resolved["model"], shape, data.classes, settings.batch_size, settings.precision]
        if (key := json.dumps([*kind, settings.device])) not in self.times:
            self.times[key] = seconds_an_update(experiment, shape, data.classes)
        return self.updates(experiment) * self.times[key]


def seconds_an_update(experiment: Experiment, shape: torch.Size, classes: int) -> float:
    """The shortest of several, or of one where one takes longer than ENOUGH; the first is not counted."""
    settings = experiment.settings
    device = find_device(settings.device)
    net: Any = experiment.model.build(shape[0], classes)
    net = net.to(device, memory_format=torch.channels_last)
    optimizer = experiment.optimizer.build(net.parameters(), settings.lr, settings.weight_decay)
    images = torch.rand(settings.batch_size, *shape, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(settings.batch_size, device=device) % classes
    bf16 = uses_bf16(settings.precision, device)

    def update() -> None:
        with torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
            logits = net(images)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    def timed() -> float:
        began = time.perf_counter()
        update()
        synchronize(device)
        return time.perf_counter() - began

    timed()
    times = [timed()]
    while sum(times) < ENOUGH:
        times.append(timed())
    return min(times)
