"""Files of scores: what one run learnt about training examples, for another run to select by.

A comma-separated file whose first line is a comment: `# {"dataset_fingerprint": "...", ...}`, a JSON object with
dataset_fingerprint, of the data set's clean examples and their validation part; labels_fingerprint, of the labels of
the scored examples, as the run saw them; examples, their number; what made the file, and what that cost (flops), by the
runs that led to it (runs). In a file written by hand, all but the first may be missing. A header follows, `index,score`
and further columns (`weight`; `recall`, of the example's class on the held-out part), and then one line per example;
index counts the training examples of the run, without the held-out ones.

`kind` says how several files combine. "mean", if it is missing: their columns are averaged. "ensemble": the sums over
their members, in the file sums.npy beside each, are added (see budgetrun/acquisition.py), and the acquisition follows.
"memorization": their counts `in, in_correct, out, out_correct` are added, and the score, which no file has, follows.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from budgetrun import acquisition as ensemble
from budgetrun.contracts import UserError
from budgetrun.files import write_text
from budgetrun.folder import reading
from budgetrun.folder.reading import COUNT, POSITIVE_COUNT, brief, check_one
from budgetrun.folder.run import sha256, why_not
from budgetrun.identity import made_by_a_run, paths, real


def write(path: Path, columns: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a file of `columns`, [m] each, with `index` 0 .. m-1 if there is none; whole or not at all."""
    length = len(next(iter(columns.values())))
    table = {"index": columns.get("index", torch.arange(length)), **columns}
    host = [column.cpu().numpy() for column in table.values()]
    text = io.StringIO()
    text.write(f"# {json.dumps({**about, 'examples': length})}\n{','.join(table)}\n")
    for row in zip(*host, strict=True):
        # 9 digits restore every float32 exactly
        text.write(",".join(str(v) if isinstance(v, np.integer) else f"{v:.9g}" for v in row) + "\n")
    write_text(path, text.getvalue())


NEEDS = {  # the columns that a file of scores of each kind must have, besides the index
    "mean": ("score",),
    "ensemble": ("score",),
    "memorization": ("in", "in_correct", "out", "out_correct"),
}


class NotThere(UserError):
    """A file does not exist; another run may be to blame, which does not make it."""


def content(path: Path, key: str) -> bytes:
    try:
        return reading.content(path)
    except (OSError, ValueError) as error:
        what = "sampler=subset" if key.endswith("base") else "scores=..."
        kind = NotThere if isinstance(error, FileNotFoundError) else UserError
        raise kind(f"{key}: {path} cannot be read ({why_not(error)}); a run with {what} writes such a file") from error


def need(pattern: str | None, key: str) -> None:
    """Raise UserError if a file of the pattern cannot be read, unless it is one that a run makes."""
    for path in map(Path, paths(pattern or "")):
        if pattern and not made_by_a_run(real(str(path))):
            content(path, key)


def additive(sums: Path, members: int, acquisition: str) -> dict[str, Any]:
    """What the first line says of sums over the members of an ensemble, in a file beside it."""
    return {"kind": "ensemble", "members": members, "acquisition": acquisition, "sums": sha256(sums)}


def count(cost: dict[str, int], runs: Mapping[str, int]) -> None:
    """Count the FLOPs of these runs once in a cost by runs; a run's file of scores cost more than its checkpoint."""
    for run, flops in runs.items():
        cost[run] = max(flops, cost.get(run, 0))


