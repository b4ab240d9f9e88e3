"""The runs that sweeps plan in an output_dir: .sweeps holds one file per sweep, so that missing runs are known."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from budgetrun.digits import quantity
from budgetrun.files import writable, write_text
from budgetrun.folder.reading import brief, content, parse
from budgetrun.folder.run import FINISHED, MISSING, STATES, WAITING, RunFolder, State, why_not

PLANS = ".sweeps"


def write_plan(
    runs: Mapping[Path, list[str]],
    after: Mapping[Path, Collection[Path]] | None = None,
    tuning: Mapping[Path, Collection[Path]] | None = None,
) -> None:
    """Write into each output_dir which runs a sweep plans there.

    runs: the overrides of each job, by its run folder. after: the folders of the runs whose files a run reads. tuning:
    those of its tuning runs.
    """
    by_folder: defaultdict[Path, dict[str, Any]] = defaultdict(dict)
    for path, overrides in runs.items():
        entry: dict[str, list[str]] = {"overrides": overrides}
        for word, parents in (("after", after), ("tuning", tuning)):
            if of_run := (parents or {}).get(path):
                entry[word] = sorted(os.path.relpath(parent, path.parent) for parent in of_run)
        by_folder[path.parent][path.name] = entry if len(entry) > 1 else overrides
    for folder, planned in by_folder.items():
        name = hashlib.sha256(json.dumps(sorted(planned)).encode()).hexdigest()[:8]
        with writable(folder):
            (folder / PLANS).mkdir(parents=True, exist_ok=True)
        write_text(folder / PLANS / f"{name}.json", json.dumps(planned, indent=1) + "\n")


def plan(output_dir: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The runs that sweeps plan there, by name with the overrides of their jobs; and which files are not plans."""
    planned, unusable = entries(output_dir)
    return {name: entry["overrides"] if isinstance(entry, dict) else entry for name, entry in planned.items()}, unusable


def entries(output_dir: Path) -> tuple[dict[str, Any], list[str]]:
    """The same with what is stored of each run: its overrides, or a dictionary of them and of the runs before it."""
    planned: dict[str, Any] = {}
    unusable = []
    for path in sorted((output_dir / PLANS).glob("*.json")):
        try:
            planned |= checked_plan(parse(content(path)))
        except (OSError, ValueError) as error:
            unusable.append(f"{path}: {why_not(error)}; runs that only this sweep planned are not known")
    return planned, unusable


def waiting(state: State, after: Iterable[Path], tuning: Iterable[Path]) -> State:
    """The state of a run that depends on other runs: if it is missing, it may be waiting.

    after: the folders of the runs whose files it reads. tuning: those of its tuning runs.
    """
    if state.word != MISSING:
        return state

    def of(folder: Path) -> State:
        return RunFolder(str(folder.parent), folder.name).state()

    left = [folder for folder in after if of(folder).word != FINISHED]
    left += [folder for folder in tuning if not of(folder).has_tuned]
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return State(WAITING, f"for {left[0].name}{more}") if left else state


def checked_plan(runs: Any) -> dict[str, Any]:
    """The same plan; raises ValueError unless it names folders, each with the overrides that were typed."""
    if not isinstance(runs, dict):
        raise ValueError("it is not the plan of a sweep")
    for name, typed in runs.items():
        if name in ("", ".", "..") or {"/", "\0"} & set(name) or len(os.fsencode(name)) > 255:
            raise ValueError(f"{brief(name)} is not the name of a folder")
        entry = typed if isinstance(typed, dict) else {"overrides": typed}
        lists = [entry.get("overrides"), entry.get("after", []), entry.get("tuning", [])]
        if not all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in lists):
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
    planned = entries(output_dir)[0]
    names |= dict.fromkeys(planned)

    def state(name: str) -> State:
        entry = planned.get(name)
        parents = entry if isinstance(entry, dict) else {}
        after, tuning = (
            [Path(os.path.normpath(output_dir / run)) for run in parents.get(word, [])] for word in ("after", "tuning")
        )
        return waiting(RunFolder(str(output_dir), name).state(), after, tuning)

    return {name: state(name) for name in names}


def counted(words: Collection[str]) -> str:
    """How many runs there are, and how many in each state, given the word of each: 3 runs: 1 finished, 2 missing."""
    of = Counter(words)
    return f"{quantity(len(words), 'run')}: {', '.join(f'{of[word]} {word}' for word in STATES if of[word])}"
