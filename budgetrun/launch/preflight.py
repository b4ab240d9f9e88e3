"""Checks whether experiments fit this machine and their data, and times their updates here."""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from budgetrun import memory
from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Data, Model, Random, passes
from budgetrun.folder import features, scorefile
from budgetrun.identity import is_expected, paths
from budgetrun.training.budget import full_updates, model_flops
from budgetrun.training.checks import check_calls, check_memory, check_parts, check_views, outline, shapes_of
from budgetrun.training.data import (
    check_fits,
    context_of,
    corrupt,
    digest,
    fingerprint,
    load,
    place_of,
    source,
    trained_on,
    trained_shape,
)
from budgetrun.training.looks import check_features
from budgetrun.training.machine import find_device, synchronize
from budgetrun.training.network import Network
from budgetrun.training.views import Views
from budgetrun.training.weights import begin_with

ENOUGH = 0.5  # seconds of updates to time


class NeedsAModel(Exception):
    """A method asked for something that only a run has, or that is not there yet."""


def needs_a_model(*_: Any, **__: Any) -> Any:
    raise NeedsAModel


def wait_for(pattern: str) -> None:
    """Stop the rehearsal of a method that reads files which another run has yet to make."""
    if any(map(is_expected, paths(pattern))):
        raise NeedsAModel