def read(
    pattern: str, key: str, run: Mapping[str, str], n: int, acquisition: str | None = None
) -> tuple[dict[str, Tensor], dict[str, int], list[str]]:
    """The columns of a file, or of several together; the runs that led to them, each with its FLOPs; and their methods.

    key: where the pattern was configured, for messages. run: the two fingerprints of the run that reads. acquisition:
    the score of an ensemble's files, if it is not the one that they name. Raises UserError if a file is missing, is not
    a file of scores, or was made for other data, or if the files do not go together.
    """
    files, tables, abouts, cost = read_each(pattern, key, run, n)
    first = tables[0]
    for path, table, about in zip(files, tables, abouts, strict=True):
        if set(table) != set(first) or not torch.equal(table["index"], first["index"]):
            raise UserError(f"{key}: {path} has other columns or examples than {files[0]}, so they cannot be combined")
        if about["kind"] != abouts[0]["kind"]:
            what = f"is of kind {about['kind']}, and {files[0]} of kind {abouts[0]['kind']}"
            raise UserError(f"{key}: {path} {what}, so they cannot be combined")
    kind = abouts[0]["kind"]
    if acquisition is not None and kind != "ensemble":
        raise UserError(
            f"sampler.acquisition={acquisition} is for the files of a run with scores=ensemble, and {files[0]} is none"
        )
    # an ensemble's other columns are of each file's own members
    averaged = first.keys() & {"recall"} if kind == "ensemble" else first.keys() - {"index"}
    columns = {name: torch.stack([table[name] for table in tables]).mean(0) for name in first if name in averaged}
    if kind == "ensemble":
        columns["score"] = joint(files, abouts, key, n, acquisition)
    elif kind == "memorization":
        columns["score"] = memorized(columns, key, files)
    return {"index": first["index"], **columns}, cost, sorted({about["method"] for about in abouts})


def memorized(mean: Mapping[str, Tensor], key: str, files: Sequence[Path]) -> Tensor:
    """The memorization [m] of examples, from the means of the counts of runs with and without each of them."""
    if unknown := int(((mean["in"] == 0) | (mean["out"] == 0)).sum()):
        raise UserError(
            f"{key}: memorization compares runs that trained on an example with runs that did not, and {unknown} of "
            f"{len(mean['in'])} examples were in all or in none of these {len(files)} runs' data; add runs"
        )
    if any(((mean[f"{case}_correct"] < 0) | (mean[f"{case}_correct"] > mean[case])).any() for case in ("in", "out")):
        raise UserError(
            f"{key}: {files[0]}, or another of the files, counts more correct runs than runs, or fewer than 0"
        )
    return mean["in_correct"] / mean["in"] - mean["out_correct"] / mean["out"]


def read_each(
    pattern: str, key: str, run: Mapping[str, str], n: int, kept: bool = False
) -> tuple[list[Path], list[dict[str, Tensor]], list[dict[str, Any]], dict[str, int]]:
    """The files, each one's columns and first line, and the runs that led to them; checked each by itself."""
    files = [Path(path) for path in paths(pattern)]
    tables, abouts = [], []
    cost: dict[str, int] = {}
    for path in files:
        table, about = parse(path, key, kept)
        check_made_for(run, path, key, about)
        index = table["index"]
        if not len(index) or index.min() < 0 or index.max() >= n or len(index.unique()) < len(index):
            raise UserError(f"{key}: {path} must name each example at most once, from 0 to {n - 1}, and at least one")
        tables.append(table)
        abouts.append(about)
        count(cost, about["runs"])
    return files, tables, abouts, cost


def check_made_for(run: Mapping[str, str], path: Path, key: str, about: Mapping[str, Any]) -> None:
    """Raises UserError unless what a file says of its examples is true of those of the run that reads it."""
    if about.get("dataset_fingerprint") != run["dataset_fingerprint"]:
        made = about.get("dataset_fingerprint", "no fingerprint")
        raise UserError(
            f"{key}: {path} was made for other data ({made}, and this is {run['dataset_fingerprint']}: data set "
            "and validation part must be the same); make it again for this data"
        )
    if about.get("labels_fingerprint", run["labels_fingerprint"]) != run["labels_fingerprint"]:
        raise UserError(
            f"{key}: {path} is about other examples than those that this run trains on, or the same with other "
            "labels: the noise, its seed, and which part is trained on must be the same"
        )


def joint(
    files: Sequence[Path], abouts: Sequence[Mapping[str, Any]], key: str, n: int, acquisition: str | None
) -> Tensor:
    """The acquisition [n] of the ensemble of all members of these files."""
    asked = {acquisition} if acquisition is not None else {about["acquisition"] for about in abouts}
    if len(asked) > 1:
        raise UserError(f"{key}: the files name {' and '.join(sorted(asked))} as their score; set sampler.acquisition")
    sums, classes = [path.with_name("sums.npy") for path in files], 0
    for path, file, about in zip(sums, files, abouts, strict=True):
        try:
            examples, has = ensemble.shape(path)
            if sha256(path) != about.get("sums"):
                raise ValueError("it is not what the file of scores was made from")
        except (OSError, ValueError) as error:
            why = f"{path} cannot be used ({why_not(error)})"
            raise UserError(f"{key}: {file} needs the sums beside it, and {why}; copy both, or run it again") from error
        if examples != n or has != (classes := classes or has):
            raise UserError(
                f"{key}: {path} has {examples} examples of {has} classes, and for one ensemble all files must have the "
                f"{n} examples of this run and the {classes} classes of {sums[0]}"
            )
    members, name = sum(about["members"] for about in abouts), asked.pop()
    if members == 1 and name in ensemble.COMPARING:
        raise UserError(f"{key}: {files[0]} has one member, and sampler.acquisition={name} compares several")
    return torch.from_numpy(ensemble.finished(sums, members)[name]).float()


