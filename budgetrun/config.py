"""From Hydra's composed configuration to a checked experiment: types, ranges, names, and a hash that identifies it."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from budgetrun import scorefile
from budgetrun.contracts import (
    Augmentation,
    Dataset,
    Loss,
    Model,
    Noise,
    Optimizer,
    Sampler,
    Schedule,
    Scorer,
    Settings,
    UserError,
)
from budgetrun.errors import one_line

if TYPE_CHECKING:
    from hydra.conf import HydraConf

GROUPS = ("dataset", "model", "sampler", "aug", "noise", "loss", "optimizer", "schedule", "scores")
OPTIONAL = ("noise", "scores")  # the groups whose option may be none
# what decides where and how an experiment runs, not what it is: no part of its identity
ELSEWHERE = ("device", "data_dir", "output_dir", "checkpoint_every", "force", "retry_failed")


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
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    scores: Scorer | None
    names: dict[str, str]
    resolved: dict[str, Any]
    run_id: str


def experiment(cfg: DictConfig, choices: Mapping[str, Any]) -> Experiment:
    """Check a composed configuration and build its parts; no data is touched.

    choices: the option chosen in each group, or a list of them. Raises UserError with one sentence that names the key.
    """
    names = {group: name_of(choices.get(group)) for group in GROUPS}
    for group, name in names.items():
        if "+" in name and group != "aug":
            options = name.replace("+", ",")
            raise UserError(f"{group}=[{options}] is more than one; choose one, or sweep: -m {group}={options}")
    try:
        typed_in: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'the configuration'}: {one_line(error)}") from error
    settings = typed(Settings, {key: value for key, value in typed_in.items() if key not in GROUPS}, "")
    # the groups of one component each, or none; augmentation is a row of steps
    single: dict[str, Any] = {
        group: None if group in OPTIONAL and not typed_in.get(group) else build(typed_in.get(group), f"{group}.")
        for group in GROUPS
        if group != "aug"
    }
    steps = {name: build(step, f"aug.{name}.") for name, step in (typed_in.get("aug") or {}).items()}
    if names["aug"] == "none":  # a list of options in a YAML file leaves no name but those of its steps
        names["aug"] = name_of(list(steps))
    if settings.batch_size == 1 and {"mixup", "cutmix", "ricap"} & set(names["aug"].split("+")):
        raise UserError(f"batch_size=1 leaves aug={names['aug']} no images to mix; set it to 2 or more")
    resolved = {
        **{group: values_of(part) if part else {} for group, part in single.items()},
        "aug": {name: values_of(step) for name, step in steps.items()},
        **dataclasses.asdict(settings),
    }
    return Experiment(
        settings, **single, aug=list(steps.values()), names=names, resolved=resolved,
        run_id=run_id(names, resolved),
    )  # fmt: skip


def choices_of(hydra: HydraConf) -> dict[str, Any]:
    """The option chosen in each group: a list where it was typed as one, which Hydra does not keep with the others."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    typed = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    return {**{o.key_or_group: o.value() for o in typed if isinstance(o.value(), list)}, **hydra.runtime.choices}


def name_of(chosen: str | list[str] | None) -> str:
    """One name for the options of a group: aug=[ricap] is ricap, aug=[randaugment,ricap] is randaugment+ricap."""
    options = [chosen] if isinstance(chosen, str) else chosen or []
    return "+".join(dict.fromkeys(option for option in options if option != "none")) or "none"


def values_of(part: Any) -> dict[str, Any]:
    """A component as configuration, with its values converted to their types: 3 and 3.0 are one experiment."""
    fields = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    values = {name: values_of(v) if dataclasses.is_dataclass(v) else v for name, v in fields.items()}
    return {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", **values}


def run_id(names: Mapping[str, str], resolved: Mapping[str, Any]) -> str:
    """A readable name and the hash of what the experiment is: `digits-cnn-is-ricap-b0.3-s0-1a2b3c4d`."""
    identity = {key: value for key, value in resolved.items() if key not in ELSEWHERE} | {"names": dict(names)}
    identity["aug"] = list(resolved["aug"].items())  # in another order they are another augmentation
    # where a data set, or a file of labels, lies on a machine is not what it is
    identity["dataset"] = {key: value for key, value in resolved["dataset"].items() if key != "system"}
    identity["noise"] = {k: Path(v).name if k == "file" else v for k, v in resolved["noise"].items()}
    # and a file of scores is what is in it
    identity["sampler"] = {
        k: scorefile.digest(v, "sampler.file") if k == "file" and v else v for k, v in resolved["sampler"].items()
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    chosen = [
        names[group] for group in ("dataset", "model", "sampler", "aug", "noise", "scores") if names[group] != "none"
    ]
    unit = "" if resolved["budget_unit"] == "updates" else f"-{resolved['budget_unit']}"
    return f"{'-'.join(chosen)}-b{resolved['budget']:g}{unit}-s{resolved['seed']}-{digest}"


def build(values: Any, where: str) -> Any:
    """The component that `_target_` names, made of the other values; `where` is their path, for messages."""
    if not isinstance(values, Mapping) or not isinstance(values.get("_target_"), str):
        raise UserError(f"{where}_target_ is missing: it names the Python class that {where[:-1]}={values} is for")
    from hydra.utils import get_object

    target = values["_target_"]
    try:
        kind = get_object(target)
    except Exception as error:  # whatever importing somebody's module raises
        raise UserError(f"{where}_target_={target} cannot be imported ({one_line(error)})") from error
    if not dataclasses.is_dataclass(kind):
        raise UserError(f"{where}_target_={target} is not a dataclass, whose fields would be its values")
    return typed(kind, {key: value for key, value in values.items() if key != "_target_"}, where)


def typed(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass `kind` of `values`, converted to its annotated types as OmegaConf does ("0.3" is a float).

    A field annotated with a protocol, as in `model: Model`, is a component itself, with a `_target_` of its own.
    """
    schema = OmegaConf.structured(kind, flags={"allow_objects": True})  # protocols are no types that it knows
    known = list(schema)
    for key in values:
        if key not in known:
            raise UserError(unknown(where + str(key), (where + str(name) for name in known)))
    for name in known:
        if OmegaConf.is_missing(schema, name) and name not in values:
            raise UserError(f"{where}{name} has no value")
    hints = get_type_hints(kind)
    parts = {key: build(v, f"{where}{key}.") for key, v in values.items() if getattr(hints[key], "_is_protocol", False)}
    for key, value in ((k, v) for k, v in values.items() if k not in parts):
        try:
            schema[key] = value
        except OmegaConfBaseException:
            expected = next(f.type for f in dataclasses.fields(kind) if f.name == key)
            raise UserError(f"{where}{key}={value} is not {in_words(str(expected))}") from None
    try:
        plain: Any = OmegaConf.to_container(schema)
        return kind(**plain | parts)
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
