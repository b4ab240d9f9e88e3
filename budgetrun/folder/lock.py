"""One process per run: a lock that ends with its process, and a heartbeat for file systems whose locks are per node.

The lock is flock, which the kernel releases however the process dies. NFS shares it between nodes, and so does Lustre
if mounted for it. On other file systems, two nodes could both hold it. So the holder also writes who it is into a file
and touches the file every BEAT seconds, and another node takes over only if this heartbeat has stopped.
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
from budgetrun.folder.reading import content, parse

LOCK, SIGN = ".lock", "running.json"  # their names in a run's folder
BEAT, STALE = 15.0, 60.0  # seconds between two heartbeats, and after which the holder is taken for dead


class Busy(UserError):
    """Another process is working on the run."""


class Lock:
    """Reserves a folder for this process, until `release` or the end of the process.

    Raises Busy if another process has it, and OSError if the folder cannot be written. After a crash on another node,
    this may take STALE seconds.
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
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "parent": os.getppid(),
                "job": os.environ.get("SLURM_JOB_ID"),
            }
            self.sign.unlink(missing_ok=True)  # it may be a FIFO
            self.sign.write_text(json.dumps(who))
        except BaseException:
            self.lock.release()
            raise
        self.released = threading.Event()
        threading.Thread(target=self.beat, daemon=True).start()

    def beat(self) -> None:
        while not self.released.wait(BEAT):
            with contextlib.suppress(OSError):  # the disk is unavailable, or the folder was removed
                os.utime(self.sign)

    def release(self) -> None:
        self.released.set()
        with contextlib.suppress(OSError):  # the folder may be read-only by now; the run fails with a better message
            self.sign.unlink()
        self.lock.release()


def still_alive(folder: Path) -> bool:
    """Whether another node is working on the folder, asked by the process that has its flock.

    Both times are the file system's, which may differ from this node's clock; a heartbeat from the future is watched.
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
    """Who is working on a run, according to its folder; reads only. A dead process on this node is noticed at once."""
    sign = read(folder)
    if sign and is_here(sign):
        return sign if is_locked(folder) else None
    last = touched(folder / SIGN)
    return sign if last is not None and abs(time.time() - last) < STALE else None


def is_locked(folder: Path) -> bool:
    """Whether some process has the flock; takes it, shared, for a moment."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK)  # without O_NONBLOCK, a FIFO would wait
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def is_here(sign: dict[str, Any] | None) -> bool:
    return sign is None or sign["host"] == socket.gethostname()


def read(folder: Path) -> dict[str, Any] | None:
    """The heartbeat's content; None if there is none, or it is incomplete."""
    with contextlib.suppress(OSError, ValueError):
        sign = parse(content(folder / SIGN))
        if isinstance(sign, dict) and is_whole(sign):
            return sign
    return None


def is_whole(sign: dict[str, Any]) -> bool:
    """Whether it says who holds the lock, in valid values."""
    pids = (sign.get("pid"), sign.get("parent"))
    return (
        all(type(pid) is int and 0 <= pid < 2**31 for pid in pids)  # 0 is a parent in another container
        and isinstance(sign.get("host"), str)
        and isinstance(sign.get("job"), str | None)
    )


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
