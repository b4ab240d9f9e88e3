"""The types that every part of an experiment shares: Data, Batch, and what a component must provide.

A component (dataset, model, sampler, augmentation, noise) is a dataclass in its own file. Its fields are its
parameters: the YAML file of the same group gives their values, the type annotations are checked before any data is
touched, and ``__post_init__`` checks the ranges. Components import this module and torch, never each other. A
component's class, its values and the content of the files that they name are part of a run's id; class attributes
declare the exceptions (docs/identity.md):

    version: ClassVar[int] = 2               # its results have changed on purpose; 1 if there is no such line
    neutral: ClassVar = {"temperature": 1.0}  # the value that does what was done before the field existed
    elsewhere: ClassVar = ("system",)        # fields that say where something is, not what it is
    published: ClassVar = {"file.pt": "873e..."}  # SHA-256 of published files, which count whether present or not
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, get_origin, get_type_hints, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from budgetrun.errors import UserError as UserError  # components import it from here
from budgetrun.stored import Stored

UNITS = ("updates", "examples", "flops", "seconds")
PLACES = ("auto", "device", "host", "disk")  # of a run's images
HORIZONS = ("budget", "full")  # of schedules
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # of torch.compile
TAG = r"\w([\w.: -]{0,62}[\w.:-])?"  # what every tracker takes
MOST = 10**9  # epochs, evaluations, images per batch, ...: more is a typing error


def path(key: str, text: str) -> str:
    """A typed path with ~ expanded; raises ValueError if it is not a path. key: the setting that it is the value of."""
    found = os.path.expanduser(text)  # noqa: PTH111 -- a string: it may contain *, ? and commas
    if not text.strip() or "\0" in text:
        raise ValueError(f"{key}={text!r} is not a path; type . for the current folder")
    if found.startswith("~"):
        raise ValueError(f"{key}={text} names a user who has no home here; type ./{text} for a file of that name")
    return found


def path_or_none(key: str, text: str | None) -> str | None:
    """The same, of a setting that may be null."""
    return None if text is None else path(key, text)


def several_paths(key: str, text: str | None) -> str | None:
    """The same, of a setting that may be several paths separated by commas; null and nothing stay as they are."""
    return text and ",".join(path(key, part) for part in text.split(","))


def check_milestones(milestones: list[float]) -> None:
    """Raise ValueError unless the values `milestones` of a component can be reached one after the other."""
    bounded = all(0 < m < 1 for m in milestones)
    if not bounded or sorted(set(milestones)) != list(milestones):
        raise ValueError(f"milestones={list(milestones)} must increase and lie in (0, 1), as shares of the budget")


def reached(progress: float, milestones: list[float]) -> int:
    """How many milestones are reached."""
    return sum(progress >= m for m in milestones)


def check_pixels(mean: list[float] | None, std: list[float] | None, channels: int) -> None:
    """Raise UserError if images with `channels` channels cannot be normalised by these; None is measured later."""
    one_each = all(len(numbers) == channels for numbers in (mean, std) if numbers is not None)
    if not (one_each and all(0 <= m <= 1 for m in mean or []) and all(1e-6 <= s <= 1 for s in std or [])):
        mean, std = (numbers if numbers is None else list(numbers) for numbers in (mean, std))
        raise UserError(
            f"dataset.mean={mean} and dataset.std={std} must have {channels} numbers each, one per channel, for "
            "pixels scaled to [0, 1]: means in [0, 1], and standard deviations in [0.000001, 1]"
        )


@dataclass
class Settings:
    """The values at the root of the configuration; conf/config.yaml explains each."""

    budget: float
    budget_unit: str
    seed: int
    epochs: float
    batch_size: int
    lr: float
    weight_decay: float
    image_size: int | None
    validation: float
    train_on: str
    init_from: str | None
    save_features: bool
    evaluations: int
    full_seconds: float | None
    device: str
    precision: str
    data_on: str
    deterministic: bool
    sync_batchnorm: bool
    compile: bool
    compile_mode: str
    data_dir: str
    output_dir: str
    checkpoint_every: float
    force: bool
    retry_failed: bool
    dry_run: bool
    tags: list[str]
    branches: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        rules = {
            "budget": (0 < self.budget <= 1, "greater than 0 and at most 1: the share of a full run, 0.3 for 30%"),
            "budget_unit": (self.budget_unit in UNITS, f"one of {', '.join(UNITS)}"),
            "seed": (0 <= self.seed < 2**63, "a whole number from 0"),
            "epochs": (0 < self.epochs <= MOST, f"greater than 0 and at most {MOST:,}"),
            "batch_size": (1 <= self.batch_size <= MOST, f"at least 1 image and at most {MOST:,}"),
            "lr": (1e-12 <= self.lr <= 1e38, "in [1e-12, 1e38]: less moves no float32 weight, and more overflows"),
            "weight_decay": (0 <= self.weight_decay <= 1e38, "at least 0 and at most 1e38"),
            "image_size": (
                self.image_size is None or 1 <= self.image_size <= MOST,
                f"at least 1 pixel and at most {MOST:,}, or null",
            ),
            "validation": (0 <= self.validation < 1, "in [0, 1): the part of the training set to hold out"),
            "train_on": (self.train_on in ("training", "validation"), "one of training, validation"),
            "evaluations": (
                1 <= self.evaluations <= MOST,
                f"at least 1, as the last evaluation is the result, and at most {MOST:,}",
            ),
            "full_seconds": (
                self.full_seconds is None or 0.001 <= self.full_seconds <= MOST,
                f"at least 0.001 and at most {MOST:,} seconds, or null",
            ),
            "device": (
                re.fullmatch(r"auto|cpu|cuda(:(0|[1-9]\d{0,2}))?", self.device, re.ASCII),
                "one of auto, cpu, cuda, cuda:0, cuda:1, ...",
            ),
            "data_on": (self.data_on in PLACES, f"one of {', '.join(PLACES)}"),
            "compile_mode": (self.compile_mode in MODES, f"one of {', '.join(MODES)}"),
            "precision": (self.precision in ("auto", "fp32", "bf16"), "one of auto, fp32, bf16"),
            "branches": (all(0 < part <= 1 for part in self.branches), "budgets, greater than 0 and at most 1"),
            "checkpoint_every": (0 <= self.checkpoint_every < math.inf, "at least 0 seconds"),
            "tags": (
                all(re.fullmatch(TAG, tag) for tag in self.tags),
                "words of at most 64 letters, digits and the characters _ . : - and spaces, as in [paper, table 2]",
            ),
        }
        for key, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{key}={getattr(self, key)} must be {rule}")
        if self.train_on == "validation" and not self.validation:
            raise ValueError("train_on=validation needs a held-out part; set validation, for example to 0.5")
        self.tags = list(dict.fromkeys(self.tags))
        self.data_dir, self.output_dir = path("data_dir", self.data_dir), path("output_dir", self.output_dir)
        self.init_from = path_or_none("init_from", self.init_from)
        if self.compile_mode != "default" and not self.compile:
            raise ValueError(f"compile_mode={self.compile_mode} has no effect without compile=true; set either")
        if self.full_seconds is not None and self.budget_unit != "seconds":
            raise ValueError(
                f"full_seconds={self.full_seconds} has no effect with budget_unit={self.budget_unit}; leave it out"
            )

    @property
    def earlier(self) -> list[float]:
        """The budgets in `branches` that are smaller than this one."""
        return sorted({part for part in self.branches if part < self.budget})


@dataclass
class Course:
    """How a run follows its schedule, whichever that is: values of the group `schedule`, beside the schedule's own.

    horizon: what the schedule goes over, the budget or the full training run, which is cut off where the budget ends.
    warmup: the first part of the horizon, in which the learning rate rises in a straight line to the schedule's first
    one; the schedule goes over the rest. Source: Goyal et al. 2017, whose milestones count the warm-up too.
    """

    horizon: str = "budget"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.horizon not in HORIZONS:
            raise ValueError(f"horizon={self.horizon} must be one of {', '.join(HORIZONS)}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} must be in [0, 1), as a part of the horizon")


# facts(what, work): what `work` returns, a JSON value; kept beside the data, so that the next run need not work it out
Facts = Callable[[str, Callable[[], Any]], Any]


@dataclass
class Data:
    """A data set.

    images, test_images: uint8 [N, C, H, W], in memory, or Stored if they are many; labels, test_labels: int64 [N] in
    0 .. classes-1.
    mean, std: one number per channel, of pixels scaled to [0, 1]; None: measured on the training images.
    flip: whether a mirrored image keeps its label. padding: pixels of zero padding for random crops.
    position: int64 [N], which of the data set's training examples these are; None if none are held out.
    each_access: the step applied to training images whenever they are viewed, before augmentation.
    crop: the model sees the middle of so many pixels per side, unless an augmentation takes another part; None: all.
    facts: where to keep what is worked out about them; None if the data set is read as a whole each time.
    """

    images: Tensor | Stored
    labels: Tensor
    test_images: Tensor | Stored
    test_labels: Tensor
    mean: list[float] | None = None
    std: list[float] | None = None
    flip: bool = False
    padding: int = 0
    classes: int = field(kw_only=True)
    val_images: Tensor | Stored | None = None
    val_labels: Tensor | None = None
    position: Tensor | None = None
    corrupted: Tensor | None = None  # bool [N], for diagnosis only: no sampler sees it
    each_access: Access | None = None
    crop: int | None = None
    facts: Facts | None = None

    def to(self, device: torch.device) -> Data:
        """The same data on `device`."""
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if hasattr(v, "to")})


@dataclass
class Batch:
    """B images, each made of K sources: K=1 plain, 2 mixup and CutMix, 4 RICAP.

    images: [B, C, H, W] in pixel values 0 .. 255, uint8 or float32.
    index, label: int64 [B, K], the training examples an image is made of and their labels.
    share: float32 [B, K], how much of the image each source is; a row sums to 1.
    drawn: int64 [B], the example that the sampler drew for the row, before any mixing.
    weight: float32 [B] or None (all 1), the factor of each image's loss in the batch's mean.
    others: [B, V, C, H, W] or None, V further views of each image that an update passes too, see GivesViews.
    """

    images: Tensor
    index: Tensor
    label: Tensor
    share: Tensor
    drawn: Tensor
    weight: Tensor | None = None
    others: Tensor | None = None

    @staticmethod
    def plain(images: Tensor, index: Tensor, label: Tensor) -> Batch:
        """Images of one source each, of the examples `index` [B] with the labels `label` [B]."""
        return Batch(images, index[:, None], label[:, None], torch.ones(len(index), 1, device=index.device), index)

    def __len__(self) -> int:
        return len(self.drawn)

    @property
    def passed(self) -> int:
        """How many images an update on the batch passes: those of its rows, and their further views."""
        return len(self) if self.others is None else len(self) * (1 + self.others.shape[1])

    def views(self) -> Tensor:
        """All of these [passed, C, H, W], the rows' own images first."""
        if self.others is None:
            return self.images
        return torch.cat([self.images, self.others.transpose(0, 1).flatten(0, 1)])

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        """The chosen rows as a new batch; rows: a slice, numbers int64 [b], or bool [B]."""
        columns = {k: v for k, v in vars(self).items() if v is not None}
        if isinstance(rows, Tensor) and rows.dtype == torch.int64:
            # copies whole rows: a third of 512 images of 32x32 in 0.08 ms on a CPU core; indexing takes 0.73 ms
            return Batch(**{k: v.index_select(0, rows) for k, v in columns.items()})
        return Batch(**{k: v[rows] for k, v in columns.items()})

    def split(self, count: int) -> list[Batch]:
        """Batches of `count` rows each, in order; the last may be shorter."""
        columns = {k: v.split(count) for k, v in vars(self).items() if v is not None}
        return [Batch(**dict(zip(columns, rows, strict=True))) for rows in zip(*columns.values(), strict=True)]

    def of_sources(self, values: Tensor) -> Tensor:
        """One value per image [B] from `values` [n] per example: the mean over its sources, weighted by share."""
        return (self.share * values[self.index]).sum(1)

    def mean(self, losses: Tensor) -> Tensor:
        """The loss [] of an update on the images: the mean of their losses [B], each times its weight."""
        return losses.mean() if self.weight is None else (losses * self.weight).mean()

    def mixed(self, images: Tensor, partners: list[Tensor], share: Tensor) -> Batch:
        """Images made of K rows of this (K=1) batch each: image i has `share[i, k]` of row `partners[k][i]`.

        If the rows have weights, an image gets its sources' weights by share. Raises UserError for mixed images.
        """
        if self.index.shape[1] > 1:
            raise UserError("aug mixes images more than once, and mixtures cannot be mixed again; choose one")
        rows = torch.stack(partners, dim=1)
        weight = None if self.weight is None else (self.weight[rows] * share).sum(1)
        index, label = (
            column[:, 0].index_select(0, rows.flatten()).view_as(rows) for column in (self.index, self.label)
        )
        return replace(self, images=images, index=index, label=label, share=share, weight=weight)

    def resized(self, size: torch.Size) -> Batch:
        """The same batch with images of this height and width; bilinear."""

        def changed(images: Tensor) -> Tensor:
            return F.interpolate(images.float(), size, mode="bilinear", antialias=True).round().to(images.dtype)

        views = None if self.others is None else changed(self.others.flatten(0, 1)).unflatten(0, self.others.shape[:2])
        return replace(self, images=changed(self.images), others=views)

    def state_dict(self) -> dict[str, Tensor]:
        """The arguments for Batch(**...), cloned: a slice would carry the whole tensor's memory into a file."""
        return {k: v.clone() for k, v in vars(self).items() if v is not None}

    def weighted(self) -> Batch:
        """The same batch with explicit weights."""
        return self if self.weight is not None else replace(self, weight=torch.ones_like(self.share[:, 0]))

    @staticmethod
    def cat(batches: list[Batch]) -> Batch:
        """The rows of all `batches`, in order; if any batch has weights, those without get weights of 1.

        Images of another size than those of the last batch, made before the size changed, are resized to it.
        """
        size = batches[-1].images.shape[2:]
        batches = [b if b.images.shape[2:] == size else b.resized(size) for b in batches]
        if any(b.weight is not None for b in batches):
            batches = [b.weighted() for b in batches]
        columns = [k for k, v in vars(batches[0]).items() if v is not None]
        return replace(batches[0], **{k: torch.cat([getattr(b, k) for b in batches]) for k in columns})


