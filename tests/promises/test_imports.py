"""Who may import whom (docs/layout.md), read from the source: lazy imports and those for types count too."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent / "budgetrun"
GROUPS = {"aug", "dataset", "freeze", "logger", "loss", "model", "noise", "optimizer", "sampler", "schedule"}
GROUPS |= {"scores", "select"}
SHARED = {"acquisition", "apportion", "config", "contracts", "digits", "errors", "files"}
SHARED |= {"identity", "memory", "processes", "softmax", "stored", "terminal"}
# what the modules of a wing may import besides its own; the commands at the top may import everything but __main__
ALLOWED = {
    **{
        group: {"acquisition", "contracts", "coreset", "errors", "files", "memory", "softmax", "stored"}
        for group in GROUPS
    },
    "sampler": {"acquisition", "apportion", "contracts", "coreset", "select", "softmax"},
    "select": {"apportion", "contracts"},
    "coreset": {"contracts", "errors", "softmax"},
    "folder": SHARED - {"config"},
    "training": SHARED | {"folder"},
    "launch": SHARED | {"folder", "tables", "training", "train"},
    "tables": SHARED - {"acquisition", "config", "contracts", "softmax", "stored"} | {"folder"},  # these import torch
    "report": {"digits", "errors", "files", "folder", "tables", "terminal"},
}
HYDRA = {"launch", "__main__"}


def imports() -> dict[str, set[str]]:
    """What each module (such as launch.sweep) imports: our modules under such names, others under their full names."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):  # from budgetrun.folder import lock: a module, or a name in one
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        ours = {name.removeprefix("budgetrun.") for name in names if name.startswith("budgetrun.")}
        found[module] = {name if name in modules else name.rpartition(".")[0] for name in ours} | (
            {name for name in names if not name.startswith("budgetrun")}
        )
    return found


def test_every_wing_imports_only_what_it_may() -> None:
    found = imports()
    wrong = [
        f"{module} imports {name}"
        for module, names in found.items()
        for name in names & found.keys()
        if (wing := module.partition(".")[0]) in ALLOWED and name.partition(".")[0] not in ALLOWED[wing] | {wing}
    ]
    assert not wrong
    assert {module.partition(".")[0] for module in found if "." in module} == ALLOWED.keys()
    assert not [module for module, names in found.items() if "__main__" in names]


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = imports()
    graphlib.TopologicalSorter({module: names & found.keys() for module, names in found.items()}).prepare()


def test_hydra_is_in_one_wing_and_torch_is_not_in_those_that_read() -> None:
    for module, names in imports().items():
        wing = module.partition(".")[0]
        packages = {name.partition(".")[0] for name in names}
        assert "hydra" not in packages or wing in HYDRA, module
        assert "torch" not in packages or wing not in ("tables", "report"), module
