"""The states of a sweep's runs, from their folders alone: `python -m budgetrun.status outputs/smoke`.

It only reads, on any machine that sees the disk, during the sweep or afterwards. Each sweep lists its runs in a file in
output_dir/.sweeps, so that missing runs are known too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from budgetrun.digits import quantity
from budgetrun.folder.plan import plan, states
from budgetrun.folder.run import FAILED, FINISHED, INTERRUPTED, RUNNING, STATES, RunFolder
from budgetrun.terminal import any_encoding, shown, tell


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 if all runs are finished, 1 if not, 2 for a wrong folder."""
    parser = argparse.ArgumentParser("status", description="The states of the runs in a folder, and of planned runs.")
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
    lines = [f"{folder}: {quantity(len(found), 'run')}"]
    for word in STATES:
        of_word = {name: state for name, state in found.items() if state.word == word}
        if of_word:
            lines.append(f"{len(of_word):6} {word}")
        for name, state in of_word.items() if word in (RUNNING, INTERRUPTED, FAILED) else ():
            how_far = [RunFolder(str(folder), name).progress()] if word != FAILED else []
            lines.append(f"         {name}: {', '.join(filter(None, [*how_far, state.detail]))}")
    tell("\n".join(map(shown, lines)))
    return 0 if not unusable and all(state.word == FINISHED for state in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
