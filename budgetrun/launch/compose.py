"""Composes the configurations of a sweep's jobs as Hydra does, without the time that Hydra takes for each."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import env_override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from budgetrun.config import GROUPS, Experiment, experiment, plain, unknown
from budgetrun.errors import UserError
from budgetrun.launch.tuning import experiment_of

NAMED = r"\$\{([a-z_]\w*(?:\.[a-z_]\w*)*)\}"  # an interpolation that names a value
MORE = r"\$\{|\\|^\?\?\?$"  # strings that are not literal: interpolations, escapes, missing values


class Composed:
    """Composes the configuration of each job of a sweep, value for value as Hydra does, but faster.

    Hydra takes 60 to 80 ms per job, and a grid has a thousand jobs. But Hydra sets values last, in a configuration that
    depends only on the chosen options. So it composes each choice of options once, and plain values are set in copies
    of the result. Everything else is left to Hydra, job by job: keys with +, ++ or ~, dictionaries, interpolations that
    call a resolver, such as ${hydra:...} and ${now:...}, typed configurations, and anything invalid.
    """

    def __init__(self, loader: ConfigLoader, whole: DictConfig) -> None:
        """whole: the configuration of the sweep. Hydra's launchers compose its jobs from it too."""
        self.loader, self.whole = loader, whole
        self.parser = OverridesParser.create(config_loader=loader)
        self.parsed: dict[str, Override] = {}
        self.groups: dict[str, bool] = {}
        self.bases: dict[tuple[str, ...], tuple[dict[str, Any], dict[str, Any]]] = {}
        self.broken: dict[tuple[str, ...], Exception] = {}

    def __call__(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The plain values of a job, without the `hydra` node, and the option chosen in each group."""
        job = [self.parse(override) for override in overrides]
        if any(override.type is not OverrideType.CHANGE or override.package for override in job):
            return self.by_hydra(overrides)
        options = tuple(str(override.input_line) for override in job if self.is_group(override.key_or_group))
        try:
            base, choices = self.base(options)
            values = copied_tree(base)
            for override in job:
                if not self.is_group(override.key_or_group):
                    put(values, override.key_or_group, override.value())
            values = referred(values, values)
        except NotPlain:
            return self.by_hydra(overrides)
        if asks(values, MORE):
            values = plain(OmegaConf.create(values))
        return values, choices

    def changed(self, overrides: Sequence[str], changes: Mapping[str, Any]) -> list[str]:
        """The overrides of a job with other values of these keys, and without tuning."""

        def stays(key: str) -> bool:
            return key not in changes and key.partition(".")[0] != "tune"

        kept = [override for override in overrides if stays(self.parse(override).key_or_group)]
        return [*kept, "tune=none", *(f"{key}={typed_as(value)}" for key, value in changes.items())]

    def parse(self, override: str) -> Override:
        if override not in self.parsed:  # a thousand jobs share some dozen overrides
            (self.parsed[override],) = self.parser.parse_overrides([override])
        return self.parsed[override]

    def is_group(self, key: str) -> bool:
        """Whether the key chooses an option. Hydra sets every other key in what the options compose."""
        if key not in self.groups:
            self.groups[key] = bool(self.loader.get_group_options(key, ObjectType.CONFIG))
        return self.groups[key]

    def base(self, options: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The configuration of these options as unresolved values; raises NotPlain if it contains anything else."""
        if options not in self.bases:
            if options in self.broken:
                raise self.broken[options]
            try:
                cfg = self.loader.load_sweep_config(self.whole, list(options))
            except Exception as error:  # of every job that has them: a thousand need not be tried
                self.broken[options] = error
                raise
            if cfg.hydra.job.env_set:  # environment variables set for the job alone
                raise NotPlain
            self.bases[options] = unresolved(task_part(cfg)), choices_of(cfg.hydra)
        base, choices = self.bases[options]
        if asks(base, r"\$\{[^}]*:"):
            raise NotPlain
        return base, choices

    def by_hydra(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        cfg = self.loader.load_sweep_config(self.whole, list(overrides))
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(cfg)  # ${hydra:...} reads it
        try:
            part = task_part(cfg)
            if asks(OmegaConf.to_container(part, resolve=False), r"\$\{hydra:(job\.(num|id)|runtime\.output_dir)\}"):
                raise UserError(
                    "${hydra:job.num}, ${hydra:job.id} and ${hydra:runtime.output_dir} change when a sweep is run "
                    "again, so no run could be found again; use the job's values, as in ${seed}"
                )
            with env_override(cfg.hydra.job.env_set):
                values = plain(part)
            OmegaConf.copy_cache(from_config=part, to_config=self.whole)  # the job sees the same ${now:...}
            return values, choices_of(cfg.hydra)
        finally:
            HydraConfig.instance().cfg = before


def changed(cfg: DictConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a composed job with other values of these keys, and without tuning."""
    other = copy.deepcopy(cfg)
    for key, value in {"tune": {}, **changes}.items():
        try:
            OmegaConf.update(other, key, value, merge=False)
        except OmegaConfBaseException as error:
            raise UserError(unknown(key, [])) from error
    return plain(other)


def experiment_in(cfg: DictConfig, choices: Mapping[str, Any]) -> Experiment:
    """The checked experiment of a composed job. choices: the option or options chosen in each group."""
    return experiment_of(plain(cfg), choices, lambda changes: experiment(changed(cfg, changes), choices))


def typed_as(value: Any) -> str:
    """A value as it is typed in an override."""
    return "'" + value.replace("'", r"\'") + "'" if isinstance(value, str) else json.dumps(value)


class NotPlain(Exception):
    """A configuration contains more than plain values."""


def task_part(cfg: DictConfig) -> DictConfig:
    """A composed configuration as a job gets it: without the `hydra` node, and with the values resolved in it."""
    part = copy.deepcopy(cfg)
    with read_write(part), open_dict(part):
        del part["hydra"]
    return part


def unresolved(node: Any) -> Any:
    """The plain values of a node, interpolations unresolved. Environment variables, which no job changes, are read.

    `${oc.select:key,default}` becomes `${key}`, or the default where there is no such key: no job adds one. Raises
    NotPlain if a part of the node is typed, since setting such a value converts it.
    """
    if OmegaConf.get_type(node) not in (dict, list):
        raise NotPlain
    raw: Any = OmegaConf.to_container(node, resolve=False)

    def value(key: Any) -> Any:
        if isinstance(raw[key], str) and re.fullmatch(r"\$\{oc\.env:[^${}]*\}", raw[key]):
            return node[key]
        if isinstance(raw[key], str) and (selects := re.fullmatch(r"\$\{oc\.select:(\w+)\.(\w+),\w+\}", raw[key])):
            group = node._get_root().get(selects[1]) or {}
            return f"${{{selects[1]}.{selects[2]}}}" if selects[2] in group.keys() else node[key]  # noqa: SIM118 -- `in group` is false for ???
        return unresolved(node._get_node(key)) if isinstance(raw[key], dict | list) else raw[key]

    return {key: value(key) for key in raw} if isinstance(raw, dict) else [value(i) for i in range(len(raw))]


def referred(tree: Any, root: dict[str, Any]) -> Any:
    """A copy of the tree in which interpolations like `${dataset.padding}` are replaced by the plain values they name.

    Within a longer text, words and numbers are. Most configurations have no other interpolations, and OmegaConf takes
    6 ms to resolve these. Raises NotPlain where a text contains more than words and numbers.
    """
    if isinstance(tree, dict):
        return {key: referred(value, root) for key, value in tree.items()}
    if not isinstance(tree, str) or "${" not in tree:
        return tree
    if whole := re.fullmatch(NAMED, tree):
        node = named(whole[1], root)
        return tree if isinstance(node, dict | list) or asks(node, MORE) else node
    parts = re.split(NAMED, tree)  # text and names in turn
    values = [named(name, root) for name in parts[1::2]]
    if any(isinstance(value, dict | list) for value in values):
        raise NotPlain
    if any(value is None or isinstance(value, bool) or asks(value, MORE) for value in values):
        return tree
    parts[1::2] = map(str, values)
    return "".join(parts)


def named(name: str, root: dict[str, Any]) -> Any:
    """The value at a dotted name; {} if there is none."""
    node: Any = root
    for step in name.split("."):
        node = node.get(step, {}) if isinstance(node, dict) else {}
    return node


def copied_tree(tree: Any) -> Any:
    """A copy of the tree that shares its lists, which are replaced and never changed."""
    return {key: copied_tree(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a dotted key; raises NotPlain where Hydra would do more than that or raise an error."""
    *path, last = key.split(".")
    node: Any = tree
    for step in path:
        node = node.get(step) if isinstance(node, dict) else None
    if not isinstance(node, dict) or isinstance(node.get(last, {}), dict) or not is_plain(value):
        raise NotPlain
    node[last] = value


def is_plain(value: Any) -> bool:
    """Whether the value is a string, a number, a boolean or null, or a list of these."""
    if isinstance(value, list):
        return all(not isinstance(v, list) and is_plain(v) for v in value)
    return (
        value is None
        or isinstance(value, bool | int | float)
        or (type(value) is str and not asks(value, r"\$\{[^}]*:"))
    )


def asks(tree: Any, pattern: str) -> bool:
    """Whether any string in the tree matches the pattern."""
    if isinstance(tree, Mapping):
        return any(asks(value, pattern) for value in tree.values())
    if isinstance(tree, list):
        return any(asks(value, pattern) for value in tree)
    return isinstance(tree, str) and re.search(pattern, tree) is not None


def choices_of(hydra: HydraConf) -> dict[str, Any]:
    """The option chosen in each group. Choices typed as a list are added, since Hydra does not keep them."""
    typed = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    lists = {o.key_or_group: o.value() for o in typed if o.key_or_group in GROUPS and isinstance(o.value(), list)}
    return {**lists, **hydra.runtime.choices}
