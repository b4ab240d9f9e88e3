"""One process a run: a lock that ends with its process, and a sign of life where a file system keeps locks to a node.

The lock is flock, which the kernel gives up however the process dies; NFS carries it from node to node, and so does
Lustre that is mounted for it. Where a file system does not, two nodes could both have it. So the holder also writes
who it is into a file and touches that every BEAT seconds, and another node takes over only from one that is still.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from budgetrun.errors import UserError

LOCK, SIGN = ".lock", "running.json"  # their names in a run's folder
BEAT, STALE = 15.0, 60.0  # seconds between two signs of life, and after which the holder is taken for dead


class Busy(UserError):
    """Another process works on the run."""


class Lock:
    """Makes a folder this process's alone, until `release` or the process's end.

    Raises Busy where another process has it, and OSError where the folder cannot be written. After a crash on another
    node it may take STALE seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.sign = folder / SIGN
        self.lock = FileLock(folder / LOCK)
        try:
            self.lock.acquire(timeout=1, poll_interval=0.1)  # a reader may hold it for a moment, see `holder`
        except Timeout:
            raise busy(folder) from None
        try:
            if still_alive(folder):
                raise busy(folder)
            who = {
                "host": socket.gethostname(), "pid": os.getpid(), "parent": os.getppid(),
                "job": os.environ.get("SLURM_JOB_ID"),
            }  # fmt: skip
            self.sign.write_text(json.dumps(who))
        except BaseException:
            self.lock.release()
            raise
        self.released = threading.Event()
        threading.Thread(target=self.beat, daemon=True).start()

    def beat(self) -> None:
        while not self.released.wait(BEAT):
            with contextlib.suppress(OSError):  # the disk is away, or somebody removed the folder
                os.utime(self.sign)

    def release(self) -> None:
        self.released.set()
        with contextlib.suppress(OSError):  # the folder may be read-only by now, and the run fails by a better sentence
            self.sign.unlink()
        self.lock.release()


def still_alive(folder: Path) -> bool:
    """Whether another node works on the folder, for a process that has its flock.

    Both times are the file system's, which need not agree with this node's clock; a sign from the future is watched.
    """
    if is_here(read(folder)):
        return False
    os.utime(folder / LOCK)
    if (last := touched(folder / SIGN)) is None or (folder / LOCK).stat().st_mtime - last > STALE:
        return False
    until = time.monotonic() + STALE
    while time.monotonic() < until:
        if (now := touched(folder / SIGN)) != last:
            return now is not None
        time.sleep(min(1.0, STALE / 10))
    return False


def holder(folder: Path) -> dict[str, Any] | None:
    """Who works on a run now, as far as its folder tells; reads only. A dead process on this node is seen at once."""
    sign = read(folder)
    if sign and is_here(sign):
        return sign if is_locked(folder) else None
    last = touched(folder / SIGN)
    return sign if last is not None and abs(time.time() - last) < STALE else None


def is_locked(folder: Path) -> bool:
    """Whether some process has the flock; takes it, shared, for a moment."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def is_here(sign: dict[str, Any] | None) -> bool:
    return sign is None or sign["host"] == socket.gethostname()


def read(folder: Path) -> dict[str, Any] | None:
    """The sign of life's content; None where there is none, or not a whole one."""
    with contextlib.suppress(OSError, ValueError):
        sign = json.loads((folder / SIGN).read_bytes())
        if isinstance(sign, dict) and {"host", "pid", "parent"} <= sign.keys():
            return sign
    return None


def touched(path: Path) -> float | None:
    """When a file was last touched, by the file system's clock."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def busy(folder: Path) -> Busy:
    sign = read(folder)
    who = f"process {sign['pid']} on {sign['host']}" if sign else "another process"
    return Busy(f"{folder} is being worked on by {who}; wait for it to end")
