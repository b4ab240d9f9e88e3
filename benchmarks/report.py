"""(m) How long a report takes, and how large it is: `python -m benchmarks.report`.

Of 10,000 copies of a real run, as in (e). A table of the same runs with its comparison is made in turns with it: both
read the same files and make the same statistics.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.aggregate import READER, a_run, copies, timed

REPORT = [sys.executable, "-m", "budgetrun.report", "copies", "--out", "report.html"]
TABLE = [*READER, "--baseline", "sampler=uniform"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is made (default: 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.runs, options.rounds)


def measure(folder: Path, runs: int, rounds: int) -> None:
    """Print the medians over the rounds, of the report's ratios to the table of its round too."""
    copies(a_run(folder), folder / "copies", runs)
    found: dict[str, list[tuple[float, float, float]]] = {"a table with a comparison": [], "the report": []}
    with (folder / "out").open("w") as out:
        timed(TABLE, folder, out)  # makes the cache that all of the others read
        for _ in range(rounds):
            for measured, command in zip(found.values(), (TABLE, REPORT), strict=True):
                measured.append(timed(command, folder, out))
    size = (folder / "report.html").stat().st_size
    print(f"\n### (m) A report of {runs:,} runs: {size / 1e6:.2f} MB\n")
    print("| command | seconds | processor seconds | peak memory, MB |\n| --- | --- | --- | --- |")
    for name, measured in found.items():
        seconds, processor, memory = (statistics.median(values) for values in zip(*measured, strict=True))
        print(f"| {name} | {seconds:.1f} | {processor:.1f} | {memory:.0f} |")
    table, report = found.values()
    ratios = [ours[1] / its[1] for ours, its in zip(report, table, strict=True)]
    print(f"\nProcessor seconds, report / table: {statistics.median(ratios):.2f}.")


if __name__ == "__main__":
    main()
