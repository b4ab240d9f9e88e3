"""The loops that are compared: the program's own, the limit, a forward pass alone, and the conventional one."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from benchmarks.contest import Lane, Tick
from benchmarks.images import Loaded
from budgetrun import train
from budgetrun.config import Experiment, experiment
from budgetrun.contracts import Batch, Context, Data
from budgetrun.folder import scorefile
from budgetrun.launch import plugins
from budgetrun.launch.command import CONF
from budgetrun.launch.compose import task_part
from budgetrun.training import machine
from budgetrun.training.checks import built
from budgetrun.training.data import Normalize, fingerprint, prepare
from budgetrun.training.looks import SecondNetwork

LONG = ["epochs=1000", "evaluations=1", "checkpoint_every=1e9", "force=true"]  # nothing but updates while it is timed


def composed(overrides: list[str]) -> Experiment:
    """The experiment that `python -m budgetrun <overrides>` runs, made so long that a contest ends before it does."""
    plugins.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[*overrides, *LONG], return_hydra_config=True)
    return experiment(task_part(cfg), cfg.hydra.runtime.choices)


@contextmanager
def global_flags() -> Iterator[None]:
    """What a run sets for itself, for the other loops too."""
    with machine.profile(False):
        yield


class CountedSampler:
    """A sampler as it is, and the images that it looked at and trained on; those of a second network by its FLOPs.

    begin(): called at the start of every draw, which is where an update begins. before(context): what is done besides,
    next.
    """

    def __init__(self, sampler: Any, before: Callable[[Context], object] | None = None) -> None:
        self.sampler, self.before = sampler, before
        self.looked, self.trained = 0.0, 0.0
        self.begin: Callable[[], object] = lambda: None

    def start(self, context: Context) -> None:
        def look(batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
            self.looked += len(batch)
            return context.look(batch, training, scale)

        def embed(batch: Batch, scale: float = 1.0) -> tuple[Tensor, Tensor]:
            self.looked += len(batch)
            return context.embed(batch, scale)

        self.context = dataclasses.replace(
            context,
            look=look,
            embed=embed,
            second=lambda model: CountedSecond(cast(SecondNetwork, context.second(model)), self),
        )
        self.sampler.start(self.context)

    def draw(self) -> Batch:
        self.begin()
        if self.before is not None:
            self.before(self.context)
        batch: Batch = self.sampler.draw()
        self.trained += len(batch)
        return batch

    def __getattr__(self, name: str) -> Any:
        if name == "sampler":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.sampler, name)


class CountedSecond:
    """A second network as it is, whose passes are counted with the sampler's own."""

    def __init__(self, other: SecondNetwork, counted: CountedSampler) -> None:
        self.other, self.counted = other, counted

    def look(self, batch: Batch, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        self.counted.looked += len(batch) * self.other.network.flops.forward / self.other.first.flops.forward
        losses, logits = self.other.look(batch, scale)
        return losses, logits

    def learn(self, batch: Batch) -> None:
        self.counted.trained += len(batch) * self.other.network.flops.update / self.other.first.flops.update
        self.other.learn(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.other, name)


def ours(overrides: list[str], data: Data, at_once: int = 1, before: Callable[[Context], object] | None = None) -> Lane:
    """The real loop, `train.run`; an update begins where it asks the sampler for its batch.

    at_once: updates that count as one. before: see CountedSampler.
    """
    made = composed(overrides)
    counted = CountedSampler(made.sampler, before)

    def run(tick: Tick) -> None:
        updates = itertools.count()

        def begin() -> None:
            if next(updates) % at_once == 0:
                tick()

        counted.begin = begin
        with tempfile.TemporaryDirectory() as folder:
            settings = dataclasses.replace(made.settings, output_dir=folder)
            train.run(dataclasses.replace(made, settings=settings, dataset=Loaded(data), sampler=counted))

    return Lane(run, lambda: (counted.looked, counted.trained))


def fixed_batch(made: Experiment, data: Data, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first images, normalised, on the device, in the memory format of the loop."""
    images = data.images[: made.settings.batch_size].to(device)
    return Normalize(data, device)(images), data.labels[: made.settings.batch_size].to(device)


def model_of(made: Experiment, data: Data, device: torch.device) -> nn.Module:
    net = built(made.model, data, made.settings)
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def limit(overrides: list[str], data: Data) -> Lane:
    """Forward, backward and step of the same model on one fixed batch that is on the device: nothing else."""

    def run(tick: Tick) -> None:
        made = composed(overrides)
        device = machine.find_device(made.settings.device)
        images, labels = fixed_batch(made, data, device)
        net = model_of(made, data, device)
        # a small learning rate: at a loss of zero the gradients would become denormal numbers, which are slow
        optimizer = made.optimizer.build(net.parameters(), lr=1e-4, weight_decay=made.settings.weight_decay)
        bf16 = machine.uses_bf16(made.settings.precision, device)
        model = torch.compile(net, dynamic=False) if made.settings.compile else net

        def update() -> None:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = model(images)
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()

        update()  # compiles, which must be before our loop begins: it allows no compiling
        while True:
            tick()
            update()

    return Lane(run)


def forward_only(overrides: list[str], data: Data) -> Lane:
    """A look at one fixed batch and nothing else: evaluation mode, no gradients."""

    def run(tick: Tick) -> None:
        made = composed(overrides)
        device = machine.find_device(made.settings.device)
        images, _ = fixed_batch(made, data, device)
        net = model_of(made, data, device).eval()
        bf16 = machine.uses_bf16(made.settings.precision, device)
        while True:
            tick()  # outside no_grad, which the other loops would inherit
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                net(images)

    return Lane(run)


def as_torchvision(data: Data, transform: Callable[[Any], Tensor]) -> Any:
    """torchvision's own data set class (its PIL images and its `__getitem__`) over images that are in memory."""
    from torchvision.datasets import CIFAR10, MNIST, VisionDataset

    grey = data.images.shape[1] == 1

    class Indexed(MNIST if grey else CIFAR10):  # type: ignore[misc]
        def __init__(self) -> None:
            VisionDataset.__init__(self, root="", transform=transform)
            images = data.images.clone()
            self.data = images[:, 0] if grey else images.permute(0, 2, 3, 1).contiguous().numpy()
            self.targets = data.labels if grey else data.labels.tolist()

        def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
            return (*super().__getitem__(index), index)

    return Indexed()


def conventional(overrides: list[str], data: Data, workers: int, channels_last: bool = False) -> Lane:
    """p-SGD as the papers' code is built, written with care: PIL transforms in worker processes, a new DataLoader each
    epoch for its draw, fp32, and each step's probabilities copied to the host for numpy's running means.

    Left out is what is merely careless in released code: nothing is printed, no test pass, no schedule of 78,000 keys.
    """

    def run(tick: Tick) -> None:
        from torch.utils.data import DataLoader, SubsetRandomSampler
        from torchvision import transforms

        made = composed(overrides)
        settings = made.settings
        device = machine.find_device(settings.device)
        size = data.images.shape[-1]
        steps = [transforms.RandomCrop(size, padding=data.padding)]
        steps += [transforms.RandomHorizontalFlip()] if data.flip else []
        steps += [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
        dataset = as_torchvision(data, transforms.Compose(steps))
        net = built(made.model, data, made.settings).to(device)
        if channels_last:
            net = net.to(memory_format=torch.channels_last)
        optimizer = made.optimizer.build(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        n = len(dataset)
        mean, visits = np.ones(n), np.zeros(n)  # of 1 - p(label)
        count = drawn_an_epoch(made, n)
        while True:
            tick(count // settings.batch_size)
            score = mean + mean.mean()
            chosen = np.random.choice(n, count, p=score / score.sum(), replace=False)
            loader = DataLoader(
                dataset,
                settings.batch_size,
                sampler=SubsetRandomSampler(chosen.tolist()),
                num_workers=workers,
                drop_last=True,
                pin_memory=device.type == "cuda",
            )
            for images, labels, index in loader:
                images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
                if channels_last:
                    images = images.contiguous(memory_format=torch.channels_last)
                logits = net(images)
                loss = F.cross_entropy(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                missed = 1 - logits.detach().softmax(1).gather(1, labels[:, None])[:, 0].cpu().numpy()
                at = index.numpy()
                visits[at] += 1
                mean[at] += (missed - mean[at]) / visits[at]

    return Lane(run)


def drawn_an_epoch(made: Experiment, n: int) -> int:
    """Images of an epoch's draw at the experiment's budget, in whole batches: what a DataLoader is made for."""
    return int(n * made.settings.budget) // made.settings.batch_size * made.settings.batch_size


def random_scores(path: Path, data: Data) -> Path:
    """A file of a random score and weight of every example."""
    random = torch.Generator().manual_seed(0)
    score, weight = torch.rand(2, len(data.labels), generator=random)
    scorefile.write(path, {"score": score, "weight": 1 + weight}, {"dataset_fingerprint": fingerprint(data)})
    return path


def first(data: Data, count: int) -> Data:
    """The data with the first `count` training examples alone."""
    return dataclasses.replace(data, images=data.images[:count], labels=data.labels[:count])


@functools.cache
def data_of(*overrides: str) -> Data:
    """The data of an experiment, read once per process."""
    return prepare(composed(list(overrides)))[0]