@dataclass
class Random:
    """The randomness of one purpose: `device` for draws on the training device, `host` for plain numbers."""

    device: torch.Generator
    host: np.random.Generator

    @staticmethod
    def seeded(seed: int, purpose: str, device: torch.device) -> Random:
        """Independent streams for every (seed, purpose); the same on every machine with the same device type."""
        sequence = np.random.SeedSequence([seed, *purpose.encode()])
        for_device, for_host = sequence.spawn(2)
        state = int(for_device.generate_state(1, np.uint64)[0]) >> 1  # torch takes a signed 64-bit seed
        return Random(torch.Generator(device).manual_seed(state), np.random.Generator(np.random.PCG64(for_host)))

    def state_dict(self) -> dict[str, Any]:
        return {"device": self.device.get_state(), "host": self.host.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.device.set_state(state["device"].cpu())
        self.host.bit_generator.state = state["host"]


@dataclass
class Context:
    """What a method is given: facts about the training run, and its only access to the data and the model.

    n, classes: number of training examples and of classes. labels: int64 [n], as used in training.
    batch_size: images per update. fraction: the budget, in (0, 1]. epoch: updates of one full pass.
    validation: the held-out part as one plain batch (its `drawn` and `index` count in that part), or None.
    view(index): augmented images of the examples `index` [B]; costs nothing. view.plain(index): without augmentation.
        everything(): all examples without augmentation, in order, in batches. stream(plan): views made ahead of time.
    progress(): how much of the budget is spent: 0 at the first update, 1 at the last.
    read_scores(file, acquisition=None): the columns [m] of a file of scores, among them `index` and `score`; see
        scorefile.read. The result states what the file cost to make.
    select: the rule by which a sampler chooses among examples with scores.
    read_kept(file): the indices [m], in order, of a kept.csv, the subset of an earlier run.
    read_features(file): the features of all examples, float32 [n, D], of a file that is not this run's, see ByFeatures.
    state_folder: a folder for files of the method's state, see KeepsFiles; it may not exist yet.
    needs_features(): raises UserError if the model has no last linear layer, or one that embed cannot use.
    logit_gradients(logits, batch): d loss_i / d logits_i [B, classes] of the run's loss; needs no pass of the model.

    Charged as one forward pass per image, of its size:
    look(batch, training=False, scale=1.0): the losses [B] and logits [B, classes] under the current model, without
        gradients, in evaluation mode; or in training mode, as in some published code: BatchNorm then normalises by the
        batch and updates its running statistics. scale: of the images' sides; smaller images cost less.
    embed(batch, scale=1.0): the input [B, D] of the model's last linear layer, and the logits [B, classes], in
        evaluation mode.
    Charged as one forward and one backward pass per image:
    gradient_norms(batch): the norm [B] of each image's own gradient over all parameters that train, in evaluation mode.
    Charged by the passes of the second network:
    second(model): another network that trains alongside the first, see SecondModel.
    """

    n: int
    classes: int
    labels: Tensor
    batch_size: int
    fraction: float
    epoch: int
    device: torch.device
    random: Random
    view: View
    validation: Batch | None
    progress: Callable[[], float]
    select: Rule
    read_scores: ReadScores
    read_kept: Callable[[str], Tensor]
    read_features: Callable[[str], Tensor]
    state_folder: Path
    needs_features: Callable[[], None]
    logit_gradients: Callable[[Tensor, Batch], Tensor]
    look: Look
    embed: Embed
    gradient_norms: Callable[[Batch], Tensor]
    second: Callable[[Model], SecondModel]

    def permutation(self) -> Tensor:
        """All examples in a new random order, int64 [n]."""
        return torch.randperm(self.n, generator=self.random.device, device=self.device)

    def shuffled(self, index: Tensor) -> Tensor:
        """The same examples in a new random order, int64 [m]."""
        return index[torch.randperm(len(index), generator=self.random.device, device=index.device)]

    def stream(self, plan: Plan) -> Stream:
        """An endless stream of augmented examples in the order that `plan` draws them, see Stream."""
        return self.view.stream(plan)

    def everything(self) -> Iterator[Batch]:
        """All examples once, in order, without augmentation, in batches of the usual size."""
        return self.view.in_order(self.batch_size)


class Common(Context):
    """That of a run with which others begin, see training/branches.py: a sampler that follows the budget differs."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("fraction", "progress"):
            raise UserError(
                "branches: this sampler follows the budget, so runs with other budgets draw other batches; choose "
                "another one, such as sampler=scan, or leave branches out"
            )
        return super().__getattribute__(name)


class Stateful(Protocol):
    """A part of a run with state for checkpoints: tensors, numbers, and lists and dictionaries of them."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


# the indices of the next draw, int64 [m] with m >= 1; or those and the weights of the drawn examples, float32 [m]
Plan = Callable[[], Tensor | tuple[Tensor, Tensor]]


class View(Protocol):
    """Training examples as the model sees them."""

    def __call__(self, index: Tensor) -> Batch:
        """Augmented images of the examples `index` [B]."""
        ...

    def plain(self, index: Tensor) -> Batch:
        """The examples `index` [B] without augmentation."""
        ...

    def in_order(self, count: int) -> Iterator[Batch]:
        """All examples without augmentation, `count` at a time."""
        ...

    def stream(self, plan: Plan) -> Stream: ...


@runtime_checkable
class Stream(Stateful, Protocol):
    """An endless stream of augmented examples, cut into batches of any size.

    `plan` is called when the last draw is used up. A batch may hold the end of one draw and the beginning of the next,
    so that no drawn example is dropped. If `plan` returns weights, the batches carry them; a mixed image gets its
    sources' weights by share.
    """

    def take(self, count: int) -> Batch:
        """A view of the next `count` examples."""
        ...

    @property
    def waiting(self) -> int:
        """How many examples of the last draw have not been taken yet."""
        ...


class ReadScores(Protocol):
    def __call__(self, file: str, acquisition: str | None = None) -> dict[str, Tensor]: ...


class Look(Protocol):
    def __call__(self, batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]: ...


class Embed(Protocol):
    def __call__(self, batch: Batch, scale: float = 1.0) -> tuple[Tensor, Tensor]: ...


class SecondModel(Stateful, Protocol):
    """A network beside the trained one: the same optimizer, schedule, loss and precision, but its own weights."""

    def look(self, batch: Batch, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Losses [B] and logits [B, classes], in evaluation mode; charges its forward passes. scale: see Context."""
        ...

    def learn(self, batch: Batch) -> None:
        """One update on the batch, with its weights; charges its forward and backward passes."""
        ...


class Optimizer(Protocol):
    def build(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer: ...


class Rule(Protocol):
    """Chooses a part of the examples by their scores."""

    def __call__(self, columns: Mapping[str, Tensor], count: int, random: torch.Generator) -> Tensor:
        """Positions int64 [count] in the columns, each at most once, in the order of the choice.

        columns: [m] each, of a file of scores, among them `score`, of which the higher is the better; m is at least
        count. They are in random order: a stable sort ranks equal scores at random. If the rule is ByFeatures,
        `features` [m, D] is among them. Raises UserError if they lack what the rule needs.
        """
        ...


class Schedule(Protocol):
    """Optional: SetsMomentum."""

    def __call__(self, lr: float, progress: float) -> float:
        """The learning rate at a progress in [0, 1], given the initial one."""
        ...


class Freezing(Protocol):
    """Optional: Rests."""

    def frozen(self, progress: float, layers: int) -> int:
        """How many of a network's `layers`, counted in the order in which images pass them, do not train.

        progress: how much of the budget is spent, in [0, 1]. At most layers - 1, since the last one always trains.
        """
        ...


class Dataset(Protocol):
    """Optional: KnowsChannels."""

    def load(self, folder: str) -> Data:
        """Read the data, downloading it into `folder` if needed. Raises UserError if it cannot be obtained."""
        ...


class Model(Protocol):
    def build(self, channels: int, classes: int) -> nn.Module:
        """A network that maps float images [B, channels, H, W] to logits [B, classes].

        It may have a further argument `image_size`: the pixels per side of the images that the network is given, after
        resizing and cropping. Such a model takes square images only.
        """
        ...


class Augmentation(Protocol):
    """A step of the augmentation. Optional: ImageWise, TakesWhole, Mixing, GivesViews, ByData, ChecksShape, Resizes."""

    def __call__(self, batch: Batch, random: Random) -> Batch:
        """A changed batch of the same length; on the device, without waiting for the host."""
        ...


class Loss(Protocol):
    """Optional: ClosedForm."""

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss [B] of every image, from float32 logits [B, classes]."""
        ...


class Access(Augmentation, Protocol):
    """A step that comes before augmentation and belongs to the data: uint8 images in, uint8 images out."""

    def to(self, device: torch.device) -> Access: ...


class Noise(Protocol):
    """Optional: KnowsRate."""

    def apply(self, data: Data, random: Random) -> Data:
        """The data, on the CPU, with corrupted training examples and their mask [N] `corrupted`.

        Validation and test examples stay clean. For labels, the mask says which are wrong.
        """
        ...


@dataclass
class Tracked:
    """A run as a tracker is told of it.

    folder: the run's, an absolute path. group: a name that runs share which differ in the seed alone. tags: its labels.
    config: its settings, named as on the command line (`sampler`, `sampler.pool`).
    """

    run_id: str
    folder: Path
    group: str
    tags: list[str]
    config: dict[str, Any]


class Logger(Protocol):
    """Writes a run into a tracker. Optional: NeedsPackages.

    What it raises, or that it takes longer than two minutes, is said once; the run then goes on without it. The
    budget's clock is stopped while it is called, in a thread that is not always the same. Its fields are no part of a
    run's id.
    """

    def open(self, run: Tracked, lines: Sequence[Mapping[str, Any]]) -> None:
        """Begin the record of a run, or go on in it, so that it holds exactly these evaluations, in order.

        An interrupted run goes on from its checkpoint: the record may hold evaluations that will come again.
        """
        ...

    def log(self, line: Mapping[str, Any]) -> None:
        """Add an evaluation: a line of metrics.jsonl, of which `updates` tells when it was."""
        ...

    def close(self, state: str, result: Mapping[str, Any]) -> None:
        """End the record. state: finished | failed | interrupted; the latter two may go on.

        result: of a finished run, what result.json holds besides the configuration, as numbers, words and lists.
        """
        ...


class Sampler(Protocol):
    """Chooses what the next update trains on.

    The loop calls `start` once, then for every update `draw`, the forward pass, `observe`, the backward pass.
    A parameter of the method is a dataclass field; everything it learns goes through `state_dict`. Optional: Dropping,
    ScalesRate, ChangesSize, TakesLong, ScalesLooks, ReadsFile, ReadsBase, Selects, KeepsFiles.
    """

    def start(self, context: Context) -> None: ...

    def draw(self) -> Batch:
        """The next training batch, at most `context.batch_size` images, with `weight` set if the method has weights."""
        ...

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        """Learn from the training forward pass: losses [B] and logits [B, classes], detached, float32.

        This comes before the backward pass, so it may still set `batch.weight`.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Scorer(Protocol):
    """Gives every training example a score, in an ordinary run that writes the scores to a file at the end.

    The loop calls `start` once, `observe` at every update as for a sampler, and `scores` after the last one. Looks are
    charged. Those of `scores` come after the budget is spent, and count in the cost that the file states.
    Every score is a finite number, higher for examples that are harder or to be chosen first. Optional: OfPart,
    OfKind, FromScratch, ByFeatures, TakesLong, KeepsFiles, Additive.
    """

    def start(self, context: Context) -> None: ...

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None: ...

    def scores(self) -> dict[str, Tensor]:
        """Columns [m] of the file: `score`, any further ones, and `index` unless every example is included."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


# ---- optional features of parts, detected by isinstance


@runtime_checkable
class KnowsChannels(Protocol):
    """A data set that knows how many channels its images have, so that mean and std are checked before it is read."""

    channels: int
    mean: list[float] | None
    std: list[float] | None


@runtime_checkable
class ImageWise(Protocol):
    """A step of the augmentation that says whether it changes each image independently.

    If so, it may be given several batches at once; other steps get one training batch at a time.
    """

    image_wise: bool


@runtime_checkable
class TakesWhole(Protocol):
    """A step of the augmentation that, as the first one, is given whole images, of which it makes such as the model
    sees: [B, C, crop, crop] where the data set has a `crop`."""

    takes_whole: bool


@runtime_checkable
class Resizes(Protocol):
    """A step of the augmentation that makes images smaller, by how much of the budget is spent, for cheaper passes."""

    def shapes(self, shape: torch.Size) -> list[torch.Size]:
        """All other shapes that images [C, H, W] have at some time in a run."""
        ...

    def __call__(self, batch: Batch, random: Random, progress: float = 1.0) -> Batch:
        """As of Augmentation, at this progress."""
        ...


@runtime_checkable
class Mixing(Protocol):
    """A step of the augmentation that says whether it mixes several images into one; at most one step may do so."""

    mixes: bool


@runtime_checkable
class SetsMomentum(Protocol):
    """A schedule that says the momentum too. It is told the part of itself that one update is."""

    def __call__(self, lr: float, progress: float, update: float = 0.0) -> float:
        """As of Schedule, at updates of this size in (0, 1]."""
        ...

    def momentum(self, progress: float, update: float = 0.0) -> float | None:
        """The momentum, which for an optimizer with betas is the first of them; None: the optimizer's own, always."""
        ...


@runtime_checkable
class Rests(Protocol):
    """A freezing that says whether frozen layers stay in evaluation mode, in which BatchNorm's statistics stand still
    and dropout is off; else frozen layers go on in training mode, though their weights stay."""

    rests: bool


@runtime_checkable
class GivesViews(Protocol):
    """A step of the augmentation that gives further views of each image, in `batch.others`; it is the last step.

    An update passes them beside the image, and is charged for each. The image's loss then has a further term,
    consistency times the Jensen-Shannon divergence of the predictions for all its views. Whoever looks or observes sees
    the image alone, and its loss without that term.
    others: how many; 0 for none.
    """

    others: int
    consistency: float


@runtime_checkable
class ByData(Protocol):
    """A step of the augmentation with values that the data set decides where they are null."""

    def of(self, data: Data) -> Augmentation:
        """The step with the values that it has for these data."""
        ...


@runtime_checkable
class ChecksShape(Protocol):
    """A step of the augmentation that does not accept images of every shape."""

    def check(self, shape: torch.Size) -> None:
        """Raise UserError if it does not accept images [C, H, W]; called before anything starts."""
        ...


@runtime_checkable
class ClosedForm(Protocol):
    """A loss with gradients in closed form; torch differentiates other losses if a method needs their gradients."""

    def logit_gradients(self, logits: Tensor, batch: Batch) -> Tensor:
        """d loss_i / d logits_i, [B, classes]."""
        ...


@runtime_checkable
class KnowsRate(Protocol):
    """Noise that states what share of the examples it corrupts; a share too small to corrupt any is refused."""

    rate: float


@runtime_checkable
class Dropping(Protocol):
    """A sampler that leaves examples out without looking at them; dropped: how many so far, for the keep rate."""

    dropped: float


@runtime_checkable
class TakesLong(Protocol):
    """A sampler whose next `draw`, or a scorer whose next `observe`, may take longer than a second.

    A run that is asked to stop then abandons that call, wherever it is, and saves the state before it. If every draw
    takes long, this need not be declared.
    """

    takes_long: bool


@runtime_checkable
class ScalesLooks(Protocol):
    """A sampler that looks at images of `looks_scale` times their size; the model is checked on these, too."""

    looks_scale: float


@runtime_checkable
class ScalesRate(Protocol):
    """A sampler that asks for another learning rate; lr_factor: of the schedule's, for the batch that it drew last."""

    lr_factor: float


@runtime_checkable
class ReadsFile(Protocol):
    """A sampler that reads a file of scores, which is checked before anything starts; None if none is set."""

    file: str | None


@runtime_checkable
class ReadsBase(Protocol):
    """A sampler that reads the subset of an earlier run, which is checked before anything starts."""

    base: str | None


@runtime_checkable
class Selects(Protocol):
    """A sampler that trains on the same examples for the whole run, and has them written to kept.csv of its folder."""

    def selection(self) -> Tensor:
        """Their indices, int64 [m], once it has started."""
        ...


@runtime_checkable
class Picks(Protocol):
    """A sampler that says whether it chooses by `context.select`."""

    picks: bool


@runtime_checkable
class ByFeatures(Protocol):
    """A part that compares examples by their features in a file; None: by those of the run, the last layer's input."""

    features: str | None


@runtime_checkable
class ChangesSize(Protocol):
    """A sampler whose batches are not all of the usual size."""

    def sizes(self, batch_size: int) -> set[int]:
        """All that there may be; with compile=true, the model is compiled for them before the clock starts."""
        ...


@runtime_checkable
class ChecksCount(Protocol):
    """A rule that cannot choose as many as there are, and that takes too long to find it out by choosing."""

    def check(self, there: int, count: int) -> None:
        """Raise UserError if it cannot choose `count` of `there` examples."""
        ...


@runtime_checkable
class FromScratch(Protocol):
    """A scorer that is right only for a network that no earlier run has trained. from_scratch: true."""

    from_scratch: bool


@runtime_checkable
class OfPart(Protocol):
    """A scorer of the examples of one part, "training" or "validation"; others score the examples trained on."""

    of: str


@runtime_checkable
class KeepsFiles(Protocol):
    """A method with state that is too large for a checkpoint, in files in `context.state_folder`.

    files: those that its present state needs. They are never changed: a new state has new files. Files are deleted when
    neither the present state nor a checkpoint needs them.
    """

    files: set[Path]


@runtime_checkable
class OfKind(Protocol):
    """A scorer that says how its files combine, if not by the mean of their columns; see folder/scorefile.py."""

    kind: str


@runtime_checkable
class NeedsPackages(Protocol):
    """A tracker that needs packages which may not be installed. needs: by name, what to install for each."""

    needs: Mapping[str, str]


@runtime_checkable
class Additive(Protocol):
    """A scorer with sums over the members of an ensemble, which add up over the files of several runs.

    sums: their file, see budgetrun/acquisition.py, once there are scores. taken: how many members it has.
    acquisition: the one that is the score, unless the reader says otherwise.
    """

    sums: Path
    taken: int
    acquisition: str


# ---- whether parts fulfil their protocols, and go together


def named(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def one(value: object) -> str:
    """What kind of thing a value is, in words."""
    return "nothing" if value is None else f"a {type(value).__name__}"


ASKED_FOR = {"build": ("image_size",)}  # arguments that a method may have besides those of its protocol


def fits(part: object, protocol: Any) -> str | None:
    """Why an object does not fulfil a `protocol` of this module, in words; None if it does.

    It must have the protocol's methods with as many arguments, and may have those of ASKED_FOR. Where both are
    annotated, the types of the arguments and of the result must agree too: a loss and a schedule are both called with
    two arguments.
    """
    kinds = [kind for kind in protocol.__mro__ if getattr(kind, "_is_protocol", False)]
    methods = {
        name: member
        for kind in reversed(kinds)
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and (name == "__call__" or not name.startswith("_"))
    }
    for name, asked in methods.items():
        lacks = "it cannot be called" if name == "__call__" else f"it has no method {name}"
        given = part if name == "__call__" else getattr(part, name, None)
        if not callable(given):
            return lacks
        parameters = [*inspect.signature(asked).parameters][1:]  # without self
        may_ask = ASKED_FOR.get(name, ())
        try:
            signature = inspect.signature(given)
            by_name = {one: one for one in may_ask if one in signature.parameters}
            taken = signature.bind(*parameters, **by_name).arguments
        except TypeError:
            besides = "".join(f", or also {one}" for one in may_ask)
            return f"{lacks} with {', '.join(parameters) or 'nothing'}{besides}"
        except ValueError:  # the signature of a function not written in Python
            continue
        of_asked = types_of(asked)
        of_given = types_of(given if inspect.isroutine(given) else type(given).__call__)
        for one, other in [*zip(parameters, taken, strict=False), ("return", "return")]:
            wanted, has = of_asked.get(one), of_given.get(other)
            if wanted and has and not related(wanted, has):
                where = f"what {name} returns" if one == "return" else f"the {other} of {name}"
                return f"{where} is a {has.__name__}, and must be a {wanted.__name__}"
    return None


def types_of(function: Any) -> dict[str, type]:
    """The types of a function's parameters and of its result, as far as they are annotated with classes."""
    try:
        said = get_type_hints(function)
    except Exception:  # names that do not exist at runtime
        return {}
    found = {name: get_origin(kind) or kind for name, kind in said.items()}
    return {name: kind for name, kind in found.items() if inspect.isclass(kind) and kind not in (type(None), Any)}


def related(one: type, other: type) -> bool:
    """Whether a value can be of both types; int and float count as related, and so does any protocol."""
    if any(getattr(kind, "_is_protocol", False) for kind in (one, other)) or {one, other} == {int, float}:
        return True
    return issubclass(one, other) or issubclass(other, one)


def passes(steps: Iterable[Augmentation]) -> int:
    """How many images an update passes for each of its rows: the image, and its further views."""
    return 1 + sum(step.others for step in steps if isinstance(step, GivesViews))


def check_row(steps: Sequence[Augmentation]) -> None:
    """Raise UserError if more than one step of the augmentation mixes images, or one that gives views is not last."""
    if passes(steps[:-1]) > 1:
        *_, last = (type(step).__name__.lower() for step in steps)
        raise UserError(
            f"aug.{last} comes after a step with a consistency loss, whose further views it would not change; "
            "put that step last, as in aug=[cutout,augmix_consistency]"
        )
    mixing = [type(step).__name__.lower() for step in steps if isinstance(step, Mixing) and step.mixes]
    if len(mixing) > 1:
        raise UserError(
            f"aug=[{','.join(mixing)}] mixes images more than once, and mixtures cannot be mixed again; choose one"
        )


def check_schedule(schedule: Schedule, lr: float) -> None:
    """Raise UserError if a learning rate is negative, infinite or not a number, or if the last one is above `lr`."""
    rates: dict[float, Any] = {progress: schedule(lr, progress) for progress in (0.0, 0.5, 1.0)}
    for progress, rate in rates.items():
        if not isinstance(rate, int | float):
            raise UserError(
                f"schedule ({named(schedule)}) returns {rate!r} at {progress:.0%} of the budget, "
                "and must return the learning rate, a number"
            )
        if not 0 <= rate < math.inf:
            raise UserError(f"schedule gives the learning rate {rate} at {progress:.0%} of the budget, with lr={lr:g}")
    if rates[1.0] > lr:
        raise UserError(
            f"lr={lr:g} is below the learning rate that the schedule ends with, {rates[1.0]:g}; set lr higher, or "
            + ("schedule.final lower" if hasattr(schedule, "final") else "let the schedule(lr, progress) end lower")
        )


def check_choice(chosen: Any, rule: object, there: int, count: int) -> None:
    """Raise UserError unless a rule of selection returned `count` different positions, int64, of `there`."""
    where = f"select ({named(rule)})"
    if not isinstance(chosen, Tensor) or chosen.dtype != torch.int64 or chosen.ndim != 1:
        what = f"{chosen.dtype} {list(chosen.shape)}" if isinstance(chosen, Tensor) else one(chosen)
        raise UserError(
            f"{where} returns {what}, and must return positions in the columns, a tensor of torch.int64 [count]"
        )
    if len(chosen) != count or len(chosen.unique()) != count or not ((chosen >= 0) & (chosen < there)).all():
        raise UserError(
            f"{where} returns {len(chosen)} positions for count={count}, of them {len(chosen.unique())} different, and "
            f"must return as many as count, each once, in 0 .. {there - 1}"
        )
