"""From Hydra's composed configuration to a checked experiment: types, ranges, names, and a hash that identifies it."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from budgetrun.budget import UNITS
from budgetrun.contracts import Augmentation, Dataset, Model, Noise, Sampler, UserError

GROUPS = ("dataset", "model", "sampler", "aug", "noise", "optimizer", "schedule")
# what decides where and how an experiment runs, not what it is: no part of its identity
ELSEWHERE = ("device", "data_dir", "output_dir", "checkpoint_every", "force")


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
    validation: float
    evaluations: int
    full_seconds: float | None
    device: str
    precision: str
    deterministic: bool
    compile: bool
    data_dir: str
    output_dir: str
    checkpoint_every: float
    force: bool

    def __post_init__(self) -> None:
        finite = math.isfinite
        rules = {
            "budget": (0 < self.budget <= 1, "greater than 0 and at most 1: the part of the full training to spend"),
            "budget_unit": (self.budget_unit in UNITS, f"one of {', '.join(UNITS)}"),
            "seed": (0 <= self.seed < 2**63, "a whole number from 0"),
            "epochs": (finite(self.epochs) and self.epochs > 0, "greater than 0"),
            "batch_size": (self.batch_size >= 1, "at least 1 image"),
            "lr": (finite(self.lr) and self.lr > 0, "greater than 0"),
            "weight_decay": (finite(self.weight_decay) and self.weight_decay >= 0, "at least 0"),
            "validation": (0 <= self.validation < 1, "in [0, 1): the part of the training set to hold out"),
            "evaluations": (self.evaluations >= 1, "at least 1: the last evaluation is the result"),
            "full_seconds": (self.full_seconds is None or 0 < self.full_seconds < math.inf, "greater than 0, or null"),
            "precision": (self.precision in ("auto", "fp32", "bf16"), "one of auto, fp32, bf16"),
            "checkpoint_every": (self.checkpoint_every >= 0, "at least 0 seconds"),
        }
        for key, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{key}={getattr(self, key)} must be {rule}")
        try:
            torch.device("cpu" if self.device == "auto" else self.device)
        except RuntimeError:
            raise ValueError(f"device={self.device} must be one of auto, cpu, cuda, cuda:0, cuda:1, ...") from None
        if self.full_seconds is not None and self.budget_unit != "seconds":
            raise ValueError(
                f"full_seconds={self.full_seconds} has no effect with budget_unit={self.budget_unit}; leave it out"
            )


@dataclass
class Experiment:
    """A checked configuration with its parts built. One experiment is one run: the sampler has state.

    names: the option of each group. resolved: the whole configuration as plain values. run_id: the same for the
    same experiment, however it was typed.
    """

    settings: Settings
    dataset: Dataset
    model: Model
    sampler: Sampler
    aug: list[Augmentation]
    noise: Noise | None
    optimizer: Callable[..., torch.optim.Optimizer]
    schedule: Callable[[float, float], float]
    names: dict[str, str]
    resolved: dict[str, Any]
    run_id: str


def experiment(cfg: DictConfig, names: Mapping[str, str]) -> Experiment:
    """Check a composed configuration and build its parts; no data is touched.

    names: the option chosen in each group. Raises UserError with one sentence that names the key.
    """
    names = {group: names.get(group, "custom") for group in GROUPS}
    try:
        resolved: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'the configuration'}: {one_line(error)}") from error
    scalars = {key: value for key, value in resolved.items() if key not in GROUPS}
    settings = typed(Settings, scalars, "")
    parts = {group: resolved.get(group) or {} for group in GROUPS}
    optimizer = build(parts["optimizer"], "optimizer.")
    try:  # torch checks the values itself
        optimizer([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr, weight_decay=settings.weight_decay)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer={names['optimizer']}: {error}") from error
    if settings.batch_size == 1 and names["aug"] in ("mixup", "cutmix", "ricap"):
        raise UserError(
            f"aug={names['aug']} mixes the images of a batch, and batch_size=1 has none to mix: set it to 2 or more"
        )
    return Experiment(
        settings=settings,
        dataset=build(parts["dataset"], "dataset."),
        model=build(parts["model"], "model."),
        sampler=build(parts["sampler"], "sampler."),
        aug=[build(step, f"aug.{name}.") for name, step in parts["aug"].items()],
        noise=build(parts["noise"], "noise.") if parts["noise"] else None,
        optimizer=optimizer,
        schedule=build(parts["schedule"], "schedule."),
        names=names,
        resolved=resolved,
        run_id=run_id(settings, names, resolved),
    )


def run_id(settings: Settings, names: Mapping[str, str], resolved: Mapping[str, Any]) -> str:
    """A readable name and the hash of what the experiment is: `digits-cnn-is-ricap-b0.3-s0-1a2b3c4d`."""
    own = dataclasses.asdict(settings)
    identity = {**resolved, **own, "names": dict(names)}
    # where a data set lies on a machine is not what it is
    identity["dataset"] = {k: v for k, v in (resolved.get("dataset") or {}).items() if k != "system"}
    identity = {key: value for key, value in identity.items() if key not in ELSEWHERE}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    chosen = [names[group] for group in ("dataset", "model", "sampler", "aug", "noise") if names[group] != "none"]
    unit = "" if settings.budget_unit == "updates" else f"-{settings.budget_unit}"
    return f"{'-'.join(chosen)}-b{settings.budget:g}{unit}-s{settings.seed}-{digest}"


def build(values: Mapping[str, Any], where: str) -> Any:
    """The component that `_target_` names, made of the other values; `where` is their path, for messages."""
    values = dict(values)
    target = values.pop("_target_", None)
    if not isinstance(target, str):
        raise UserError(f"{where}_target_ is missing: it names the Python class that the values are for")
    from hydra.utils import get_object

    try:
        kind = get_object(target)
    except Exception as error:  # whatever importing somebody's module raises
        raise UserError(f"{where}_target_={target} cannot be imported ({one_line(error)})") from error
    if dataclasses.is_dataclass(kind):
        return typed(kind, values, where)
    known = [name for name, p in inspect.signature(kind).parameters.items() if p.kind is not p.VAR_KEYWORD]
    for key in values:
        if key not in known:
            raise UserError(unknown(where + key, (where + name for name in known)))
    return functools.partial(kind, **values)


def typed(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass `kind` of `values`, converted to its annotated types as OmegaConf does ("0.3" is a float)."""
    schema = OmegaConf.structured(kind)
    known = list(schema)
    for key in values:
        if key not in known:
            raise UserError(unknown(where + str(key), (where + str(name) for name in known)))
    for name in known:
        if OmegaConf.is_missing(schema, name) and name not in values:
            raise UserError(f"{where}{name} has no value")
    for key, value in values.items():
        try:
            schema[key] = value
        except OmegaConfBaseException:
            expected = next(f.type for f in dataclasses.fields(kind) if f.name == key)
            raise UserError(f"{where}{key}={value} is not {in_words(str(expected))}") from None
    try:
        plain: Any = OmegaConf.to_container(schema)
        return kind(**plain)
    except ValueError as error:
        raise UserError(f"{where}{error}") from error


def in_words(annotation: str) -> str:
    words = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a word", "None": "null"}
    words |= {"list[float]": "a list of numbers, as in [0.1, 0.2]", "list[int]": "a list of whole numbers"}
    return " or ".join(words.get(part, part) for part in annotation.split(" | "))


def unknown(key: str, known: Iterable[str]) -> str:
    """The sentence for a key that does not exist, with the nearest one that does."""
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"there is no {key}; " + (f"did you mean {close[0]}?" if close else "--help lists what there is")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
