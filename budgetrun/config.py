"""From Hydra's composed configuration to a checked experiment: types, ranges, names, and a hash that identifies it."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import json
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from budgetrun.contracts import (
    Augmentation,
    ByFeatures,
    Course,
    Dataset,
    Freezing,
    Logger,
    Loss,
    Model,
    Noise,
    Optimizer,
    Picks,
    ReadsBase,
    ReadsFile,
    Rule,
    Sampler,
    Schedule,
    Scorer,
    Settings,
    UserError,
    fits,
)
from budgetrun.errors import at_own, in_full, one_line
from budgetrun.folder import features, scorefile
from budgetrun.identity import NEUTRAL_OPTIONS, run_id, why_unsaid

PROTOCOLS = {
    "dataset": Dataset,
    "model": Model,
    "freeze": Freezing,
    "sampler": Sampler,
    "select": Rule,
    "aug": Augmentation,
    "noise": Noise,
    "loss": Loss,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "scores": Scorer,
    "logger": Logger,
}
GROUPS = tuple(PROTOCOLS)
SEVERAL = ("aug", "logger")  # the groups of which several options may be chosen, each with parts that have names
OPTIONAL = ("freeze", "noise", "scores")  # the groups whose option may be none
COURSE = tuple(f.name for f in dataclasses.fields(Course))  # what may be set for every schedule
FITTING: set[tuple[Any, Any]] = set()  # classes, each with a protocol that it is known to fulfil


@dataclass
class Experiment:
    """A checked configuration with its parts built. Each run needs its own experiment: the sampler has state.

    names: the option of each group. resolved: the whole configuration as plain values. Neither has `logger`, which is
    no part of a result. run_id: the same for the same experiment, however it was typed. tuning: the folders of the runs
    by which a value is chosen, and `choose`, the same experiment with that value once they are finished. tuned: what
    its result says about that choice. All three are made by launch/tuning.py. shares_data: the next run in this process
    may have the same clean data in memory; set by the jobs of a sweep.
    """

    settings: Settings
    dataset: Dataset
    model: Model
    freeze: Freezing | None
    sampler: Sampler
    select: Rule
    aug: list[Augmentation]
    noise: Noise | None
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    course: Course
    scores: Scorer | None
    logger: dict[str, Logger]
    names: dict[str, str]
    resolved: dict[str, Any]
    run_id: str
    tuning: list[Path] = field(default_factory=list)
    choose: Callable[[], Experiment] | None = None
    tuned: dict[str, Any] = field(default_factory=lambda: {"flops_tuning": 0})
    shares_data: bool = False


def experiment(cfg: DictConfig | Mapping[str, Any], choices: Mapping[str, Any]) -> Experiment:
    """Check a composed configuration, or its plain values, and build its parts; no data is touched.

    choices: the option or options chosen in each group. Raises UserError with one sentence that names the key.
    """
    values: Mapping[str, Any] = plain(cfg) if isinstance(cfg, DictConfig) else cfg
    if "grid" in values:
        raise UserError("grid= makes its own sweep; leave out hydra.mode and other sweepers")
    if values.get("tune"):
        raise UserError("tune= chooses a value by other runs; build the experiment with launch.tuning.experiment_of")
    for group in (group for group in GROUPS if group not in SEVERAL):
        if "+" in (name := name_of(choices.get(group))):
            options = name.replace("+", ",")
            raise UserError(f"{group}=[{options}] is more than one; choose one, or sweep: -m {group}={options}")
    settings = typed(Settings, {str(key): value for key, value in values.items() if key not in (*GROUPS, "tune")}, "")
    course, own = apart(values.get("schedule"))
    values = {**values, "schedule": own}
    # the groups with one component or none; augmentation is a sequence of steps, and there may be several trackers
    single: dict[str, Any] = {
        group: None if group in OPTIONAL and not values.get(group) else build(values.get(group), f"{group}.", protocol)
        for group, protocol in PROTOCOLS.items()
        if group not in SEVERAL
    }
    steps, logger = (
        {name: build(part, f"{group}.{name}.", PROTOCOLS[group]) for name, part in (values.get(group) or {}).items()}
        for group in SEVERAL
    )
    # if a YAML file lists augmentations, only the names of their steps are known
    parts = {**{group: part and [group] for group, part in single.items()}, "aug": list(steps)}
    named = (group for group in GROUPS if group != "logger")
    names = {group: name_of_choice(group, choices.get(group), parts[group] or []) for group in named}
    if settings.batch_size == 1 and {"mixup", "cutmix", "ricap"} & set(names["aug"].split("+")):
        raise UserError(f"batch_size=1 leaves aug={names['aug']} no images to mix; set it to 2 or more")
    sampler = single["sampler"]
    if isinstance(sampler, ReadsFile):
        scorefile.need(sampler.file, "sampler.file")
    if isinstance(sampler, ReadsBase):
        scorefile.need(sampler.base, "sampler.base")
    for part in (single["select"], single["scores"]):
        for compares in (part, getattr(part, "method", None)):  # a core-set's method is a part of its own
            if isinstance(compares, ByFeatures):
                features.need(compares.features)
    picks = isinstance(sampler, Picks) and sampler.picks
    if not picks and (rule := names.pop("select")) != NEUTRAL_OPTIONS["select"]:
        raise UserError(f"select={rule} has no effect with sampler={names['sampler']}; it is for sampler=subset")
    resolved = {
        **{group: values_of(part) if part else {} for group, part in single.items() if group in names},
        "schedule": {**values_of(single["schedule"]), **dataclasses.asdict(course)},
        "aug": {name: values_of(step) for name, step in steps.items()},
        **dataclasses.asdict(settings),
    }
    return Experiment(
        settings,
        **single,
        course=course,
        aug=list(steps.values()),
        logger=logger,
        names=names,
        resolved=resolved,
        run_id=run_id(names, resolved),
    )


def apart(values: Any) -> tuple[Course, Any]:
    """What the group `schedule` says for every schedule, and the values of the chosen one."""
    if not isinstance(values, Mapping):
        return Course(), values
    course = typed(Course, {key: value for key, value in values.items() if key in COURSE}, "schedule.")
    return course, {key: value for key, value in values.items() if key not in COURSE}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved values of a configuration; raises UserError if one cannot be resolved, or is missing."""
    try:
        values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'the configuration'}: {one_line(error)}") from error
    return values