def read_kept(pattern: str, key: str, run: Mapping[str, str], n: int) -> tuple[Tensor, dict[str, int]]:
    """The indices of the examples in a kept.csv, in order; and the runs that led to them, each with its FLOPs.

    The rest as for `read`; several files must keep the same examples.
    """
    files, tables, _, cost = read_each(pattern, key, run, n, kept=True)
    index = tables[0]["index"]
    for path, table in zip(files, tables, strict=True):
        if not torch.equal(index, table["index"]):
            raise UserError(f"{key}: {path} keeps other examples than {files[0]}; a round has one base")
    return index, cost


def told(text: str, path: Path) -> dict[str, Any]:
    """What a file says of itself, as JSON, with its cost by runs; raises ValueError if it cannot be used."""
    about: dict[str, Any] = reading.parse(text)
    if not isinstance(about, dict):
        raise ValueError("it does not say what it is about")
    if not isinstance(about.setdefault("method", path.name), str):
        raise ValueError("its method is not a word")
    check_one("flops", about.setdefault("flops", 0), COUNT)
    runs = about.setdefault("runs", {about.get("run_id", str(path)): about["flops"]})
    if not isinstance(runs, dict):
        raise ValueError("its runs are not FLOPs by the names of runs")
    for flops in runs.values():
        check_one("flops", flops, COUNT)
    return about


def parse(path: Path, key: str, kept: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The columns of one file in the order of `index`, and its first line. kept: whether it is a kept.csv."""
    whole = content(path, key)
    try:
        first, header, *rows = whole.decode().splitlines()
        about = told(first.removeprefix("#"), path)
        if (about.setdefault("kind", "mean") == "kept") != kept:
            raise ValueError(f"its kind is {brief(about['kind'])}")
        if about["kind"] == "ensemble":
            check_one("members", about.get("members"), POSITIVE_COUNT)
            if about.get("acquisition") not in ensemble.ACQUISITIONS:
                raise ValueError(f"its acquisition is not one of {', '.join(ensemble.ACQUISITIONS)}")
        elif not kept and about["kind"] not in NEEDS:
            raise ValueError(f"its kind is not one of {', '.join(NEEDS)} but {brief(about['kind'])}")
        if about.get("examples", len(rows)) != len(rows) or not whole.endswith(b"\n"):
            raise ValueError(f"it was cut off: it has {len(rows)} lines of {about.get('examples', 'more')}")
        values = np.array([row.split(",") for row in rows], dtype=np.float64).reshape(len(rows), -1)
        names = header.split(",")
        if len(set(names)) < len(names):
            raise ValueError("it has a column twice")
        table = dict(zip(names, torch.from_numpy(values).unbind(1), strict=True))
        index = table["index"].long()
        if lacks := [name for name in NEEDS.get(about["kind"], ()) if name not in table]:
            raise ValueError(f"it has no column {lacks[0]}")
        if not all(column.float().isfinite().all() for column in table.values()):
            raise ValueError("not all of its values are finite numbers")
        if not torch.equal(index.double(), table["index"]):
            raise ValueError("not all of its indices are whole numbers")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        what, second = ("the subset of a run", "index") if kept else ("a file of scores", "index,score")
        raise UserError(
            f"{key}: {path} is not {what} ({error}); the first line of such a file is "
            f"'# {{\"dataset_fingerprint\": ...}}', and its second, unless a run wrote it, '{second}'"
        ) from error
    order = index.argsort()
    return {"index": index[order]} | {k: v[order].float() for k, v in table.items() if k != "index"}, about
