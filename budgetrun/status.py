"""What became of the runs of a sweep, by their folders alone: `python -m budgetrun.status outputs/smoke`.

It reads only, from any machine that sees the disk, while the sweep runs or after. What a sweep is going to run stands
in output_dir/.sweeps, a file a sweep, so that runs can be missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from budgetrun.reading import brief, check, content, lines_of, parse
from budgetrun.results import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    STATES,
    RunFolder,
    State,
    why_not,
    writable,
    write_text,
)
from budgetrun.terminal import any_encoding, shown, tell

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


def progress(folder: RunFolder) -> str:
    """How far a run is by its last evaluation, in words."""
    last: dict[str, Any] = {}
    try:
        for last in lines_of(folder.metrics_path)[-1:]:
            check(last)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        return f"{folder.metrics_path.name} cannot be used ({why_not(error)})"
    share, accuracy = last.get("progress"), last.get("test_accuracy")
    if share is None or accuracy is None:
        return "not evaluated yet"
    return f"{100 * share:.0f}% of the budget, test accuracy {100 * accuracy:.2f} %"


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code: 0 where all runs are finished, 1 where not, 2 for a wrong folder."""
    parser = argparse.ArgumentParser("status", description="What became of the runs in a folder, and of those planned.")
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help="an output_dir (default: outputs)")
    any_encoding()
    folder: Path = parser.parse_args(arguments).folder
    problem = f"there is no run in {folder}"
    try:
        found = states(folder)
    except OSError as error:
        found, problem = {}, f"{folder} cannot be read ({error.strerror})"
    _, unusable = plan(folder)
    for path in unusable:
        print(shown(f"status: skipped {path}"), file=sys.stderr)
    if not found:
        print(shown(f"status: {problem}; name the output_dir of a sweep"), file=sys.stderr)
        return 2
    lines = [f"{folder}: {len(found)} runs"]
    for word in STATES:
        of_word = {name: state for name, state in found.items() if state.word == word}
        if of_word:
            lines.append(f"{len(of_word):6} {word}")
        for name, state in of_word.items() if word in (RUNNING, INTERRUPTED, FAILED) else ():
            how_far = [progress(RunFolder(str(folder), name))] if word != FAILED else []
            lines.append(f"         {name}: {', '.join(filter(None, [*how_far, state.detail]))}")
    tell("\n".join(map(shown, lines)))
    return 0 if not unusable and all(state.word == FINISHED for state in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