def name_of(chosen: str | list[str] | None) -> str:
    """One name for the options of a group: aug=[ricap] is ricap, aug=[randaugment,ricap] is randaugment+ricap."""
    options = [chosen] if isinstance(chosen, str) else chosen or []
    return "+".join(dict.fromkeys(option for option in options if option != "none")) or "none"


def name_of_choice(group: str, chosen: str | list[str] | None, parts: list[str]) -> str:
    """The name of the choice in a group that has these parts; raises UserError if the parts have no name."""
    name = name_of(chosen)
    if name == "none" and group == "aug":  # a YAML file lists options: only their steps' names are known
        return name_of(parts)
    if name == "none" and parts:
        raise UserError(f"{group} has values but no chosen option, and the run's name needs one; set {group}=...")
    return name


def values_of(part: Any) -> dict[str, Any]:
    """A component as configuration, with its values converted to their types: 3 and 3.0 are the same experiment."""
    target = f"{type(part).__module__}.{type(part).__qualname__}"

    def written(name: str, value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return values_of(value)
        if isinstance(value, list | tuple):
            return [written(name, v) for v in value]
        if isinstance(value, dict):
            return {key: written(name, v) for key, v in value.items()}
        if isinstance(value, PurePath):
            return str(value)
        if isinstance(value, Enum):
            return value.name
        if value is None or isinstance(value, str | int | float):
            return value
        raise UserError(
            f"{name} of {target} is a {type(value).__name__}, which a configuration cannot hold; "
            "keep it in an attribute that is not a field"
        )

    return {"_target_": target, **{f.name: written(f.name, getattr(part, f.name)) for f in dataclasses.fields(part)}}


def build(values: Any, where: str, protocol: Any) -> Any:
    """The component that `_target_` names, built from the other values; `where` is their path, for messages.

    protocol: what the component is used as. Raises UserError if it cannot be.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("_target_"), str):
        raise UserError(f"{where}_target_ is missing: it names the Python class to build from {where[:-1]}={values}")
    target = values["_target_"]
    try:
        kind: Any = pkgutil.resolve_name(target)
    except Exception as error:  # importing a user's module may raise anything
        raise UserError(f"{where}_target_={target} cannot be imported ({why_not_there(target, error)})") from error
    if not dataclasses.is_dataclass(kind):
        raise UserError(f"{where}_target_={target} is not a dataclass, so it has no fields for its values")
    own = {f.name for f in dataclasses.fields(kind)}
    if protocol is Schedule and (taken := [name for name in COURSE if name in own]):
        raise UserError(f"{where}_target_={target} has a field {taken[0]}, which every schedule has; rename it")
    part = typed(kind, {key: value for key, value in values.items() if key != "_target_"}, where)
    if (kind, protocol) not in FITTING:  # checked once: the jobs of a sweep share their classes
        if why := fits(part, protocol) or why_unsaid(kind):
            raise UserError(f"{where}_target_={target} cannot be used here: {why}")
        FITTING.add((kind, protocol))
    return part


def why_not_there(target: str, error: Exception) -> str:
    """Why a class cannot be imported. error: what was raised, which does not say what is wrong inside a module."""
    module, _, name = target.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as missing:
        outside = f"{module}.".startswith(f"{missing.name}.")
        where = "; the folder that contains it must be the current one, or in PYTHONPATH" if outside else ""
        return f"{one_line(missing)}{at_own(missing)}{where}"
    except Exception as raised:
        return f"{in_full(raised)}{at_own(raised)}"
    if hasattr(found, name):
        return one_line(error)
    close = difflib.get_close_matches(name, vars(found), n=1)
    return f"{module} has no {name}" + (f"; did you mean {close[0]}?" if close else "")


def typed(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass `kind` built from `values`, converted to its annotated types as OmegaConf does ("0.3" is a float).

    A field annotated with a protocol, as in `model: Model`, is itself a component with its own `_target_`.
    """
    fields = dataclasses.fields(kind)
    known = [f.name for f in fields]
    components = components_of(kind)
    for key in values:
        if key not in known:
            raise UserError(unknown(where + str(key), (where + name for name in known)))
    for f in fields:
        if f.name not in values and f.default is f.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}{f.name} has no value")

    def value_of(key: str, value: Any) -> Any:
        if key in components:
            return build(value, f"{where}{key}.", components[key])
        try:
            return rounded(converted(kind, key, json.dumps(value)))
        except OmegaConfBaseException:
            expected = next(f.type for f in fields if f.name == key)
            words = expected.__name__ if isinstance(expected, type) else str(expected)
            raise UserError(f"{where}{key}={value} is not {in_words(words)}") from None

    try:
        return kind(**{key: value_of(key, value) for key, value in values.items()})
    except ValueError as error:
        raise UserError(f"{where}{error}") from error


