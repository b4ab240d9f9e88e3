"""The command line as the tests use it: `here` in this process (cheap), `process` in a separate process."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from budgetrun.config import Experiment

CHECKOUT = Path(__file__).resolve().parent.parent
CONF = CHECKOUT / "conf"
SAMPLERS = sorted(p.stem for p in (CONF / "sampler").glob("*.yaml"))
# of options that differ in a formula alone, one: the others have the same class, and so the same state and draws
KINDS = [s for s in SAMPLERS if s not in ("atk", "rs2", "spv", "stc", "ucb", "vr", "wtc", "gradmatch_pb")]
AUGS = sorted(p.stem for p in (CONF / "aug").glob("*.yaml"))
NOISES = sorted(p.stem for p in (CONF / "noise").glob("*.yaml"))
NO_COMPONENTS = ("grid", "tune")  # groups whose options make runs
OPTIONS = sorted((p.parent.name, p.stem) for p in CONF.glob("*/*.yaml") if p.parent.name not in NO_COMPONENTS)
GRIDS = sorted(p.stem for p in CONF.glob("grid/*.yaml"))
TRAINING = 1438  # digits


@dataclass
class Done:
    """A command that ended: exit code, what it printed, and the folder that it ran in."""

    code: int
    out: str
    err: str
    cwd: Path

    @property
    def folder(self) -> Path:
        """The one run folder under outputs/."""
        (folder,) = (p for p in (self.cwd / "outputs").iterdir() if p.is_dir() and not p.name.startswith("."))
        return folder

    @property
    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return result


def here(line: str, cwd: Path) -> Done:
    """Run a command line in this process, and end it as the interpreter would."""
    from budgetrun.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", ["budgetrun", *shlex.split(line)]),
        mode_read_once(line),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")  # as in a separate process; the tests check what is printed
        try:
            code = main()
        except SystemExit as leaving:
            if isinstance(leaving.code, str):
                print(leaving.code, file=sys.stderr)
            code = 1 if isinstance(leaving.code, str) else leaving.code or 0
        except Exception:
            traceback.print_exc()
            code = 1
    return Done(code, out.getvalue(), err.getvalue(), cwd)


def mode_read_once(line: str) -> contextlib.AbstractContextManager[Any]:
    """Hydra composes the whole configuration twice, in 0.18 s each, first to read hydra.mode alone.

    Only a grid, an override or a configuration of one's own sets it; for other lines it is null. Commands in processes
    of their own, and lines that may set it, go Hydra's whole way.
    """
    if re.search(r"grid|hydra\.mode|(^| )(-c[ndpj]|--con)", line):
        return contextlib.nullcontext()
    from hydra._internal.hydra import Hydra

    return mock.patch.object(Hydra, "get_mode", return_value=None)


def compose_from_memory() -> None:
    """From now on, Hydra reads each of our files once in this process, and merges each choice of them once.

    A command then composes in 0.06 s instead of 0.13, of 0.25 for a run of four updates; the suite gives some thousand.
    A user's own files are read anew, and all is merged anew where there are some. This file is none of a user's code.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import ConfigRepository
    from hydra.core.object_type import ObjectType

    from budgetrun import errors

    read, merged = ConfigRepository.load_config, ConfigLoaderImpl._compose_config_from_defaults_list
    files: dict[Any, Any] = {}
    choices: dict[Any, Any] = {}

    ours = "hydra.conf", str(CONF), ""  # the last is for structured configurations

    def remembered(memory: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
        if key not in memory:
            memory[key] = make()
        return copy.deepcopy(memory[key])

    def load_config(self: Any, config_path: str) -> Any:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.path not in ours:
            return read(self, config_path)
        return remembered(files, (source.path, config_path), lambda: read(self, config_path))

    def merge(self: Any, defaults: Any, repo: Any) -> Any:
        if tuple(source.path for source in repo.get_sources()) != ours:
            return merged(self, defaults, repo)
        return remembered(choices, tuple(map(astuple, defaults)), lambda: merged(self, defaults, repo))

    errors.NOT_OWN = (*errors.NOT_OWN, __file__)
    ConfigRepository.load_config = load_config  # type: ignore[method-assign]
    ConfigLoaderImpl._compose_config_from_defaults_list = merge  # type: ignore[method-assign]


@contextlib.contextmanager
def hydra_at_work(folder: Path | None = None) -> Iterator[Any]:
    """Hydra itself, as its main makes it for our configuration and a user's own folder."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from budgetrun.launch import plugins

    plugins.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        if folder is not None:
            hydra.config_loader.get_search_path().prepend("command-line", f"file://{folder}")
        yield hydra


def composed(*overrides: str) -> tuple[Any, dict[str, Any]]:
    """The configuration that Hydra composes from a command line, without the `hydra` node, and the chosen options."""
    from hydra import compose
    from omegaconf import open_dict

    from budgetrun.launch.compose import choices_of

    with hydra_at_work():
        cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
        choices = choices_of(cfg.hydra)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg, choices


@functools.cache
def composer() -> Any:
    """What composes the jobs of a sweep, value for value as Hydra does; options that came before take no time."""
    from hydra.types import RunMode

    from budgetrun.launch.compose import Composed

    with hydra_at_work() as hydra:
        return Composed(hydra.config_loader, hydra.compose_config("config", ["hydra.mode=MULTIRUN"], RunMode.MULTIRUN))


def checked(*overrides: str) -> Experiment:
    """The checked experiment of a command line."""
    from budgetrun.config import experiment

    return experiment(*composer()(overrides))


# of a finished run
FILES = {"SHA256SUMS", "checkpoint.pt", "config.yaml", "metrics.jsonl", "result.json", "selected.npz", "train.log"}


def environment(**extra: str) -> dict[str, str]:
    left = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "BUDGETRUN_"))}
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**left, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **extra}


def finished_in(folder: Path, line: str) -> Done:
    """Run a command line that must succeed."""
    done = here(line, folder)
    assert done.code == 0, done.err
    return done


def copied(done: Done, folder: Path) -> Done:
    """The same run in another folder, so that it can be changed."""
    shutil.copytree(done.cwd, folder, dirs_exist_ok=True)
    return replace(done, cwd=folder)


def started(line: str, cwd: Path, first: Callable[[], object] = lambda: None) -> subprocess.Popen[str]:
    """Start a command line in a separate process, which does `first` first; its output goes to pipes."""

    return subprocess.Popen(
        [sys.executable, "-m", "budgetrun", *shlex.split(line)],
        preexec_fn=first,
        cwd=cwd,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def process(line: str, cwd: Path, first: Callable[[], object] = lambda: None) -> Done:
    """The same, run to its end."""
    running = started(line, cwd, first)
    out, err = running.communicate(timeout=300)
    return Done(running.returncode, out, err, cwd)


def listing(*folders: Path) -> dict[str, bytes | None]:
    """Every path under the folders with its content, to compare before and after."""
    paths = [p for folder in folders for p in sorted(folder.rglob("*"))]
    return {str(p): p.read_bytes() if p.is_file() else None for p in paths}


def human_file(path: Path, content: dict[str, Any], numpy_core: str = "numpy.core") -> Path:
    """A file as CIFAR-10N and CIFAR-100N are published: torch's archive of NumPy arrays pickled before NumPy 2."""
    pickled = pickle.dumps(content, protocol=2)
    here, there = (f"c{core}.multiarray\n_reconstruct\n".encode() for core in ("numpy._core", numpy_core))
    assert here in pickled
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled.replace(here, there))
        archive.writestr("archive/version", "3\n")
    return path


