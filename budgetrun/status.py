"""What became of the runs of a sweep, by their folders alone: `python -m budgetrun.status outputs/smoke`.

It reads only, from any machine that sees the disk, while the sweep runs or after. What a sweep is going to run stands
in output_dir/.sweeps, a file a sweep, so that runs can be missing.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from budgetrun.results import FAILED, FINISHED, INTERRUPTED, RUNNING, STATES, RunFolder, State, writable, write_text

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


def plan(output_dir: Path) -> dict[str, list[str]]:
    """The runs that sweeps are going to have there, by name with the overrides of their jobs."""
    planned: dict[str, list[str]] = {}
    for path in sorted((output_dir / PLANS).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):  # of a sweep that did not start, or no plan
            planned |= json.loads(path.read_bytes())
    return planned


def states(output_dir: Path) -> dict[str, State]:
    """The state of every run that is in a folder or planned there, by name."""
    names = {path.name: None for path in sorted(output_dir.iterdir()) if (path / "config.yaml").is_file()}
    names |= dict.fromkeys(plan(output_dir))
    return {name: RunFolder(str(output_dir), name).state() for name in names}


def progress(folder: RunFolder) -> str:
    """How far a run is by its last evaluation, in words."""
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError, TypeError):
        line = json.loads(folder.metrics_path.read_bytes().splitlines()[-1])
        return f"{100 * line['progress']:.0f}% of the budget, test accuracy {100 * line['test_accuracy']:.2f} %"
    return "not evaluated yet"


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code: 0 where all runs are finished, 1 where some are not, 2 for a wrong folder."""
    parser = argparse.ArgumentParser("status", description="What became of the runs in a folder, and of those planned.")
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help="an output_dir (default: outputs)")
    folder: Path = parser.parse_args(arguments).folder
    try:
        found = states(folder)
    except OSError as error:
        print(f"status: {folder} cannot be read ({error.strerror}); name the output_dir of a sweep", file=sys.stderr)
        return 2
    if not found:
        print(f"status: there is no run in {folder}; name the output_dir of a sweep", file=sys.stderr)
        return 2
    print(f"{folder}: {len(found)} runs")
    for word in STATES:
        of_word = {name: state for name, state in found.items() if state.word == word}
        if of_word:
            print(f"{len(of_word):6} {word}")
        for name, state in of_word.items() if word in (RUNNING, INTERRUPTED, FAILED) else ():
            how_far = [progress(RunFolder(str(folder), name))] if word != FAILED else []
            print(f"         {name}: {', '.join(filter(None, [*how_far, state.detail]))}")
    return 0 if all(state.word == FINISHED for state in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
