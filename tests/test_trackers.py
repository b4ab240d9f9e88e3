"""Trackers: what they hold is read back. No id, no result and no run depends on them."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cli import Done, before_update, checked, finished_in, here, process, refused
from states import Killed, assert_ends_alike, interrupt, kill

from budgetrun import train
from budgetrun.api import frame
from budgetrun.contracts import Tracked
from budgetrun.errors import Interrupted
from budgetrun.logger.wandb import WandB
from budgetrun.tables.runs import by_class
from budgetrun.training import trackers
from budgetrun.training.budget import Budget
from budgetrun.training.trackers import Trackers
from budgetrun.training.world import World

# with all diagnostics, some of them from the third evaluation on
LINE = "model.width=2 epochs=1 evaluations=5 validation=0.1 sampler=wpv sampler.warmup=0.5 noise=symmetric"
LABELS = ["paper", "table 2"]
NAMES = ("csv", "tensorboard", "mlflow", "wandb")


@dataclass
class Read:
    """What a tracker holds of a run. What it does not keep is None."""

    lines: list[dict[str, Any]]
    run_id: str | None = None
    folder: str | None = None
    group: str | None = None
    tags: list[str] | None = None
    config: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    state: str | None = None


def read_csv(folder: Path) -> Read:
    rows = list(csv.DictReader(io.StringIO((folder / "metrics.csv").read_text())))
    assert {row.pop("run_id") for row in rows} <= {folder.name}
    return Read([{name: json.loads(text) for name, text in row.items()} for row in rows])


def read_tensorboard(folder: Path) -> Read:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(folder))
    events.Reload()
    lines: dict[int, dict[str, Any]] = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            assert lines.setdefault(event.step, {}).setdefault(name, event.value) is event.value

    def table(name: str) -> dict[str, Any]:
        if f"{name}/text_summary" not in events.Tags()["tensors"]:
            return {}
        (event,) = events.Tensors(f"{name}/text_summary")
        text = event.tensor_proto.string_val[0].decode()
        return {n: value_in(v) for n, v in re.findall(r"^\| (\S+) \| (.*) \|$", text, flags=re.M)}

    config, result = table("configuration"), table("result")
    about = {name: config.pop(name) for name in ("run_id", "folder", "group")}
    metadata = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = HParamsPluginData.FromString(metadata).session_start_info.hparams
    assert hparams.keys() == config.keys()
    assert (hparams["lr"].number_value, hparams["sampler"].string_value) == (config["lr"], config["sampler"])
    return Read([lines[step] for step in sorted(lines)], **about, tags=config["tags"], config=config, result=result)


def read_mlflow(folder: Path) -> Read:
    from mlflow import MlflowClient

    client = MlflowClient(uri(folder))
    experiment = client.get_experiment_by_name("budgetrun")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.run_id = '{folder.name}'")
    assert run.info.run_name == folder.name
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    steps = [metric.step for metric in histories["updates"]] if histories else []
    assert len(set(steps)) == len(steps)
    lines = [{n: m.value for n, of in histories.items() for m in of if m.step == step} for step in sorted(steps)]
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    about = {name: tags.pop(name) for name in ("run_id", "folder", "group")}
    labels = [name for name, value in tags.items() if value == "true" and name != "dirty"]
    words = {name: value_in(value) for name, value in tags.items() if name not in labels}
    last = {name: metric.value for name, of in histories.items() for metric in of if metric.step == max(steps)}
    config = {name: value_in(value) for name, value in run.data.params.items()}
    return Read(lines, **about, tags=labels, config=config, result={**words, **last}, state=run.info.status.lower())


def read_wandb(folder: Path) -> Read:
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found = Read([], config={}, result={})
    assert found.config is not None
    assert found.result is not None
    records: list[Any] = []
    while not any(record.HasField("exit") for record in records):  # a process of W&B's own writes it
        records = [Record.FromString(entry) for entry in entries(path.read_bytes())]
    for record in records:
        if record.HasField("run"):
            run = record.run
            assert (run.run_id, run.display_name) == ((folder / "wandb.id").read_text(), folder.name)
            found.group, found.tags = run.run_group, list(run.tags)
            found.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif record.HasField("config"):
            found.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif record.HasField("history"):
            line = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            assert line["_step"] == line["updates"]
            found.lines.append({name: value for name, value in line.items() if not name.startswith("_")})
        elif record.HasField("summary"):
            found.result |= {item.key: json.loads(item.value_json) for item in record.summary.update if item.key}
        elif record.HasField("exit"):
            found.state = "failed" if record.exit.exit_code else "finished"
    found.config = {name.replace("/", "."): value for name, value in found.config.items() if name != "_wandb"}
    found.result = {name.replace("/", "."): value for name, value in found.result.items()}
    found.run_id, found.folder = found.config.pop("run_id"), found.config.pop("folder")
    return found


def entries(data: bytes) -> Iterator[bytes]:
    """The entries of W&B's file: LevelDB's log format after 7 bytes, in blocks of 32 KiB."""
    at, entry = 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        entry += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield entry
            entry = b""


READ: dict[str, Callable[[Path], Read]] = {
    "csv": read_csv,
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "wandb": read_wandb,
}


def value_in(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text


def uri(folder: Path) -> str:
    return f"sqlite:///{folder.parent.parent}/mlflow.db"


def chosen(name: str, cwd: Path) -> str:
    """A command line that logs to a tracker; skips the test if its package is missing."""
    for package in {"csv": (), "mlflow": ("mlflow", "alembic")}.get(name, (name,)):
        pytest.importorskip(package, reason=f"needs pip install 'budgetrun[{name}]'")
    more = {"mlflow": f" logger.mlflow.tracking_uri={uri(cwd / 'o' / 'r')}", "wandb": " logger.wandb.mode=offline"}
    return f"{LINE} logger={name} 'tags=[{','.join(LABELS)}]'{more.get(name, '')}"


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_holds(name: str, folder: Path) -> Read:
    """The tracker holds every evaluation of metrics.jsonl once, with every number."""
    read, lines = READ[name](folder), evaluations(folder)
    if name == "tensorboard":  # float32
        lines = [{name: float(np.float32(value)) for name, value in line.items()} for line in lines]
    if name == "mlflow" and read.result:  # has the result's further numbers at the last evaluation
        read.lines = [{name: line[name] for name in (lines[0] | line) if name in lines[-1]} for line in read.lines]
    assert read.lines == lines
    return read


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The run without a tracker."""
    return finished_in(tmp_path_factory.mktemp("plain"), LINE)


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_holds_the_run_and_changes_nothing_about_it(name: str, plain: Done, tmp_path: Path) -> None:
    done = finished_in(tmp_path, chosen(name, tmp_path))
    assert done.err == plain.err == ""
    assert_ends_alike_but_tags(plain.folder, done.folder)
    read = assert_holds(name, done.folder)
    assert len(read.lines) == 5
    assert {"flops", "seconds", "selected_corrupted_lately", "effective_batch", "val_accuracy"} <= read.lines[-1].keys()
    if name == "csv":  # the other files of the folder hold the rest
        return
    assert (read.run_id, read.folder, read.tags) == (done.folder.name, str(done.folder), LABELS)
    assert re.fullmatch(r"digits-cnn-wpv-standard-symmetric-b1-[0-9a-f]{8}", read.group or "")
    row = frame(tmp_path / "outputs").iloc[0].to_dict()
    settings = row.keys() - by_class(dict(done.result)).keys() - {"path", *trackers.measured(done.result)}
    assert read.config == {key: row[key] for key in {*settings, "device"}} | {"device": "auto"}
    measured = {key: value for key, value in trackers.measured(done.result).items() if value is not None}
    assert read.result is not None
    assert {key: value for key, value in read.result.items() if key in measured} == measured
    assert read.state in (None, "finished")
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")}
    again = finished_in(tmp_path, chosen(name, tmp_path))  # is finished: there is nothing to log
    assert "already finished" in again.out
    assert {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")} == before


def assert_ends_alike_but_tags(one: Path, other: Path) -> None:
    path = other / "result.json"
    result = json.loads(path.read_text())
    assert result["config"]["tags"] == LABELS
    text = path.read_text()
    path.write_text(json.dumps({**result, "config": {**result["config"], "tags": []}}))
    assert_ends_alike(one, other)
    path.write_text(text)


def run_in(cwd: Path, line: str) -> None:
    import shlex

    with contextlib.chdir(cwd):
        train.run(checked(*shlex.split(line)))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_goes_on_does_so_in_the_same_record(name: str, tmp_path: Path) -> None:
    """Interrupted after one evaluation; then killed after two more that no checkpoint holds; then started over."""
    line = f"{chosen(name, tmp_path)} checkpoint_every=1000"
    with before_update(7, "wpv", interrupt), pytest.raises(Interrupted):
        run_in(tmp_path, line)
    (folder,) = (tmp_path / "outputs").glob("digits-*")
    assert len(evaluations(folder)) == 1
    read = assert_holds(name, folder)
    assert read.state in (None, "killed" if name == "mlflow" else "failed")
    record = identity_of(name, folder)
    with mock.patch.object(Trackers, "end", gone), before_update(8, "wpv", kill), pytest.raises(Killed):
        run_in(tmp_path, line)
    assert len(evaluations(folder)) == 3
    assert_holds(name, folder)
    assert identity_of(name, folder) == record
    run_in(tmp_path, line)
    assert len(assert_holds(name, folder).lines) == 5
    run_in(tmp_path, f"{line} force=true")
    assert len(assert_holds(name, folder).lines) == 5


def gone(told: Trackers, *_: Any) -> None:
    """What a process that is killed does, which tells no tracker; W&B's own process notices that it is gone."""
    for logger in told.loggers.values():
        if isinstance(logger, WandB):
            logger.run.finish(exit_code=1)


def identity_of(name: str, folder: Path) -> str | None:
    """The tracker's own name of the run's record."""
    return (folder / f"{name}.id").read_text() if name in ("mlflow", "wandb") else None


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_was_not_there_from_the_beginning_gets_what_was_before(name: str, tmp_path: Path) -> None:
    line = chosen(name, tmp_path)
    with before_update(14, "wpv", interrupt), pytest.raises(Interrupted):
        run_in(tmp_path, re.sub(r"logger\S+", "", line))
    run_in(tmp_path, line)
    (folder,) = (tmp_path / "outputs").glob("digits-*")
    assert len(assert_holds(name, folder).lines) == 5


def test_workers_that_begin_at_once_share_an_experiment_of_mlflow(tmp_path: Path) -> None:
    line = chosen("mlflow", tmp_path)
    done = process(f"-m {line} hydra/launcher=joblib hydra.launcher.n_jobs=2 seed=0,1", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "left out" not in done.out
    folders = [path.parent for path in tmp_path.glob("outputs/*/result.json")]
    assert [len(assert_holds("mlflow", folder).lines) for folder in folders] == [5, 5]
    assert len({READ["mlflow"](folder).group for folder in folders}) == 1  # they differ in the seed alone


# ---- a tracker that fails


@dataclass
class Mine:
    """Takes note of what it is told, and does something strange at one of its calls."""

    strange: Callable[[], object] = lambda: None
    at: str = ""
    told: list[str] = field(default_factory=list)

    def open(self, run: Tracked, lines: Any) -> None:
        self.tell(f"open {len(lines)}")

    def log(self, line: Mapping[str, Any]) -> None:
        self.tell(f"log {line['updates']}")

    def close(self, state: str, result: Mapping[str, Any]) -> None:
        self.tell(f"close {state} {result.get('updates')}")

    def tell(self, what: str) -> None:
        self.told.append(what)
        if what == self.at:
            self.strange()


def logged(mine: Any, tmp_path: Path, *more: str) -> Path:
    """Train with a tracker, and csv after it; returns the run's folder."""
    experiment = checked("model.width=2", "epochs=1", "evaluations=2", "logger=csv", f"output_dir={tmp_path}", *more)
    experiment.logger = {"mine": mine, **experiment.logger}
    train.run(experiment)
    return tmp_path / experiment.run_id


TOLD = ["open 0", "log 11", "log 22", "close finished 22"]


def raises() -> None:
    raise OSError(28, "No space left\non device")


@pytest.mark.parametrize("at", TOLD)
@pytest.mark.parametrize(
    ("strange", "why"),
    [(raises, "No space left on device"), (lambda: sys.exit(3), "3"), (lambda: time.sleep(2), "0.5 seconds")],
    ids=["error", "exit", "hangs"],
)
def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(
    at: str,
    strange: Callable[[], object],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(trackers, "PATIENCE", 0.5)
    mine = Mine(strange, at)
    folder = logged(mine, tmp_path)
    assert mine.told == TOLD[: TOLD.index(at) + 1]
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith("logger=mine failed and is left out")
    assert why in said
    assert "\n" not in said
    assert (folder / "result.json").exists()
    assert len(assert_holds("csv", folder).lines) == 2


def test_the_budget_s_clock_is_stopped_while_a_tracker_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks: list[Budget] = []
    running: list[bool] = []
    really = Budget.start
    monkeypatch.setattr(Budget, "start", lambda budget: (clocks.append(budget), really(budget)))
    logged(Mine(lambda: running.append(clocks[-1]._since is not None), "log 11"), tmp_path)
    assert running == [False]


def test_ctrl_c_while_a_tracker_works_loses_and_repeats_nothing(tmp_path: Path) -> None:
    def strange() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

    first, second = Mine(strange, "log 11"), Mine()
    with pytest.raises(Interrupted):
        logged(first, tmp_path)
    folder = logged(second, tmp_path)
    assert first.told == ["open 0", "log 11", "close interrupted None"]
    assert second.told == ["open 1", "log 22", "close finished 22"]
    assert len(assert_holds("csv", folder).lines) == 2


def test_a_run_that_fails_is_failed_in_its_trackers(tmp_path: Path) -> None:
    mine = Mine()
    with before_update(15, "uniform", raises), pytest.raises(OSError, match="No space"):
        logged(mine, tmp_path)
    assert mine.told == ["open 0", "log 11", "close failed None"]


def test_of_several_processes_the_first_one_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "rank", 1)
    mine = Mine()
    assert not (logged(mine, tmp_path) / "metrics.csv").exists()
    assert mine.told == []


# ---- what is typed


@pytest.mark.parametrize("line", ["logger=[csv,mlflow]", "-m logger=mlflow seed=0,1", "logger=mlflow dry_run=true"])
def test_a_missing_package_is_said_before_anything_starts(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow").mkdir()  # as a run of another tracker may have left it; Python takes it for a package
    really = importlib.util.find_spec
    elsewhere = importlib.util.spec_from_loader("mlflow", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: elsewhere if name == "mlflow" else really(name))
    refused(here(line, tmp_path), "logger=mlflow needs mlflow: python -m pip install 'budgetrun[mlflow]'")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("logger=tensorbord", "did you mean logger=tensorboard?"),
        ("logger=wandb logger.wandb.mode=sometimes", "logger.wandb.mode=sometimes must be one of online, offline"),
        ("logger=wandb logger.wandb.projekt=a", "did you mean logger.wandb.project?"),
        ("logger=csv logger.csv._target_=budgetrun.schedule.constant.Constant", "it has no method open"),
        ("tags=paper", "tags=paper is not a list of words, as in [a, b]"),
        ("\"tags=[a,'b=c']\"", "tags"),
        ("\"tags=['']\"", "tags"),
        ("\"tags=[' a']\"", "tags"),
    ],
)
def test_bad_input_gets_one_sentence(line: str, words: str, tmp_path: Path) -> None:
    refused(here(line, tmp_path), words)
    assert not list(tmp_path.iterdir())


def test_neither_trackers_nor_tags_are_part_of_an_id_or_trackers_of_a_result(plain: Done, tmp_path: Path) -> None:
    made = checked(*LINE.split(), "logger=[tensorboard,csv,wandb]", "logger.wandb.project=secret", "tags=[a,b,a,2024]")
    assert list(made.logger) == ["tensorboard", "csv", "wandb"]
    assert made.run_id == plain.result["run_id"]
    assert made.settings.tags == ["a", "b", "2024"]
    assert "logger" not in made.names
    assert "secret" not in json.dumps(made.resolved)


def test_a_tracker_of_one_s_own_is_one_file_and_one_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "trackers.md").read_text()
    blocks = dict(re.findall(r"^```(?:python|yaml)\n# (mine/\S+)\n(.*?)^```$", page, flags=re.M | re.S))
    assert [Path(name).suffix for name in blocks] == [".py", ".yaml"]
    for name, text in blocks.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    (line,) = re.findall(r"^python -m budgetrun (--config-dir mine.*)$", page, flags=re.M)
    done = finished_in(tmp_path, f"{line} epochs=1 evaluations=2")
    said = (tmp_path / "runs.txt").read_text().splitlines()
    assert [text.split(": ")[0] for text in said] == [done.folder.name] * 3
    assert len(assert_holds("csv", done.folder).lines) == 2
