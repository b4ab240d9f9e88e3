"""The runs that sweeps plan in an output_dir: .sweeps holds one file per sweep, so that missing runs are known."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from budgetrun.files import writable, write_text
from budgetrun.folder.reading import brief, content, parse
from budgetrun.folder.run import RunFolder, State, why_not

PLANS = ".sweeps"


def write_plan(runs: Mapping[Path, list[str]]) -> None:
    """Write into each output_dir which runs a sweep plans there. runs: the overrides of each job, by its run folder."""
    by_folder: defaultdict[Path, dict[str, list[str]]] = defaultdict(dict)
    for path, overrides in runs.items():
        by_folder[path.parent][path.name] = overrides
    for folder, planned in by_folder.items():
        name = hashlib.sha256(json.dumps(sorted(planned)).encode()).hexdigest()[:8]
        with writable(folder):
            (folder / PLANS).mkdir(parents=True, exist_ok=True)
        write_text(folder / PLANS / f"{name}.json", json.dumps(planned, indent=1) + "\n")


def plan(output_dir: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The runs that sweeps plan there, by name with the overrides of their jobs; and which files are not plans."""
    planned: dict[str, list[str]] = {}
    unusable = []
    for path in sorted((output_dir / PLANS).glob("*.json")):
        try:
            planned |= checked_plan(parse(content(path)))
        except (OSError, ValueError) as error:
            unusable.append(f"{path}: {why_not(error)}; runs that only this sweep planned are not known")
    return planned, unusable


def checked_plan(runs: Any) -> dict[str, list[str]]:
    """The same plan; raises ValueError unless it names folders, each with the overrides that were typed."""
    if not isinstance(runs, dict):
        raise ValueError("it is not the plan of a sweep")
    for name, typed in runs.items():
        if name in ("", ".", "..") or {"/", "\0"} & set(name) or len(os.fsencode(name)) > 255:
            raise ValueError(f"{brief(name)} is not the name of a folder")
        if not isinstance(typed, list) or not all(isinstance(part, str) for part in typed):
            raise ValueError(f"{brief(name)} has no list of overrides")
    return runs


def states(output_dir: Path) -> dict[str, State]:
    """The state of every run that is in a folder or planned there, by name."""

    def is_run(path: Path) -> bool:
        try:
            return (path / "config.yaml").is_file()
        except OSError:  # an unreadable folder may be a run, whose state then says so
            return True

    folders = sorted(path for path in output_dir.iterdir() if path.name[0] != ".")  # Hydra may keep its files in .hydra
    names = {path.name: None for path in folders if is_run(path)}
    names |= dict.fromkeys(plan(output_dir)[0])
    return {name: RunFolder(str(output_dir), name).state() for name in names}
