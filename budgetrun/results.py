"""A run's folder: its lock, configuration, metrics, checkpoint and result. Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from budgetrun.contracts import UserError

log = logging.getLogger("budgetrun")

FINISHED = "finished"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` in one step when the block ends, and not at all if it fails."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); what was there before is untouched"
        ) from error
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def set_aside(path: Path, why: str) -> None:
    """Rename a file that cannot be used, so that nothing is lost and nothing is in the way."""
    number = 0
    while (target := path.with_name(f"{path.name}.corrupt{number or ''}")).exists():
        number += 1
    path.rename(target)
    log.warning("%s cannot be read (%s): set aside as %s", path, why, target.name)


class RunFolder:
    """output_dir/run_id, with config.yaml, metrics.jsonl, checkpoint.pt, train.log and, last, result.json."""

    def __init__(self, output_dir: str, run_id: str) -> None:
        self.path = Path(output_dir) / run_id
        self.result_path = self.path / "result.json"
        self.checkpoint_path = self.path / "checkpoint.pt"
        self.metrics_path = self.path / "metrics.jsonl"

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """The folder exists and is this process's alone; what is logged also goes to train.log."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(self.path / "train.log", delay=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(blocking=False)
        except Timeout:
            raise UserError(
                f"{self.path} is being worked on by another process; wait for it, or change the experiment"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror or error}); set output_dir to a folder that can"
            ) from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        root = logging.getLogger("budgetrun")
        root.addHandler(handler)
        try:
            yield
        finally:
            root.removeHandler(handler)
            handler.close()
            lock.release()

    def finished(self) -> dict[str, Any] | None:
        """The result, if there is a whole one."""
        try:
            result = json.loads(self.result_path.read_text())
            if isinstance(result, dict) and result.get("status") == FINISHED:
                return result
            why = "it is not a result"
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            why = str(error)
        set_aside(self.result_path, why)
        return None

    def start_over(self) -> None:
        """Keep an earlier result under another name and forget the checkpoint, for a run that is forced."""
        if self.result_path.exists():
            self.result_path.replace(self.path / "result.previous.json")
        self.checkpoint_path.unlink(missing_ok=True)

    def write_config(self, resolved: dict[str, Any]) -> None:
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved)))

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        with replacing(self.checkpoint_path) as file:
            torch.save(state, file)

    def read_checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        """The last checkpoint, if there is one; a broken one is set aside."""
        if not self.checkpoint_path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.checkpoint_path, map_location=device, weights_only=True)
            return state
        except Exception as error:  # torch.load raises a dozen kinds, by where the file is damaged
            set_aside(self.checkpoint_path, str(error).splitlines()[0] if str(error) else type(error).__name__)
            return None

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        write_text(self.metrics_path, "".join(json.dumps(line) + "\n" for line in lines))

    def append_metrics(self, line: dict[str, Any]) -> None:
        try:
            with self.metrics_path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(f"{self.metrics_path} cannot be written ({error.strerror or error})") from error

    def last_checkpoint(self) -> str:
        """Where it is, in words."""
        path = self.checkpoint_path
        return f"the last good checkpoint is {path}" if path.exists() else "there is no checkpoint yet"

    def finish(self, result: dict[str, Any]) -> None:
        write_text(self.result_path, json.dumps(result, indent=2) + "\n")


def commit() -> tuple[str | None, bool | None]:
    """The git commit of the code that runs and whether it was changed since; (None, None) outside a checkout."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None, None
    ask = ["git", "-C", str(checkout), "status", "--porcelain=v2", "--branch", "--", "budgetrun", "conf"]
    try:
        lines = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None, None
    head = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    return head, any(not line.startswith("#") for line in lines)