@functools.cache
def components_of(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass that are annotated with a protocol, each with its protocol."""
    return {name: hint for name, hint in get_type_hints(kind).items() if getattr(hint, "_is_protocol", False)}


@functools.cache
def schema_of(kind: Any) -> DictConfig:
    """The fields of a dataclass with their types."""
    return OmegaConf.structured(kind, flags={"allow_objects": True})  # OmegaConf does not know protocols


@functools.lru_cache(2**14)  # OmegaConf takes 50 microseconds, and the jobs of a sweep share most values
def converted(kind: Any, key: str, value: str) -> Any:
    """The value of a field, given as JSON, in the field's type; callers must copy a list, see `rounded`."""
    schema = schema_of(kind)
    schema[key] = json.loads(value)
    return OmegaConf.to_container(schema[key]) if OmegaConf.is_config(schema[key]) else schema[key]


def rounded(value: Any) -> Any:
    """A copy with numbers rounded to 12 significant digits: 0.1 + 0.2, from range(0.1,0.4,0.1), counts as 0.3."""
    if isinstance(value, list):
        return [rounded(v) for v in value]
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    return float(f"{value:.12g}") if isinstance(value, float) else value


def in_words(annotation: str) -> str:
    words = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a word", "None": "null"}
    words |= {"list[float]": "a list of numbers, as in [0.1, 0.2]", "list[int]": "a list of whole numbers"}
    words |= {"dict[str, Any]": "a dictionary, as in {key: 3}", "list[str]": "a list of words, as in [a, b]"}
    return " or ".join(words.get(part, part) for part in annotation.split(" | "))


def similar(key: str, known: Iterable[str]) -> list[str]:
    """The key that looks most like one that does not exist, if any does."""
    return difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)


def unknown(key: str, known: Iterable[str]) -> str:
    """The sentence for a key that does not exist, with the closest match that does."""
    close = similar(key, known)
    return f"there is no {key}; " + (f"did you mean {close[0]}?" if close else "--help lists what there is")
