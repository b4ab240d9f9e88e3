"""Files of features: a vector for every training example, by which rules and scores compare examples.

A NumPy archive (.npz) of two arrays. `features`: [n, D] numbers, of the training examples in order, without those that
are held out. `about`: a JSON object as text, the same as in the first line of a file of scores (scorefile.py); in a
file that a run has not written, such as one of another network's features, it needs only dataset_fingerprint.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from budgetrun.contracts import UserError
from budgetrun.files import replacing
from budgetrun.folder import scorefile
from budgetrun.folder.reading import brief
from budgetrun.folder.run import why_not
from budgetrun.identity import made_by_a_run, one_path, real

LARGEST = 1e12  # the square of a distance of 10^13 such numbers is still a float32
KEY = "features"  # in messages: what the option is called in every group


def write(path: Path, parts: Iterable[Tensor], about: Mapping[str, Any]) -> None:
    """Write the features of all examples, given in parts [m, D]; whole or not at all."""
    features = np.concatenate([part.cpu().numpy() for part in parts])
    with replacing(path) as file:
        np.savez(file, features=features, about=json.dumps({**about, "examples": len(features)}))


def read(pattern: str, run: Mapping[str, str], n: int) -> tuple[Tensor, dict[str, int]]:
    """The features, float32 [n, D]; and the runs that led to the file, each with its FLOPs.

    run: the two fingerprints of the run that reads. Raises UserError if it is not one such file, or not of its data.
    """
    path = one_path(pattern, KEY)
    features, about = usable(path)
    scorefile.check_made_for(run, path, KEY, about)
    if len(features) != n:
        raise UserError(f"{KEY}: {path} has {len(features)} examples, and this run trains on {n}")
    return features, about["runs"]


def need(pattern: str | None) -> None:
    """Raise UserError if the pattern is several files, or one that does not exist and that no run makes."""
    if pattern:
        path = one_path(pattern, KEY)
        if not made_by_a_run(real(str(path))) and not path.exists():
            usable(path)


def usable(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """What `parse` returns; raises UserError if it is not such a file."""
    try:
        return parse(path)
    except (OSError, ValueError) as error:
        kind = scorefile.NotThere if isinstance(error, FileNotFoundError) else UserError
        raise kind(
            f"{KEY}: {path} is not a file of features ({why_not(error)}); a run with save_features=true writes one"
        ) from error


def parse(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """The features and what the file says of them; raises OSError, or ValueError if it is not such a file."""
    path.stat()
    if not path.is_file() or not zipfile.is_zipfile(path):  # reading a FIFO may never end
        raise ValueError("it is not a NumPy archive, as numpy.savez writes it")
    try:
        with np.load(path, allow_pickle=False) as archive:
            about, stored = scorefile.told(str(archive["about"]), path), archive["features"]
    except OSError:
        raise
    except Exception as error:  # NumPy and zipfile raise a dozen kinds, depending on where the file is damaged
        raise ValueError(brief(str(error).strip("'\""))) from error
    if not isinstance(stored, np.ndarray):
        raise ValueError("its features are not an array")
    if stored.ndim != 2 or not all(stored.shape) or stored.dtype.kind not in "fiu":
        raise ValueError(f"its features are not numbers [n, D] but {stored.dtype} {list(stored.shape)}")
    features = torch.from_numpy(np.ascontiguousarray(stored, np.float32))
    if not features.isfinite().all():
        raise ValueError("not all of its features are finite numbers")
    if features.abs().max() > LARGEST:
        raise ValueError(f"its features are larger than {LARGEST:g}, and distances would overflow; scale them")
    return features, about
