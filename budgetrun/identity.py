"""An experiment's identity as a hash: the same experiment has the same id on every machine, and no other has it.

docs/identity.md says what counts, and how a component declares exceptions. torch is not imported until there is a
component to inspect.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import hashlib
import json
import os
import pkgutil
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from budgetrun.errors import UserError

# settings that decide where and how an experiment runs, or how its run is found again, not what it is
ELSEWHERE = (
    "device",
    "data_on",
    "data_dir",
    "output_dir",
    "checkpoint_every",
    "force",
    "retry_failed",
    "dry_run",
    "tags",
    "branches",
)
# the values that do what was done before the setting, or the group, existed
NEUTRAL = {
    "image_size": None,
    "train_on": "training",
    "init_from": None,
    "save_features": False,
    "compile_mode": "default",
    "sync_batchnorm": False,
}
# the same for values that every option of a group has
NEUTRAL_VALUES: dict[str, dict[str, Any]] = {"schedule": {"horizon": "budget", "warmup": 0.0}}
FILES = ("init_from",)  # settings that name files
PATHS = ("file", "base", "features", *FILES)  # and the values of components that do
NEUTRAL_OPTIONS = {"freeze": "none", "select": "top", "noise": "none", "scores": "none"}
RUN = re.compile(r".+-s\d+-[0-9a-f]{8}")  # the name of a run's folder, which is the run's id


def run_id(names: Mapping[str, str], resolved: Mapping[str, Any]) -> str:
    """A readable name and the hash of the experiment's identity: `digits-cnn-is-ricap-b0.3-s0-1a2b3c4d`.

    names: the option of each group. resolved: the whole configuration as plain values, see Experiment.
    """
    digest = hashlib.sha256(json.dumps(identity(names, resolved), sort_keys=True).encode()).hexdigest()[:8]
    return f"{readable(names, resolved)}-{digest}"


def readable(names: Mapping[str, str], resolved: Mapping[str, Any]) -> str:
    """The part of a run's id before the hash."""
    shown = ("dataset", "model", "freeze", "sampler", "select", "aug", "noise", "scores")
    groups = [group for group in shown if names.get(group, "none") not in ("none", NEUTRAL_OPTIONS.get(group))]
    library = {group: (resolved.get(group) or {}).get("name") for group in ("dataset", "model")}  # as timm's resnet18
    options = [f"{names[group]}_{library[group]}" if library.get(group) else names[group] for group in groups]
    # an option may be in a folder (mine/wide), and its file may have any name; a folder's name has at most 255 bytes
    words = "-".join(re.sub(r"[^\w.+=-]", "_", option) for option in options)
    unit = "" if resolved["budget_unit"] == "updates" else f"-{resolved['budget_unit']}"
    return f"{words[:160]}-b{resolved['budget']:g}{unit}-s{resolved['seed']}"


def same_but_budget(experiment: Any, budget: float) -> str:
    """The id of the same experiment with another budget."""
    return run_id(experiment.names, {**experiment.resolved, "budget": budget})


