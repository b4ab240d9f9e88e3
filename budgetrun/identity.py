"""What an experiment is, in a hash: the same experiment has the same id on every machine, and no other has it.

What counts, and how a component says that some of it does not, is in docs/identity.md. Free of torch, until there is a
component to look at.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# what decides where and how an experiment runs, not what it is
ELSEWHERE = ("device", "data_dir", "output_dir", "checkpoint_every", "force", "retry_failed", "dry_run")
# the values that do what was done before there was such a setting, or such a group
NEUTRAL = {"image_size": None, "train_on": "training"}
NEUTRAL_OPTIONS = {"noise": "none", "scores": "none"}
RUN = re.compile(r".+-s\d+-[0-9a-f]{8}")  # the name of a run's folder, which is its id


def run_id(names: Mapping[str, str], resolved: Mapping[str, Any]) -> str:
    """A readable name and the hash of what the experiment is: `digits-cnn-is-ricap-b0.3-s0-1a2b3c4d`.

    names: the option of each group. resolved: the whole configuration as plain values, see Experiment.
    """
    digest = hashlib.sha256(json.dumps(identity(names, resolved), sort_keys=True).encode()).hexdigest()[:8]
    groups = [group for group in ("dataset", "model", "sampler", "aug", "noise", "scores") if names[group] != "none"]
    # an option may lie in a folder (mine/wide), and its file may have any name; a folder of a run takes 255 bytes
    words = "-".join(re.sub(r"[^\w.+=-]", "_", names[group]) for group in groups)
    unit = "" if resolved["budget_unit"] == "updates" else f"-{resolved['budget_unit']}"
    return f"{words[:160]}-b{resolved['budget']:g}{unit}-s{resolved['seed']}-{digest}"


def identity(names: Mapping[str, str], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """All that counts: the settings and options that are not neutral, and the components' classes and values."""
    what: dict[str, Any] = {
        key: value
        for key, value in resolved.items()
        if key not in names and key not in ELSEWHERE and (key not in NEUTRAL or value != NEUTRAL[key])
    }
    for group, option in names.items():
        if option == NEUTRAL_OPTIONS.get(group):
            continue
        parts = resolved[group]
        # augmentations are a row of steps: in another order they are another augmentation
        steps = [[name, component(step)] for name, step in parts.items()] if group == "aug" else component(parts)
        what[group] = [option, steps]
    return what


def component(values: Mapping[str, Any]) -> dict[str, Any]:
    """What counts of a component: its class, its version where it is not the first, and its values."""
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
    """What counts of a `_target_`: our files may move; somebody else's class of the same name is another one."""
    return target.rpartition(".")[2] if target.startswith("budgetrun.") else target


# what a class says of its identity: its form, in words too, and what holds where it says nothing
SAID: dict[str, tuple[Any, str, Any]] = {
    "version": (int, "a whole number", 1),
    "neutral": (Mapping, 'a dictionary, as in {"temperature": 1.0}', {}),
    "elsewhere": ((tuple, list), 'a tuple, as in ("folder",)', ()),
    "published": (Mapping, "a dictionary of digests by file name", {}),
}


def said(kind: Any, what: str) -> Any:
    """What a component's class says of its identity, with the classes that it is made of, as each has its fields.

    A field of that name is a value like any other.
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
    """Why what a component's class says of its identity would not count as meant, in words; None where it would."""
    for what, (form, words, _) in SAID.items():
        if not isinstance(said(kind, what), form):  # ("folder") is a word, and each part of it would be in it
            return f"its {what} is not {words}"
    for what in ("neutral", "elsewhere"):
        if strange := [name for name in said(kind, what) if name not in fields_of(kind)]:
            return f"its {what} names {strange[0]}, which is no field of it"
    return None


def counted(kind: Any, key: str, value: Any) -> Any:
    """What counts of a value: of a file its content, of a component its own values, of anything else itself."""
    if isinstance(value, Mapping):
        return component(value) if "_target_" in value else {k: counted(kind, key, v) for k, v in value.items()}
    if isinstance(value, list):
        return [counted(kind, key, v) for v in value]
    if not isinstance(value, str):
        return value
    files = [content(path, said(kind, "published")) for path in files_of(key, value)]
    return value if None in files else files[0] if len(files) == 1 else files


def files_of(key: str, value: str) -> list[str]:
    """The paths that a value names, if it names any; one called `file` may hold a pattern, and several by commas."""
    return paths(value) if key == "file" else [value]


def paths(pattern: str) -> list[str]:
    """The files of a path, which may hold * and ? for several files, or of several paths joined by commas."""
    return [path for part in pattern.split(",") for path in (sorted(glob.glob(part)) or [part])]  # noqa: PTH207


def content(value: str, published: Mapping[str, str]) -> str | None:
    """What stands for the content of the file that a value names; None where it names none.

    Of a file that a run makes, the run's id and the file's name, so that it is known before the file is there; the
    content is checked when it is used, see `folder.run.check_made`. Of one that is published, its digest, there or not.
    """
    path = Path(value)
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # words that are no path at all
        path = real(value)
        if made_by_a_run(path):
            return f"{path.parent.name}/{path.name}"
        if path.is_file():
            stat = path.stat()
            return f"sha256:{digest(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)}"
    return f"sha256:{published[path.name]}" if path.name in published else None


def real(value: str) -> Path:
    """Where a path leads, links and the home of the user followed; raises OSError or ValueError where it is none."""
    return Path(os.path.realpath(Path(value).expanduser()))


def made_by_a_run(path: Path) -> bool:
    """Whether the file lies in a run's folder."""
    return RUN.fullmatch(path.parent.name) is not None


@functools.lru_cache(4096)
def digest(path: Path, inode: int, size: int, changed: int) -> str:
    """The SHA-256 of a file's content; read once for all jobs of a sweep, as long as it stays what it is."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def made_files(resolved: Mapping[str, Any]) -> list[Path]:
    """The files in the folders of other runs that the components of a configuration name."""
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
        if isinstance(values, Mapping):
            walk(group, values)
    return found
