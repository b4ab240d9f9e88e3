"""Time from the command to the first update: `python -m budgetrun` as it is, with a schedule that tells the time."""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# with the program of this checkout, wherever it is started
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
}
IMPORT = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| +(\S+)")


@dataclass
class Stamped:
    """The constant schedule; says when it was built and when it is asked: by the checks, then as each update starts."""

    def __post_init__(self) -> None:
        print(f"stamp built {time.time()}", flush=True)

    def __call__(self, lr: float, progress: float) -> float:
        print(f"stamp asked {time.time()}", flush=True)
        return lr


@dataclass
class Start:
    """Seconds from the command: to the checked experiment, to the first update's start, to its end.

    imports: their own time, by package.
    """

    built: float
    asked: float
    done: float
    imports: dict[str, float] = field(default_factory=dict)


def start(arguments: list[str], traced: bool = False) -> Start:
    """One start of the program; `traced` with Python's import timer, which itself costs some time."""
    with tempfile.TemporaryDirectory() as folder:
        stamped = ["schedule=constant", "schedule._target_=benchmarks.start.Stamped"]
        once = ["epochs=0.1", "evaluations=1", f"output_dir={folder}"]  # two updates: the last two stamps
        command = [sys.executable, *["-X", "importtime"][: 2 * traced], "-m", "budgetrun", *arguments, *stamped, *once]
        began = time.time()
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    stamps = [float(line.split()[2]) - began for line in done.stdout.splitlines() if line.startswith("stamp ")]
    imports: dict[str, float] = collections.defaultdict(float)
    for own, _, name in IMPORT.findall(done.stderr):
        imports[name.split(".")[0]] += int(own) / 1e6
    return Start(stamps[0], stamps[-2], stamps[-1], dict(imports))
