"""Runs made by hand, the reader of runs as a command in this process, and tables read back, for tests of tables."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from cli import Done

from budgetrun.aggregate import main
from budgetrun.folder.run import FINISHED
from budgetrun.identity import ELSEWHERE, NEUTRAL


def result(**changes: Any) -> dict[str, Any]:
    """A complete result. Arguments: an option (sampler="is"), a value (**{"sampler.pool": 3}), or a measured number."""
    names = {"dataset": "digits", "model": "cnn", "sampler": "uniform", "aug": "standard", "noise": "none"}
    config: dict[str, Any] = {
        "dataset": {"_target_": "a.Digits", "mean": [0.305], "system": "/usr"},
        "model": {"width": 16},
        "sampler": {},
        "aug": {"crop": {"padding": 1}},
        "noise": {},
        "budget": 0.3,
        "budget_unit": "updates",
        "seed": 0,
        "epochs": 40.0,
        "batch_size": 64,
        "lr": 0.1,
        "deterministic": False,
        "full_seconds": None,
        "device": "auto",
        "data_dir": "data",
        "output_dir": "outputs",
        "checkpoint_every": 60.0,
        "force": False,
    }
    measured: dict[str, Any] = {
        "test_accuracy": 0.5,
        "test_loss": 1.5,
        "updates": 11,
        "examples_forward": 704,
        "examples_backward": 704,
        "flops": 10**9,
        "seconds": 2.5,
        "dataset_fingerprint": "abc",
        "commit": "c0ffee",
        "dirty": False,
        "device": "cpu (x86_64)",
        "versions": {"budgetrun": "0.1.0"},
    }
    for key, value in changes.items():
        if key in names or key in ("select", "freeze"):  # only some samplers have the first, only later runs the second
            names[key] = value
        elif "." in key and key.partition(".")[0] in config:
            group, _, rest = key.partition(".")
            config[group] = {**config[group], rest: value}
        elif (key in config and key != "device") or key in NEUTRAL:
            config[key] = value
        else:
            measured[key] = value
    identity = {key: value for key, value in config.items() if key not in ELSEWHERE}
    digest = hashlib.sha256(json.dumps([names, identity], sort_keys=True).encode()).hexdigest()[:8]
    run_id = f"{names['sampler']}-s{config['seed']}-{digest}"
    return {"run_id": run_id, "status": FINISHED, "names": names, "config": config, **measured}


def write(folder: Path, lines: Sequence[dict[str, Any]] = ({},), **changes: Any) -> Path:
    """Write a finished run's folder below `folder`; returns its path. lines: its metrics.jsonl, one per evaluation."""
    content = result(**changes)
    path = folder / content["run_id"]
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("budget: 0.3\n")
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "result.json").write_text(json.dumps(content))
    return path


def aggregate(*arguments: Any, cwd: Path | None = None) -> Done:
    """scripts/aggregate.py in this process."""
    return called(main, *arguments, cwd=cwd)


def called(main: Callable[[list[str]], int], *arguments: Any, cwd: Path | None = None) -> Done:
    """Call a command's main with these arguments; returns what it printed too."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        if cwd is not None:
            stack.enter_context(contextlib.chdir(cwd))
        code = main([str(argument) for argument in arguments])
    return Done(code, out.getvalue(), err.getvalue(), cwd or Path.cwd())


def table_of(*arguments: Any) -> list[dict[str, str]]:
    """The rows in CSV format, from a command that makes no remarks."""
    done = aggregate(*arguments, "--format", "csv")
    assert (done.code, done.err) == (0, "")
    return list(csv.DictReader(io.StringIO(done.out)))


def refused(done: Done, *words: str) -> str:
    """Check that it failed with one sentence that contains these words; returns the sentence."""
    assert done.code == 1, done.out
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("aggregate: ")
    for part in words:
        assert part in line, line
    return line


def split_cells(line: str, mark: str) -> list[str]:
    """A line split at every mark that has no backslash before it."""
    return [part.strip() for part in re.split(rf"(?<!\\){re.escape(mark)}", line)]


def read_markdown(text: str) -> tuple[list[list[str]], str]:
    """The lines of cells, headings first, and the caption."""
    *drawn, empty, caption = text.rstrip("\n").split("\n")
    assert empty == ""
    lines = []
    for line in drawn:
        first, *cells, last = split_cells(line, "|")
        assert (first, last) == ("", "")
        lines.append([cell.replace(r"\|", "|") for cell in cells])
    assert set("".join(lines.pop(1))) == {"-"}
    return lines, caption


LATEX = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"$\pm$": "±",
    "{[}": "[",
    "{]}": "]",
    "{*}": "*",
    "---": "—",
}


def unescape(text: str) -> str:
    """LaTeX as the text that it is typeset as; only what is known here may be special in it."""
    read, rest = "", text
    while rest:
        known = next((k for k in LATEX if rest.startswith(k)), None)
        if known:
            read, rest = read + LATEX[known], rest[len(known) :]
        elif rest[0] == "\\":
            assert rest[1] in "%_&#${}", rest
            read, rest = read + rest[1], rest[2:]
        else:
            assert rest[0] not in "%_&#${}~^<>|\\", rest
            read, rest = read + rest[0], rest[1:]
    return read


def read_latex(text: str) -> tuple[list[list[str]], str]:
    """The lines of cells, headings first, and the caption, of a table whose structure is valid."""
    open_environments: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert not open_environments
    bare = re.sub(r"\\[{}]", "", text)
    depths = list(itertools.accumulate({"{": 1, "}": -1}.get(c, 0) for c in bare))
    assert min(depths) >= 0
    assert depths[-1] == 0
    (alignment,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    head, body = re.search(r"\\toprule\n(.*) \\\\\n\\midrule\n(.*)\n\\bottomrule", text, flags=re.S).groups()
    lines = []
    for line in [head, *body.split("\n")]:
        cells = split_cells(line.removesuffix(r" \\"), "&")
        assert len(cells) == len(alignment)
        assert line[0] not in "[*", "LaTeX would take it for an option of the line before"
        lines.append([unescape(cell) for cell in cells])
    (caption,) = re.findall(r"^\\caption\{(.*)\}$", text, flags=re.M)
    return lines, unescape(caption)


def by_hand(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation in exact fractions, rounded at the end."""
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    if len(exact) == 1:
        return float(mean), None
    variance = sum((value - mean) ** 2 for value in exact) / (len(exact) - 1)
    return float(mean), math.sqrt(variance)
