"""The help page, built from the comments in conf/."""

from __future__ import annotations

import re
from pathlib import Path

HEAD = """\
budgetrun: training under a budget. Spend it on choosing samples cleverly, or on more varied data?

  python -m budgetrun [group=option ...] [key=value ...]        one run
  python -m budgetrun -m group=option,option key=value,value    every combination, one run each
  python -m budgetrun grid=option [key=value ...]               a whole table
"""

TAIL = """\
Examples
  python -m budgetrun sampler=is budget=0.3 aug=ricap
  python -m budgetrun dataset=fashion_mnist sampler=p_sgd budget=0.3
  python -m budgetrun noise=symmetric noise.rate=0.5 sampler=sb sampler.beta=1
  python -m budgetrun budget=0.3 budget_unit=flops sampler=is sampler.pool=5 validation=0.1
  python -m budgetrun -m sampler=uniform,p_sgd,is budget=0.2,0.3,0.5 aug=standard,ricap seed=0,1,2
  python -m budgetrun grid=smoke
then
  python scripts/status.py outputs/smoke
  python scripts/aggregate.py outputs/smoke --rows noise,sampler,aug --cols budget
  python scripts/report.py outputs/smoke

An option's own values are set as in sampler.pool=5; --cfg job shows all of them. --config-dir DIR adds your own YAML
files. A finished run is not run again, an interrupted one goes on. Results: output_dir/<run>/result.json.
Exit codes: 0 done, 1 failed (one sentence on stderr says why), above 128 stopped by a signal
(130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1, 140 SIGUSR2) and saved.
"""


ORDER = [
    "dataset",
    "recipe",
    "model",
    "freeze",
    "sampler",
    "select",
    "aug",
    "noise",
    "loss",
    "optimizer",
    "schedule",
    "scores",
    "tune",
    "grid",
]


def help_page(conf: Path) -> str:
    """Groups with their options, root values with their defaults and units, examples."""
    lines = [HEAD, "Groups"]
    root = (conf / "config.yaml").read_text()
    default = dict(re.findall(r"^  - (\w+): (\w+)", root, flags=re.M)) | {"recipe": "set by the data set"}
    for group in sorted(default, key=ORDER.index):
        lines.append(f"  {group} (default: {default[group]})")
        for option in sorted((conf / group).glob("*.yaml")):
            lines.append(f"    {option.stem:<18} {description(option)}")
    lines += ["", "Values at the root (a recipe may change them)"]
    for_every = re.compile(r"^schedule:.*\n((?:  .*\n)+)", flags=re.M)
    flat = for_every.sub(lambda block: re.sub(r"^  ", "schedule.", block[1], flags=re.M), root)
    for key, value, comment in re.findall(r"^([\w.]+): (\S+) # (.*)$", flat, flags=re.M):
        lines.append(f"  {key + '=' + value:<22} {comment}" if "$" not in value else f"  {key:<22} {comment}")
    # Hydra uses the page as a template, in which a dollar sign is written twice
    return "\n".join([*lines, "", TAIL]).replace("$", "$$")


def description(option: Path) -> str:
    """The first comment of a YAML file that is not a Hydra directive."""
    comments = (
        line[2:] for line in option.read_text().splitlines() if line.startswith("# ") and "@package" not in line
    )
    return next(comments, "")
