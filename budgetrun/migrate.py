"""Give the finished runs of an earlier version the ids of this one: `python -m budgetrun.migrate outputs`.

A run is found by its id, which is its folder's name. The ids have changed once, with version 0.2; what a run is, and so
its new id, stands in its result. Runs that are not finished keep their names: finish them with the version that began
them, or begin them anew. It can be interrupted and called again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from budgetrun.config import rounded
from budgetrun.errors import UserError, one_line
from budgetrun.identity import made_files, run_id
from budgetrun.results import RunFolder, read_result, write_sums, write_text
from budgetrun.status import PLANS
from budgetrun.terminal import shown, tell


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code: 0, or 1 where a run could not get its new id."""
    parser = argparse.ArgumentParser("migrate", description="New ids for the finished runs of an earlier version.")
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help="an output_dir (default: outputs)")
    folder: Path = parser.parse_args(arguments).folder
    try:
        new, left = migrate(folder)
    except UserError as error:
        print(f"migrate: {error}", file=sys.stderr)
        return 1
    lines = [f"{folder / name} keeps its name: {why}" for name, why in left.items()]
    tell("\n".join(map(shown, [*lines, f"{len(new)} runs in {folder} have new ids"])))
    return 1 if left else 0


def migrate(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Rename the runs in a folder; their new ids by their old ones, and why others keep theirs."""
    new: dict[str, str] = {}
    left: dict[str, str] = {}
    todo = sorted(path.parent.name for path in folder.glob("*/result.json"))
    while todo:
        waiting = []
        for name in todo:
            try:
                result = with_new(json.loads(json.dumps(read_result(folder / name / "result.json"))), new)
                if any(path.parent.name in todo and path.parent.name != name for path in made_files(result["config"])):
                    waiting.append(name)  # for the runs that made its files
                elif (now := run_id(result["names"], rounded(result["config"]))) != name:
                    rename(folder, name, now, result)
                    new[name] = now
            except (UserError, OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
                left[name] = one_line(error)
        if waiting == todo:  # they wait for each other, or for one that keeps its name
            left |= dict.fromkeys(waiting, "the runs that made its files keep theirs")
            break
        todo = waiting
    for path in (folder / PLANS).glob("*.json"):
        plan = json.loads(path.read_bytes())
        if new.keys() & plan.keys():
            write_text(path, json.dumps({new.get(name, name): job for name, job in plan.items()}, indent=1) + "\n")
    return new, left


def with_new(value: Any, new: dict[str, str]) -> Any:
    """A result in which the names of runs are their new ones."""
    if isinstance(value, dict):
        return {key: with_new(v, new) for key, v in value.items()}
    if isinstance(value, str):
        for old, now in new.items():
            value = value.replace(old, now)
    return value


def rename(folder: Path, old: str, now: str, result: dict[str, Any]) -> None:
    """The folder last, so that one that was interrupted is done again."""
    if (folder / now).exists():
        raise UserError(f"{folder / now} is there already")
    run = RunFolder(str(folder), old)
    if run.scores_path.exists():
        text = run.scores_path.read_text()
        write_text(run.scores_path, text.replace(f'"run_id": "{old}"', f'"run_id": "{now}"', 1))
    write_sums(run)
    write_text(run.result_path, json.dumps({**result, "run_id": now}, indent=2) + "\n")
    run.path.rename(folder / now)


if __name__ == "__main__":
    sys.exit(main())
