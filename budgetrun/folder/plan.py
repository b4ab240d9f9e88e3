"""What sweeps are going to run in an output_dir: .sweeps holds one file per sweep, so that runs can be missing."""

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
    """Say in each output_dir which runs a sweep has there, by run folder with the overrides of their jobs."""
    by_folder: defaultdict[Path, dict[str, list[str]]] = defaultdict(dict)
    for path, overrides in runs.items():
        by_folder[path.parent][path.name] = overrides
    for folder, planned in by_folder.items():
        name = hashlib.sha256(json.dumps(sorted(planned)).encode()).hexdigest()[:8]
        with writable(folder):
            (folder / PLANS).mkdir(parents=True, exist_ok=True)
        write_text(folder / PLANS / f"{name}.json", json.dumps(planned, indent=1) + "\n")


def plan(output_dir: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The runs that sweeps are going to have there, by name with the overrides of their jobs; and what is no plan."""
    planned: dict[str, list[str]] = {}
    unusable = []
    for path in sorted((output_dir / PLANS).glob("*.json")):
        try:
            planned |= checked_plan(parse(content(path)))
        except (OSError, ValueError) as error:
            unusable.append(f"{path}: {why_not(error)}; what only this sweep planned is not known")
    return planned, unusable


def checked_plan(runs: Any) -> dict[str, list[str]]:
    """The same plan; raises ValueError where it does not name folders, each with the words that were typed."""
    if not isinstance(runs, dict):
        raise ValueError("it is not the plan of a sweep")
    for name, typed in runs.items():
        if name in ("", ".", "..") or {"/", "\0"} & set(name) or len(os.fsencode(name)) > 255:
            raise ValueError(f"{brief(name)} is not the name of a folder")
        if not isinstance(typed, list) or not all(isinstance(part, str) for part in typed):
            raise ValueError(f"{brief(name)} has no list of words")
    return runs


def states(output_dir: Path) -> dict[str, State]:
    """The state of every run that is in a folder or planned there, by name."""

    def is_run(path: Path) -> bool:
        try:
            return (path / "config.yaml").is_file()
        except OSError:  # of a folder that cannot be looked into, which is said of the run that it may be
            return True

    folders = sorted(path for path in output_dir.iterdir() if path.name[0] != ".")  # Hydra may keep its own in .hydra
    names = {path.name: None for path in folders if is_run(path)}
    names |= dict.fromkeys(plan(output_dir)[0])
    return {name: RunFolder(str(output_dir), name).state() for name in names}