def refused(done: Done, *words: str) -> str:
    """Check that a command failed with one sentence on stderr that contains these words; returns the sentence."""
    assert done.code not in (0, None), f"it did not fail; it said {done.out}{done.err}"
    lines = done.err.strip().splitlines()
    assert "Traceback" not in done.err + done.out, done.err[-2000:]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("budgetrun: ")
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


def values_of(group: str, option: str) -> dict[str, Any]:
    """The values of an option as Hydra composes them, possibly with some from another option's file."""
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(composed(f"{group}={option}")[0][group], resolve=True)
    return values


FROM_FILES = tuple(s for s in SAMPLERS if "\nfile: " in (CONF / "sampler" / f"{s}.yaml").read_text())  # of scores


def needed(sampler: str, folder: Path, line: str = "") -> str:
    """What a sampler needs on this command line besides its name: held-out examples, or files, made in `folder`."""
    if sampler == "glister" and "validation=" not in line:
        return " validation=0.02"  # leaves 1,408 examples: as many updates per epoch as all of them
    if sampler not in FROM_FILES:
        return ""
    import torch

    from budgetrun.dataset.digits import Digits
    from budgetrun.folder import features, scorefile
    from budgetrun.training.data import fingerprint, hold_out

    data = Digits(mean=[0.3], std=[0.4], flip=False, padding=1).load("")
    if match := re.search(r"validation=([\d.]+)", line):
        data = hold_out(data, float(match[1]))
    score = torch.rand(len(data.labels), generator=torch.Generator().manual_seed(0))
    about = {"dataset_fingerprint": fingerprint(data)}
    scorefile.write(folder / "given.csv", {"score": score, "weight": 1 + score}, about)
    files = f" sampler.file={folder / 'given.csv'}"
    if "select=graph" in line:
        features.write(folder / "given.npz", [score[:, None]], about)
        files += f" select.features={folder / 'given.npz'}"
    return files


@functools.cache
def sampler_class(option: str) -> Any:
    from hydra.utils import get_object
    from omegaconf import OmegaConf

    values: Any = OmegaConf.load(CONF / "sampler" / f"{option}.yaml")
    return get_object(values["_target_"]) if "_target_" in values else sampler_class(values["defaults"][0])


@contextlib.contextmanager
def before_update(number: int, sampler: str, action: Any) -> Iterator[None]:
    """Call `action` when the sampler is about to draw the batch of that update, counted from 1 in this process."""
    kind = sampler_class(sampler)
    really, drawn = kind.draw, 0

    def draw(self: Any) -> Any:
        nonlocal drawn
        drawn += 1
        if drawn == number:
            action()
        return really(self)

    with mock.patch.object(kind, "draw", draw):
        yield
