"""Finds a finished run that is typed again without building its parts: importing torch for them takes 2 s of 2.6.

The id of a run is a function of its configuration, of this package, and of the user's own files and classes that the
configuration names. If it names none, the id is stored under a hash of all the rest, including the code itself. After
any change the hash is different, and the parts are built.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import omegaconf
from omegaconf import DictConfig, OmegaConf

from budgetrun.errors import UserError
from budgetrun.files import write_text
from budgetrun.folder.run import RunFolder
from budgetrun.identity import RUN, content, files_of
from budgetrun.launch.command import PACKAGE

if TYPE_CHECKING:
    from hydra.conf import HydraConf

FOLDER = ".known"  # in an output_dir: one file per configuration, which holds the run's id


def record_of(cfg: DictConfig, hydra_part: HydraConf) -> Path | None:
    """The file that stores the id of this configuration; None if the id depends on more than can be hashed."""
    try:
        values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        choices: Any = OmegaConf.to_container(hydra_part.runtime.choices)
        if not all(is_ours(key, value) for key, value in words(values)):
            return None
        typed = list(hydra_part.overrides.task)  # Hydra keeps no choice for an option typed as a list
        decided = [sys.version, hydra.__version__, omegaconf.__version__, code(), values, choices, typed]
        digest = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
        return Path(values["output_dir"]) / FOLDER / digest
    except Exception:  # building the parts then reports what is wrong
        return None


def words(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """All strings in a configuration, with their keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from words(value)
        elif isinstance(value, str):
            yield key, value


def is_ours(key: str, value: str) -> bool:
    """Whether a string depends on nothing else: it names no class of another package, no file and no home folder."""
    if key == "_target_":
        return value.startswith("budgetrun.")
    return "~" not in value and all(content(path, {}) is None for path in files_of(key, value))


def code() -> str:
    """A hash of the source of this package."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def finished(record: Path) -> tuple[dict[str, Any], Path] | None:
    """The result of the run that the file names, and its path; None if there is no complete result."""
    with contextlib.suppress(OSError, ValueError):
        name = record.read_text()
        if RUN.fullmatch(name):
            folder = RunFolder(str(record.parent.parent), name)
            return folder.result(), folder.result_path
    return None


def remember(record: Path, run_id: str) -> None:
    """Store the id of a run. If that fails, the next call takes as long as this one."""
    with contextlib.suppress(OSError, UserError):
        record.parent.mkdir(exist_ok=True)
        write_text(record, run_id)
