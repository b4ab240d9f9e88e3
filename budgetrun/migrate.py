"""Give the finished runs of an earlier version the ids of this one: `python -m budgetrun.migrate outputs`.

A run is found by its id, which is its folder's name (docs/identity.md). The ids changed once, with version 0.2; the new
id follows from the configuration in the run's result. Unfinished runs keep their names: finish them with the version
that started them, or start them again. The command can be interrupted and run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from budgetrun.config import rounded
from budgetrun.errors import UserError, one_line
from budgetrun.files import write_text
from budgetrun.folder.plan import PLANS, checked_plan
from budgetrun.folder.reading import content, parse
from budgetrun.folder.run import RunFolder, read_result, write_sums
from budgetrun.folder.scorefile import need
from budgetrun.identity import made_files, run_id
from budgetrun.terminal import shown, tell

# the classes' new paths, by their paths before version 0.3
MOVED = {
    "budgetrun.optimizer.SGD": "budgetrun.optimizer.sgd.SGD",
    "budgetrun.optimizer.AdamW": "budgetrun.optimizer.adamw.AdamW",
    "budgetrun.schedule.Constant": "budgetrun.schedule.constant.Constant",
    "budgetrun.schedule.Cosine": "budgetrun.schedule.cosine.Cosine",
    "budgetrun.schedule.Linear": "budgetrun.schedule.linear.Linear",
    "budgetrun.schedule.Step": "budgetrun.schedule.step.Step",
    "budgetrun.coresets.Craig": "budgetrun.coreset.craig.Craig",
    "budgetrun.coresets.Glister": "budgetrun.coreset.glister.Glister",
    "budgetrun.coresets.GradMatch": "budgetrun.coreset.gradmatch.GradMatch",
    "budgetrun.coresets.Herding": "budgetrun.coreset.herding.Herding",
    "budgetrun.coresets.KCenter": "budgetrun.coreset.k_center.KCenter",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 1 if a run could not get its new id."""
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
    """Rename the runs in a folder; returns their new ids by their old ones, and why others keep theirs."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name an output_dir")
    results, left = planned(folder)
    new = {name: result["run_id"] for name, result in results.items()}
    for path in (folder / PLANS).glob("*.json"):
        try:
            plan = checked_plan(parse(content(path)))
            if new.keys() & plan.keys():
                write_text(path, json.dumps({new.get(name, name): job for name, job in plan.items()}, indent=1) + "\n")
        except (UserError, OSError, ValueError) as error:
            left[f"{PLANS}/{path.name}"] = one_line(error)
    # runs that made a file come after those that read it: after an interruption, the readers' new names are still known
    for name in reversed(results):
        try:
            rename(folder, name, results[name])
        except (UserError, OSError, ValueError) as error:
            left[name] = one_line(error)
            del new[name]
    return new, left


def planned(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The new results of the runs to rename, those that make files first; and why others keep their names."""
    results: dict[str, dict[str, Any]] = {}
    new: dict[str, str] = {}
    left: dict[str, str] = {}
    todo = sorted(path.parent.name for path in folder.glob("*/result.json"))
    while todo:
        waiting = []
        for name in todo:
            try:
                result = with_new(json.loads(json.dumps(read_result(folder / name / "result.json"))), new)
                makers = {path.parent.name for path in made_files(result["config"])} - {name}
                if makers & left.keys():
                    raise UserError("a run that made its files keeps its name")
                if makers & set(todo):
                    waiting.append(name)
                    continue
                need(result["config"]["sampler"].get("file"), "sampler.file")  # its content is in the id
                if (now := run_id(result["names"], rounded(result["config"]))) != name:
                    if now in new.values() or (folder / now).exists():
                        raise UserError(f"{folder / now} already exists")
                    results[name], new[name] = {**result, "run_id": now}, now
            except (UserError, OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
                left[name] = one_line(error)
        if waiting == todo:
            left |= dict.fromkeys(waiting, "it and the runs that made its files depend on each other; run them again")
            break
        todo = waiting
    return results, left


def with_new(value: Any, new: dict[str, str]) -> Any:
    """A result with the new names of runs and classes."""
    if isinstance(value, dict):
        return {key: with_new(v, new) for key, v in value.items()}
    if isinstance(value, str):
        for old, now in new.items():
            value = value.replace(old, now)
        return MOVED.get(value, value)
    return value


def rename(folder: Path, old: str, result: dict[str, Any]) -> None:
    """Rename one run: the folder last, so that an interrupted renaming is repeated."""
    run, now = RunFolder(str(folder), old), result["run_id"]
    if run.scores_path.exists():
        text = run.scores_path.read_text()
        write_text(run.scores_path, text.replace(f'"run_id": "{old}"', f'"run_id": "{now}"', 1))
    write_sums(run)
    write_text(run.result_path, json.dumps(result, indent=2) + "\n")
    run.path.rename(folder / now)


if __name__ == "__main__":
    sys.exit(main())
