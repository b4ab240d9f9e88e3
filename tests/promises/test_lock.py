"""One process per run: who has it, who is dead, and what another node may do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from cli import environment, listing

from budgetrun.folder import lock
from budgetrun.folder.lock import Busy, Lock, holder

HOLDER = """
import sys, time
from pathlib import Path
from budgetrun.folder.lock import Lock
held = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock of tmp_path."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=environment(), text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def foreign(folder: Path, age: float) -> None:
    """A heartbeat of another node's process, this many seconds old, and the lock file that it left."""
    (folder / lock.LOCK).touch()
    (folder / lock.SIGN).write_text(json.dumps({"host": "another", "pid": 1, "parent": 0, "job": None}))
    os.utime(folder / lock.SIGN, (time.time() - age,) * 2)


def test_a_second_process_is_refused_and_told_who_has_it(other: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(Busy, match=f"worked on by process {other.pid} on "):
        Lock(tmp_path)
    who = holder(tmp_path)
    assert who is not None
    assert who["pid"] == other.pid
    assert who["parent"] == os.getpid()


def test_the_lock_of_a_killed_process_is_free_at_once(other: subprocess.Popen[str], tmp_path: Path) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / lock.SIGN).exists(), "it could not tidy up"
    assert holder(tmp_path) is None
    began = time.monotonic()
    Lock(tmp_path).release()
    assert time.monotonic() - began < 1


def test_what_is_released_leaves_no_heartbeat_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(3):
        held = Lock(tmp_path)
        assert holder(tmp_path) is not None
        held.release()
        assert holder(tmp_path) is None
        assert not (tmp_path / lock.SIGN).exists()


def test_asking_who_has_it_changes_nothing_and_does_not_keep_a_process_from_taking_it(tmp_path: Path) -> None:
    foreign(tmp_path, age=1000)
    before = listing(tmp_path)
    assert holder(tmp_path) is None
    assert not lock.is_locked(tmp_path)
    assert listing(tmp_path) == before
    with (tmp_path / lock.LOCK).open("rb") as file:
        lock.fcntl.flock(file, lock.fcntl.LOCK_SH)  # a reader, in the middle of asking
        waiting = mock.Mock(side_effect=lambda _: lock.fcntl.flock(file, lock.fcntl.LOCK_UN))
        with mock.patch("time.sleep", waiting):
            Lock(tmp_path).release()
    assert waiting.called


def test_a_fresh_heartbeat_from_another_node_is_respected_although_the_lock_seems_free(tmp_path: Path) -> None:
    foreign(tmp_path, age=5)

    def beat(_: float) -> None:
        os.utime(tmp_path / lock.SIGN)

    with mock.patch("time.sleep", beat), pytest.raises(Busy, match="process 1 on another"):
        Lock(tmp_path)
    who = holder(tmp_path)
    assert who is not None
    assert who["host"] == "another"
    assert not lock.is_locked(tmp_path), "it has given the lock back"


@pytest.mark.parametrize("age", [5, -3600], ids=["fresh", "from the future"])
def test_a_silent_node_is_taken_over_from_after_a_while(age: float, tmp_path: Path) -> None:
    foreign(tmp_path, age)
    with mock.patch("time.sleep"), mock.patch("time.monotonic", side_effect=map(float, range(10**6))):
        held = Lock(tmp_path)
    who = holder(tmp_path)
    assert who is not None
    assert who["pid"] == os.getpid()
    held.release()


def test_an_old_heartbeat_from_another_node_is_no_reason_to_wait(tmp_path: Path) -> None:
    foreign(tmp_path, age=2 * lock.STALE)
    assert holder(tmp_path) is None
    with mock.patch("time.sleep", side_effect=AssertionError("it waited")):
        Lock(tmp_path).release()


SIGN = {"host": "another", "pid": 1, "parent": 1, "job": None}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"host": "another"}',
        10**5 * "[",
        "\0",
        '{"host": "another", "pid": 1, "pid": 2, "parent": 1}',
        *(
            json.dumps(SIGN | wrong)
            for wrong in (
                {"pid": "1"},
                {"pid": -1},
                {"pid": 2**40},
                {"parent": None},
                {"host": ["another"]},
                {"job": 7},
            )
        ),
    ],
)
def test_half_a_heartbeat_does_not_count(content: str, tmp_path: Path) -> None:
    (tmp_path / lock.SIGN).write_text(content)
    assert holder(tmp_path) is None
    Lock(tmp_path).release()


@pytest.mark.parametrize("name", [lock.SIGN, lock.LOCK])
def test_a_fifo_in_the_place_of_its_files_keeps_nobody_waiting(name: str, tmp_path: Path) -> None:
    Lock(tmp_path).release()
    (tmp_path / lock.SIGN).write_text(json.dumps(SIGN | {"host": socket.gethostname()}))
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    assert holder(tmp_path) is None
    held = Lock(tmp_path)
    who = holder(tmp_path)
    held.release()
    assert who is not None
    assert who["pid"] == os.getpid()


def test_the_holder_sends_heartbeats(tmp_path: Path) -> None:
    with mock.patch.object(lock, "BEAT", 0.05):
        held = Lock(tmp_path)
        os.utime(tmp_path / lock.SIGN, (0, 0))
        until = time.monotonic() + 10
        while (lock.touched(tmp_path / lock.SIGN) or 0) < time.time() - 60 and time.monotonic() < until:
            time.sleep(0.02)
        assert time.monotonic() < until
        held.release()


def test_a_folder_that_is_removed_under_its_process_does_not_stop_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with mock.patch.object(lock, "BEAT", 0.01):
        held = Lock(folder)
        (folder / lock.SIGN).unlink()
        time.sleep(0.05)
        held.release()


def test_a_heartbeat_that_cannot_be_removed_does_not_hide_why_a_run_failed(tmp_path: Path) -> None:
    held = Lock(tmp_path)
    (tmp_path / lock.SIGN).unlink()
    (tmp_path / lock.SIGN).mkdir()  # unlink fails on it, as in a folder that has become read-only
    held.release()
    (tmp_path / lock.SIGN).rmdir()
    Lock(tmp_path).release()
