"""A run's folder: its lock, configuration, metrics, checkpoint and result. Files appear whole or not at all.

torch is imported only to write or read a checkpoint: reading runs is 3 s faster without it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import subprocess
import traceback
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from budgetrun.errors import UserError, in_full, in_own_code, one_line
from budgetrun.files import replacing, writable, write_text
from budgetrun.folder.lock import Lock, holder
from budgetrun.folder.reading import COUNT, RULES, brief, check, check_one, content, lines_of, parse
from budgetrun.identity import digest
from budgetrun.terminal import shown

if TYPE_CHECKING:
    import torch

log = logging.getLogger("budgetrun")

STATES = FINISHED, RUNNING, INTERRUPTED, FAILED, WAITING, MISSING = (
    "finished",
    "running",
    "interrupted",
    "failed",
    "waiting",  # missing, and so is a file that it reads and another run makes
    "missing",
)
# the keys of a result that are shown and looked up: a file that lacks one is not a result
SHOWN = (
    "run_id",
    "names",
    "config",
    "test_accuracy",
    "updates",
    "examples_forward",
    "examples_backward",
    "flops",
    "seconds",
)
SUMS = "SHA256SUMS"
NEEDED = ("run_id", "names", "config", "test_accuracy")  # these may not be null; the others may be unknown
RECKONED = ("budget", "epochs", "batch_size", "seed")  # what is computed with from every configuration
MARK = "archive/written by a run"  # an entry of a checkpoint's archive, in the folder that torch.save makes


class LogFile(logging.FileHandler):
    """A log that drops what cannot be written, as on a full disk, and goes on: the run itself reports the problem."""

    def emit(self, record: logging.LogRecord) -> None:
        path = Path(self.baseFilename)
        if path.is_file() or not path.exists():  # a FIFO would keep the run waiting
            with contextlib.suppress(OSError):
                super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def set_aside(path: Path, why: str) -> None:
    """Rename a file that cannot be used, so that nothing is lost and nothing is in the way."""
    name = rename_free(path, "corrupt").name
    log.warning("%s", shown(f"{path} cannot be read ({why}): set aside as {name}"))


def why_not(error: OSError | ValueError) -> str:
    """Why a file could not be read, in a few words."""
    return shown((error.strerror if isinstance(error, OSError) else None) or str(error))


def rename_free(path: Path, word: str) -> Path:
    """Rename a file to an unused name that contains `word`; returns the new path."""
    number = 0
    while (target := path.with_name(f"{path.name}.{word}{number or ''}")).exists():
        number += 1
    return path.rename(target)


def read_result(path: str | Path) -> dict[str, Any]:
    """The content of a result.json; raises OSError, or ValueError if it is not that of a finished run."""
    result = parse(content(path))
    if not isinstance(result, dict) or result.get("status") != FINISHED:
        raise ValueError("it is not the result of a finished run")
    if missing := [key for key in SHOWN if key not in result or (result[key] is None and key in NEEDED)]:
        raise ValueError(f"it has no {', '.join(missing)}")
    names, config = result["names"], result["config"]
    if not isinstance(names, dict) or not isinstance(config, dict):
        raise ValueError("its names or its config have no keys")
    if missing := [key for key in RECKONED if config.get(key) is None]:
        raise ValueError(f"its config has no {', '.join(missing)}")
    if wrong := [name for name, option in {"run_id": result["run_id"], **names}.items() if type(option) is not str]:
        raise ValueError(f"{wrong[0]} is not a word but {brief(names.get(wrong[0], result['run_id']))}")
    if wrong := [group for group in names if type(config.get(group, {})) is not dict]:
        raise ValueError(f"its config has no values of {wrong[0]} but {brief(config[wrong[0]])}")
    check({**config, **result})
    return result


def check_made(path: Path) -> None:
    """Raise UserError if a file in the folder of another run is not, or not yet, what that run made."""
    how = "copy it to a folder with another name to use it as it is"
    if not path.is_file():
        raise UserError(f"{path} does not exist; run the experiment {path.parent.name} first, which makes it")
    try:
        lines = content(path.parent / SUMS).decode().splitlines()
        sums = {name: made for made, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError):
        raise UserError(f"{path} belongs to a run that, by its folder, is not finished; {how}") from None
    if sums.get(path.name) != sha256(path):
        how += ", or run its experiment again with force=true"
        raise UserError(f"{path} is not what its run made ({path.parent / SUMS}); {how}")


def sha256(path: Path) -> str:
    stat = path.stat()
    return digest(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@dataclass
class State:
    """The state of a run, by its folder. word: one of STATES. detail: why it failed, or who is working on it.

    diverged_after: the FLOPs of a run that failed because it diverged, until then.
    """

    word: str
    detail: str = ""
    diverged_after: int | None = None

    @property
    def has_tuned(self) -> bool:
        """Whether a tuning run has said what it can: a value with which it diverged is not chosen."""
        return self.word == FINISHED or self.diverged_after is not None


class RunFolder:
    """output_dir/run_id: config.yaml, metrics.jsonl, checkpoint.pt, selected.npz, train.log, and, last, result.json.

    A run with scores=... adds scores.csv, and an ensemble sums.npy; a run on a subset adds kept.csv, and one with
    save_features=true features.npz.
    SHA256SUMS has the digests of the files that other runs may use, as sha256sum writes them. If the run ended with an
    error, failed.json takes the place of the result. The folder `state` has what is too large for the checkpoint.
    """

    def __init__(self, output_dir: str, run_id: str) -> None:
        self.path = Path(output_dir) / run_id
        self.lock: Lock | None = None
        self.handler: LogFile | None = None
        self.result_path = self.path / "result.json"
        self.checkpoint_path = self.path / "checkpoint.pt"
        self.scores_path = self.path / "scores.csv"
        self.kept_path = self.path / "kept.csv"
        self.sums_path = self.path / "sums.npy"
        self.features_path = self.path / "features.npz"
        self.selected_path = self.path / "selected.npz"
        self.state_path = self.path / "state"
        self.metrics_path = self.path / "metrics.jsonl"
        self.failed_path = self.path / "failed.json"
        self.log_path = self.path / "train.log"

    def state(self) -> State:
        """The state of the run; reads only."""
        unusable: list[str] = []

        def known(path: Path, read: Callable[[], Any]) -> Any:
            try:
                return read()
            except (FileNotFoundError, NotADirectoryError):
                return None
            except (OSError, ValueError) as error:
                unusable.append(f"{path.name} cannot be used ({why_not(error)})")

        if known(self.result_path, self.result) is not None:
            return State(FINISHED)
        if who := holder(self.path):
            job = f", job {who['job']}" if who.get("job") else ""
            return State(RUNNING, shown(f"process {who['pid']} on {who['host']}{job}"))
        if (failure := known(self.failed_path, self.failure)) is not None:
            return State(FAILED, shown(failure["reason"]), failure.get("diverged_after"))
        begun = unusable or self.metrics_path.exists() or self.checkpoint_path.exists()
        return State(INTERRUPTED if begun else MISSING, "; ".join(unusable))

    def result(self) -> dict[str, Any]:
        """The content of the result; raises OSError, or ValueError if it is not a finished result of this run."""
        result = read_result(self.result_path)
        if result["run_id"] != self.path.name:
            raise ValueError(f"it is that of another run, {brief(result['run_id'])}")
        return result

    def failure(self) -> dict[str, Any]:
        """Why the run failed; raises OSError, or ValueError if that is not known."""
        failed = parse(content(self.failed_path))
        if not isinstance(failed, dict) or not isinstance(failed.get("reason"), str):
            raise ValueError("it has no reason")
        if failed.get("diverged_after") is not None:
            check_one("diverged_after", failed["diverged_after"], COUNT)
        return failed

    def progress(self) -> str:
        """How far the run was at its last evaluation, in words."""
        last: dict[str, Any] = {}
        try:
            for last in lines_of(self.metrics_path)[-1:]:
                check(last)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            return f"{self.metrics_path.name} cannot be used ({why_not(error)})"
        share, accuracy = last.get("progress"), last.get("test_accuracy")
        if share is None or accuracy is None:
            return "not evaluated yet"
        return f"{100 * share:.0f}% of the budget, test accuracy {100 * accuracy:.2f} %"

    def finished(self) -> dict[str, Any] | None:
        """The result, if there is a valid one; an invalid one is set aside."""
        try:
            return self.result()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{self.result_path} cannot be read ({error.strerror or error})") from error
        except ValueError as error:
            set_aside(self.result_path, str(error))
        return None

    def open(self) -> None:
        """Reserve the folder for this process, once; from here on the log also goes to train.log."""
        if self.lock is not None:
            return
        with writable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock = Lock(self.path)
        with contextlib.suppress(OSError):
            self.failed_path.unlink(missing_ok=True)
        self.handler = LogFile(self.log_path, delay=True)
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(self.handler)

    def fail(self, error: Exception, diverged_after: int | None) -> None:
        """Record why the run ended without a result, if this process had opened its folder.

        diverged_after: the FLOPs of a run that diverged, until then; None for any other reason.
        """
        if self.lock is None:
            return
        expected = isinstance(error, UserError)
        said = in_own_code(error) or error
        reason = one_line(said) if isinstance(said, UserError) else in_full(error)
        where = None if expected else "".join(traceback.format_exception(error))
        with contextlib.suppress(UserError):  # the disk may be full, which is then the reason
            failure = {"reason": reason, "traceback": where, "diverged_after": diverged_after}
            write_text(self.failed_path, json.dumps(failure, indent=2) + "\n")

    def close(self) -> None:
        """Undo `open`, if it was done."""
        if self.handler is not None:
            log.removeHandler(self.handler)
            with contextlib.suppress(OSError):  # the disk is full, which is reported elsewhere
                self.handler.close()
        if self.lock is not None:
            self.lock.release()

    def start_over(self) -> None:
        """Keep an earlier result under another name and delete the checkpoint, for a forced run."""
        if self.result_path.exists():
            rename_free(self.result_path, "previous")
        self.checkpoint_path.unlink(missing_ok=True)
        self.tidy_state(set())

    def tidy_state(self, needed: Collection[Path]) -> None:
        """Delete the files in the state's folder that are not needed."""
        with contextlib.suppress(OSError):  # there may be none
            for path in self.state_path.iterdir():
                if path not in needed:
                    path.unlink()

    def write_config(self, resolved: dict[str, Any]) -> None:
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved)))

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        import torch

        buffer = io.BytesIO()  # on a full disk, torch.save raises other errors than a file does
        torch.save(state, buffer)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(MARK, "")
        with replacing(self.checkpoint_path) as file:
            file.write(buffer.getbuffer())

    def read_checkpoint(
        self, device: torch.device, keys: Iterable[str], here: Mapping[str, str]
    ) -> dict[str, Any] | None:
        """The last checkpoint, if there is one; one that is broken or lacks one of `keys` is set aside.

        here: what must be the same in it; raises UserError if it is not. A checkpoint that was loaded, changed and
        saved again is set aside too: its values could not show that, but it lacks MARK. Only checkpoints of earlier
        versions, which do not name their run, are accepted without MARK.
        """
        import torch

        if not self.checkpoint_path.exists():
            return None
        try:
            if not self.checkpoint_path.is_file():  # reading a FIFO or a device may never end
                raise ValueError("it is not a file")
            with zipfile.ZipFile(self.checkpoint_path) as archive:  # torch.load does not check the checksums
                if archive.testzip() is not None:
                    raise ValueError("its content does not match its checksum")
                marked = MARK in archive.namelist()
            state = torch.load(self.checkpoint_path, map_location=device, weights_only=True)
            if not isinstance(state, dict) or not state.keys() >= {*keys, *here} - {"run"}:
                raise ValueError("it is not a checkpoint of a run")
            for what, now in here.items():
                if isinstance(state.get(what), str) and state[what] != now:
                    made = f"{self.checkpoint_path} was made with {what} {state[what]}"
                    raise UserError(f"{made}, and here it is {now}; force=true starts over")
            if "run" not in state:
                check_one("seconds_total", state["seconds_total"], RULES["seconds_total"])
                log.warning("%s does not name its run, as is usual for earlier versions", self.checkpoint_path)
            elif not marked:
                raise ValueError("it is not as a run of this version wrote it")
            return state
        except UserError:
            raise
        except Exception as error:  # torch.load raises a dozen kinds, depending on where the file is damaged
            self.give_up_checkpoint(error)
            return None

    def give_up_checkpoint(self, error: Exception) -> None:
        """Set aside a checkpoint that the run cannot resume from."""
        set_aside(self.checkpoint_path, (str(error) or type(error).__name__).splitlines()[0])

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        write_text(self.metrics_path, "".join(json.dumps(line) + "\n" for line in lines))

    def append_metrics(self, line: dict[str, Any]) -> None:
        try:
            with self.metrics_path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(f"{self.metrics_path} cannot be written ({error.strerror or error})") from error

    def last_checkpoint(self) -> str:
        """Where the last checkpoint is, in words."""
        path = self.checkpoint_path
        return f"the last good checkpoint is {path}" if path.exists() else "there is no checkpoint yet"

    def finish(self, result: dict[str, Any]) -> None:
        write_sums(self)
        write_text(self.result_path, json.dumps(result, indent=2) + "\n")


def write_sums(folder: RunFolder) -> None:
    """Write the digests of the files in a run's folder that another run may use."""
    made = (folder.checkpoint_path, folder.scores_path, folder.sums_path, folder.kept_path, folder.features_path)
    write_text(folder.path / SUMS, "".join(f"{sha256(path)}  {path.name}\n" for path in made if path.exists()))


@functools.cache  # a commit made while a process runs does not change the code that it runs
def commit() -> tuple[str | None, bool | None]:
    """The git commit of the running code and whether it was changed since; (None, None) outside a checkout."""
    checkout = Path(__file__).resolve().parent.parent.parent
    if not (checkout / ".git").exists():
        return None, None
    ask = ["git", "-C", str(checkout), "status", "--porcelain=v2", "--branch", "--", "budgetrun", "conf"]
    try:
        lines = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None, None
    head = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    return head, any(not line.startswith("#") for line in lines)
