"""Gets a data set's files: one download for all jobs, whole or not at all, checked before use."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from budgetrun.errors import UserError, one_line


def broken(path: Path, why: str) -> UserError:
    """The error for a file that must not be trained on."""
    return UserError(
        f"{path} is broken or half-downloaded ({path.stat().st_size} bytes; {why}); "
        "delete it to download it again, or put a good copy in its place"
    )


def check(path: Path, md5: str) -> None:
    """Raise UserError if the file exists but has another MD5 sum."""
    from torchvision.datasets.utils import calculate_md5

    if path.exists() and (found := calculate_md5(path)) != md5:
        raise broken(path, f"MD5 {found} instead of {md5}")


def fetch(
    folder: Path, archives: list[str], read: Callable[[Path], Any], download: Callable[[Path], Any], url: str
) -> Any:
    """What `read(folder)` returns, after `download(scratch)` has fetched the files if needed.

    read: raises FileNotFoundError or RuntimeError if files are missing (torchvision's data sets raise the latter),
    UserError if they are broken. archives, url: for users who put files there by hand: the files' paths below
    `folder`, and where they come from.
    The download goes into a scratch folder under a lock and is moved into place when it is complete, so that
    parallel jobs download once and a killed download leaves nothing that could be taken for data.
    Raises UserError if the data cannot be obtained.
    """
    from filelock import FileLock

    missing = (FileNotFoundError, RuntimeError)
    try:
        try:
            return read(folder)
        except missing:
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            try:
                return read(folder)  # another job may have downloaded it meanwhile
            except missing:
                pass
            scratch = folder / ".download"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                for path in filter(Path.exists, (folder / name for name in archives)):
                    # what was put there by hand is unpacked, not downloaded
                    (scratch / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, scratch / path.relative_to(folder))
                download(scratch)
                merge(scratch, folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return read(folder)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = one_line(error)
        raise UserError(
            f"the data set cannot be read from, or downloaded into, {folder} ({reason}); without a network, get it "
            f"from {url} and put it there by hand: {', '.join(str(folder / name) for name in archives)}"
        ) from error


def merge(source: Path, target: Path) -> None:
    """Move every file below `source` to the same place below `target`, each in one step, unless one exists there."""
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            path.replace(place)
