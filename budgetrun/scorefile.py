"""Files of scores: what one run found out about every training example, for another run to select by.

A comma-separated file whose first line is a comment: `# {"dataset_fingerprint": "...", ...}`, a JSON object with the
fingerprint of the data set, what made the file and what that cost. Then a header, `index,score` and further columns
(`weight`), and a line an example; index counts the training examples of the run, without the held-out ones.
"""

from __future__ import annotations

import glob
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from budgetrun.contracts import UserError
from budgetrun.results import write_text


def write(path: Path, columns: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """A file of `columns` [m] each, with `index` 0 .. m-1 where there is none; whole or not at all."""
    length = len(next(iter(columns.values())))
    table = {"index": columns.get("index", torch.arange(length)), **columns}
    host = [column.cpu().numpy() for column in table.values()]
    text = io.StringIO()
    text.write(f"# {json.dumps(dict(about))}\n{','.join(table)}\n")
    for row in zip(*host, strict=True):
        # 9 digits give every float32 back
        text.write(",".join(str(v) if isinstance(v, np.integer) else f"{v:.9g}" for v in row) + "\n")
    write_text(path, text.getvalue())


def read(pattern: str, key: str, fingerprint: str, n: int) -> tuple[dict[str, Tensor], float]:
    """The columns of a file, and what it cost to make in FLOPs; of several files the mean of their columns.

    pattern: a path, which may hold * and ? for several files, or several joined by commas. key: where it was
    configured, for messages. Raises UserError where a file is missing, is none, or was made for other data.
    """
    found = [sorted(glob.glob(part)) or [part] for part in pattern.split(",")]  # noqa: PTH207 Path's takes no full path
    paths = [Path(path) for paths in found for path in paths]
    tables, cost = [], 0.0
    for path in paths:
        table, about = read_one(path, key, n)
        if about.get("dataset_fingerprint") != fingerprint:
            made = about.get("dataset_fingerprint", "no fingerprint")
            raise UserError(
                f"{key}: {path} was made for other data ({made}, and this is {fingerprint}: data set and validation "
                "part must be the same); make it again for this data"
            )
        cost += float(about.get("flops", 0.0))
        tables.append(table)
    first = tables[0]
    for path, table in zip(paths, tables, strict=True):
        if set(table) != set(first) or not torch.equal(table["index"], first["index"]):
            raise UserError(f"{key}: {path} has other columns or examples than {paths[0]}, so they have no mean")
    return {
        name: first[name] if name == "index" else torch.stack([t[name] for t in tables]).mean(0) for name in first
    }, cost


def read_one(path: Path, key: str, n: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        first, header, *rows = path.read_text().splitlines()
        about: dict[str, Any] = json.loads(first.removeprefix("#"))
        values = np.array([row.split(",") for row in rows], dtype=np.float64).reshape(len(rows), -1)
        table = dict(zip(header.split(","), torch.from_numpy(values).unbind(1), strict=True))
        index = table["index"].long()
    except OSError as error:
        raise UserError(
            f"{key}: {path} cannot be read ({error.strerror}); a run with scores=... writes such a file"
        ) from error
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{key}: {path} is no file of scores ({error}); its first line is '# {{\"dataset_fingerprint\": ...}}', "
            "its second 'index,score'"
        ) from error
    if not len(index) or index.min() < 0 or index.max() >= n or len(index.unique()) < len(index):
        raise UserError(f"{key}: {path} must name each example at most once, from 0 to {n - 1}, and at least one")
    order = index.argsort()
    return {"index": index[order]} | {k: v[order].float() for k, v in table.items() if k != "index"}, about