def identity(names: Mapping[str, str], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that counts: the settings and options that are not neutral, the components' classes and values."""
    what: dict[str, Any] = {
        key: value if key not in FILES else counted(None, key, value)
        for key, value in resolved.items()
        if key not in names and key not in ELSEWHERE and (key not in NEUTRAL or value != NEUTRAL[key])
    }
    for group, option in names.items():
        if option == NEUTRAL_OPTIONS.get(group):
            continue
        neutral = NEUTRAL_VALUES.get(group, {})
        parts = {k: v for k, v in resolved[group].items() if k not in neutral or v != neutral[k]}
        # an augmentation is a sequence of steps: in another order it is another augmentation
        steps = [[name, component(step)] for name, step in parts.items()] if group == "aug" else component(parts)
        what[group] = [option, steps]
    return what


def component(values: Mapping[str, Any]) -> dict[str, Any]:
    """What counts of a component: its class, its version unless that is 1, and its values."""
    target = values["_target_"]
    kind: Any = pkgutil.resolve_name(target)
    elsewhere, neutral = said(kind, "elsewhere"), said(kind, "neutral")
    what: dict[str, Any] = {"class": class_of(target)}
    if (version := said(kind, "version")) != 1:
        what["version"] = version
    for key, value in values.items():
        if key != "_target_" and key not in elsewhere and (key not in neutral or value != neutral[key]):
            what[key] = counted(kind, key, value)
    return what


def class_of(target: str) -> str:
    """What counts of a `_target_`: our own files may move; a user's class of the same name is a different class."""
    return target.rpartition(".")[2] if target.startswith("budgetrun.") else target


# what a class may declare about its identity: the type, the type in words, and the default
SAID: dict[str, tuple[Any, str, Any]] = {
    "version": (int, "a whole number", 1),
    "neutral": (Mapping, 'a dictionary, as in {"temperature": 1.0}', {}),
    "elsewhere": ((tuple, list), 'a tuple, as in ("folder",)', ()),
    "published": (Mapping, "a dictionary of digests by file name", {}),
}


def said(kind: Any, what: str) -> Any:
    """What a component's class declares about its identity. Base classes count too, since each may have fields.

    A field of that name is an ordinary value.
    """
    form, _, otherwise = SAID[what]
    if what in fields_of(kind):
        return otherwise
    of_each = [vars(base)[what] for base in reversed(kind.__mro__) if what in vars(base)]
    if not of_each or not all(isinstance(one, form) for one in of_each):
        return of_each[-1] if of_each else otherwise
    if isinstance(otherwise, Mapping):
        return {key: value for one in of_each for key, value in one.items()}
    return tuple(name for one in of_each for name in one) if what == "elsewhere" else of_each[-1]


@functools.cache
def fields_of(kind: Any) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else frozenset()


def why_unsaid(kind: Any) -> str | None:
    """Why the declarations of a component's class would not work as intended, in words; None if they would."""
    for what, (form, words, _) in SAID.items():
        if not isinstance(said(kind, what), form):  # ("folder") is a string, and `in` would match its parts
            return f"its {what} is not {words}"
    for what in ("neutral", "elsewhere"):
        if strange := [name for name in said(kind, what) if name not in fields_of(kind)]:
            return f"its {what} names {strange[0]}, which is not one of its fields"
    return None


def counted(kind: Any, key: str, value: Any) -> Any:
    """What counts of a value: the content of a file, the values of a component, and anything else as it is.

    kind: the component's class, or None for a setting.
    """
    if isinstance(value, Mapping):
        return component(value) if "_target_" in value else {k: counted(kind, key, v) for k, v in value.items()}
    if isinstance(value, list):
        return [counted(kind, key, v) for v in value]
    if not isinstance(value, str):
        return value
    published = said(kind, "published") if kind is not None else {}
    files = [content(path, published) for path in files_of(key, value)]
    return value if None in files else files[0] if len(files) == 1 else files


def files_of(key: str, value: str) -> list[str]:
    """The paths that a value may name; some hold patterns, or several paths separated by commas."""
    return paths(value) if key in PATHS else [value]


def paths(pattern: str) -> list[str]:
    """The files of a path that may contain * and ?, or of several such paths separated by commas.

    Files that are expected count as if they were there. A file that is named twice, or through a link too, counts once.
    """
    found: dict[str, str] = {}
    for part in pattern.split(","):
        there = {os.path.abspath(path): path for path in [*expected_by(part), *glob.glob(part)]}  # noqa: PTH100, PTH207
        for path in sorted(there):
            found.setdefault(os.path.realpath(path), there[path])
        if not there:
            found.setdefault(part, part)
    return list(found.values())


def one_path(pattern: str, key: str) -> Path:
    """The file of a path or pattern; raises UserError if it is several. key: where it was configured, for messages."""
    if len(found := paths(pattern)) > 1:
        commas = "; a comma separates two" if "," in pattern else ""
        raise UserError(f"{key}={pattern} is {len(found)} files, such as {found[0]}{commas}; name one")
    return Path(found[0])


# the files that the jobs of a sweep will make, as absolute paths and with links resolved: set while it is checked
EXPECTED: set[str] = set()
EXPECTED_REAL: set[Path] = set()


def expect(files: Iterable[Path]) -> None:
    """From now on, expect exactly these files."""
    EXPECTED.clear()
    EXPECTED_REAL.clear()
    for path in files:
        EXPECTED.add(os.path.abspath(path))  # noqa: PTH100
        EXPECTED_REAL.add(real(str(path)))
    expected_by.cache_clear()


def is_expected(path: str | Path) -> bool:
    return real(str(path)) in EXPECTED_REAL


@functools.lru_cache(4096)
def expected_by(pattern: str) -> list[str]:
    """The expected files that match a path with * and ?, whichever of the two leads through a link."""
    if not EXPECTED or "\0" in pattern:  # text that cannot be a path
        return []
    whole = os.path.abspath(pattern)  # noqa: PTH100
    steps = PurePath(whole).parts
    literal = next((number for number, step in enumerate(steps) if set(step) & set("*?[")), len(steps))
    head = os.path.join(*steps[:literal])  # noqa: PTH118 -- strings, as most files are ruled out by their beginnings
    real = os.path.realpath(head)
    resolved = str(PurePath(real, *steps[literal:]))
    direct = [path for path in EXPECTED if path.startswith(head) and PurePath(path).match(whole)]
    return direct + [str(path) for path in EXPECTED_REAL if str(path).startswith(real) and path.match(resolved)]


def content(value: str, published: Mapping[str, str]) -> str | None:
    """What represents the content of the file that a value names; None if it names none.

    For a file that a run makes, the run's id and the file's name, so that it is known before the file exists; the
    content is checked when it is used, see `folder.run.check_made`. For a published file, its known digest, even if the
    file is missing.
    """
    path = Path(value)
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # text that cannot be a path
        path = real(value)
        if made_by_a_run(path):
            return f"{path.parent.name}/{path.name}"
        if path.is_file():
            stat = path.stat()
            return f"sha256:{digest(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)}"
    return f"sha256:{published[path.name]}" if path.name in published else None


def real(value: str) -> Path:
    """Where a path leads, with links and ~ resolved; raises OSError or ValueError if it is not a path."""
    return Path(os.path.realpath(Path(value).expanduser()))


def made_by_a_run(path: Path) -> bool:
    """Whether the file is in a run's folder."""
    return RUN.fullmatch(path.parent.name) is not None


@functools.lru_cache(4096)
def digest(path: Path, inode: int, size: int, changed: int) -> str:
    """The SHA-256 of a file's content; read once for all jobs of a sweep, as long as the file is unchanged."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def made_files(resolved: Mapping[str, Any]) -> list[Path]:
    """The files in other runs' folders that the components of a configuration name."""
    found: list[Path] = []

    def walk(key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, below in value.items():
                walk(name if "_target_" in value else key, below)
        elif isinstance(value, list):
            for one in value:
                walk(key, one)
        elif isinstance(value, str):
            for word in files_of(key, value):
                with contextlib.suppress(OSError, ValueError, RuntimeError):
                    if made_by_a_run(path := real(word)):
                        found.append(path)

    for group, values in resolved.items():
        if isinstance(values, Mapping) or group in FILES:
            walk(group, values)
    return found