class Preflight:
    """Checks experiments one by one. Data are read and models are built once for all experiments that share them."""

    def __init__(self) -> None:
        self.data: tuple[str, Data] | None = None
        self.models: set[str] = set()
        self.weights: set[str] = set()
        self.features: set[str] = set()
        self.embedding: set[str] = set()  # models that have features
        self.flops: dict[str, tuple[int, int]] = {}  # per model, of a forward pass and of an update
        self.noises: set[str] = set()
        self.called: set[str] = set()
        self.times: dict[str, float] = {}
        self.fingerprints: dict[str, str] = {}

    def __call__(self, experiment: Experiment) -> None:
        """Raises UserError if the experiment does not fit."""
        with memory.explained():
            self.check(experiment)

    def check(self, experiment: Experiment) -> None:
        settings, resolved = experiment.settings, experiment.resolved
        device = check_parts(experiment)
        data = self.data_of(experiment)
        place = place_of(data, settings, device)
        check_fits(data, settings, place)
        full_updates(settings, len(trained_on(data, settings).labels))
        noise = json.dumps([source(experiment), resolved["noise"]])  # one seed shows whether it fits
        if noise not in self.noises:
            corrupt(data, experiment, place)
            self.noises.add(noise)
        check_views(experiment, data)
        called = json.dumps([source(experiment), settings.image_size, resolved["aug"], resolved["loss"]])
        if called not in self.called:
            check_calls(experiment, data)
            self.called.add(called)
        self.check_model(experiment.model, experiment, data, device)
        self.check_weights(experiment, data)
        self.rehearse(experiment, data, device)

    def check_model(self, model: Model, experiment: Experiment, data: Data, device: torch.device) -> None:
        settings = experiment.settings
        smaller, of_each = shapes_of(experiment, trained_shape(data, settings)), passes(experiment.aug)
        how = [settings.batch_size, settings.precision, settings.compile, str(device), of_each, smaller]
        key = json.dumps([source(experiment), settings.image_size, repr(model), how])
        if key not in self.models:
            self.flops_of(model, experiment)
            for shape in smaller:
                model_flops(outline(model, data, settings), shape)
            check_memory(outline(model, data, settings), data, settings, device, of_each)
            self.models.add(key)

    def check_weights(self, experiment: Experiment, data: Data) -> None:
        """Raises UserError if init_from has not the weights of this network."""
        pattern = experiment.settings.init_from
        key = json.dumps([pattern, self.on_images(experiment.model, experiment)])
        if pattern is not None and key not in self.weights:
            with contextlib.suppress(NeedsAModel):
                wait_for(pattern)
                begin_with(pattern, outline(experiment.model, data, experiment.settings))
                self.weights.add(key)

    def rehearse(self, experiment: Experiment, data: Data, device: torch.device) -> None:
        """Start the sampler and the scorer without a model, so that they check the data and their files."""
        settings, cpu = experiment.settings, torch.device("cpu")
        trained = trained_on(data, settings)
        random = Random.seeded(settings.seed, "sampler", cpu)

        def this_run() -> dict[str, str]:
            seen = trained_on(corrupt(data, experiment, place_of(data, settings, device)), settings).labels
            return {"dataset_fingerprint": self.fingerprint(experiment), "labels_fingerprint": digest(seen)}

        def read_scores(file: str, acquisition: str | None = None) -> dict[str, Tensor]:
            wait_for(file)
            return scorefile.read(file, "sampler.file", this_run(), len(trained.labels), acquisition)[0]

        def read_kept(file: str) -> Tensor:
            wait_for(file)
            return scorefile.read_kept(file, "sampler.base", this_run(), len(trained.labels))[0]

        def read_features(file: str) -> Tensor:
            wait_for(file)
            run = this_run()
            if (key := json.dumps([file, run])) not in self.features:
                features.read(file, run, len(trained.labels))
                self.features.add(key)
            raise NeedsAModel  # a choice by features may take minutes

        def second(model: Model) -> Any:
            self.check_model(model, experiment, data, device)
            raise NeedsAModel

        def needs_features() -> None:
            if (key := self.on_images(experiment.model, experiment)) not in self.embedding:
                check_features(outline(experiment.model, data, settings), trained_shape(data, settings))
                self.embedding.add(key)

        without = dict.fromkeys(("look", "embed", "gradient_norms", "logit_gradients"), needs_a_model)
        view = Views(trained, experiment.aug, random)
        context = context_of(
            settings,
            trained,
            random,
            view,
            experiment.select,
            read_scores,
            read_kept,
            read_features,
            Path(),
            needs_features=needs_features,
            progress=lambda: 0.0,
            second=second,
            **without,
        )
        if settings.save_features:
            needs_features()
        for method in (experiment.sampler, experiment.scores):
            with contextlib.suppress(NeedsAModel):  # then only the run itself can tell
                if method is not None:
                    method.start(context)

    def fingerprint(self, experiment: Experiment) -> str:
        """The fingerprint of the clean data, computed once per source."""
        if (of := source(experiment)) not in self.fingerprints:
            self.fingerprints[of] = fingerprint(self.data_of(experiment))
        return self.fingerprints[of]

    def on_images(self, model: Model, experiment: Experiment) -> str:
        """Names the model on the images that the experiment trains on."""
        return json.dumps([source(experiment), experiment.settings.image_size, repr(model)])

    def data_of(self, experiment: Experiment) -> Data:
        if self.data is None or self.data[0] != source(experiment):
            self.data = source(experiment), load(experiment)
        return self.data[1]

    def updates(self, experiment: Experiment) -> int:
        """How many updates the experiment's budget is worth without looks."""
        settings = experiment.settings
        examples = len(trained_on(self.data_of(experiment), settings).labels)
        uniform = round(settings.budget * full_updates(settings, examples))
        return uniform if settings.budget_unit == "updates" else math.ceil(uniform / passes(experiment.aug))

    def flops_of(self, model: Model, experiment: Experiment) -> tuple[int, int]:
        """The FLOPs per image passed, forward and in an update; raises UserError if images do not fit the model."""
        data, settings = self.data_of(experiment), experiment.settings
        if (key := self.on_images(model, experiment)) not in self.flops:
            shape = trained_shape(data, settings)
            self.flops[key] = model_flops(outline(model, data, settings), shape, data.classes)
        return self.flops[key]

    def seconds(self, experiment: Experiment) -> float:
        """The run's time here without looks and evaluations, estimated by timing updates on made-up images."""
        data, settings = self.data_of(experiment), experiment.settings
        shape = trained_shape(data, settings)
        kind = [experiment.resolved["model"], shape, data.classes, settings.batch_size, settings.precision]
        if (key := json.dumps([*kind, settings.device, passes(experiment.aug)])) not in self.times:
            self.times[key] = seconds_per_update(experiment, data)
        return self.updates(experiment) * self.times[key]


def seconds_per_update(experiment: Experiment, data: Data) -> float:
    """The shortest of several updates on made-up images, the first not counted. One is enough if it takes ENOUGH."""
    settings = experiment.settings
    device = find_device(settings.device)
    network = Network(experiment.model, experiment, data, device)
    images = torch.randint(256, (settings.batch_size, *trained_shape(data, settings)), dtype=torch.uint8, device=device)
    index = torch.arange(settings.batch_size, device=device)
    batch = Batch.plain(images, index, index % data.classes)
    if network.passes > 1:
        batch.others = images[:, None].expand(-1, network.passes - 1, -1, -1, -1)

    def timed() -> float:
        began = time.perf_counter()
        network.update(batch)
        synchronize(device)
        return time.perf_counter() - began

    timed()
    times = [timed()]
    while sum(times) < ENOUGH:
        times.append(timed())
    return min(times)
