"""Small builders that several test files share."""

from __future__ import annotations

import itertools
import os
import signal

# one test process per core, one thread each: threads that wait for each other make every test several times slower
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("BUDGETRUN_DATA", None)  # the data sets of whoever runs the tests are none of theirs

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import Done, checked, compose_from_memory, copied, finished_in, human_file
from torch import Tensor

from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Context, Data, Random
from budgetrun.dataset.digits import Digits
from budgetrun.launch import preflight
from budgetrun.loss.cross_entropy import CrossEntropy
from budgetrun.select.top import Top
from budgetrun.training.views import Views

# a script ignores the first for all that it starts in the background, and nohup the second; so would every run
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# a hundred sweeps are started here, and each would time updates for half a second
preflight.ENOUGH = 0.01

compose_from_memory()

# no test cuts the power, and waiting for the disk takes a third of a test that keeps a checkpoint after every update
os.fsync = lambda file: None

CPU = torch.device("cpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every combination instead of every pair, and long storms")


LONGEST = ("test_together.py", "test_soak.py", "test_sweeps.py")  # a test of these takes up to a minute


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first: at the end, one process would be busy with them alone. Those marked full, with --full."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether everything is asked for, however long it takes."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def kills(full: bool) -> int:
    """How often a sweep is killed at random moments."""
    return 50 if full else 2


def refuses_to_look(*_: Any, **__: Any) -> Any:
    raise AssertionError("this method was not expected to look")


@pytest.fixture(scope="session")
def context_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Context]:
    """Contexts over `n` random 8x8 images whose labels cycle through the classes; aug: steps that `view` applies.

    others: values for the rest of Context.
    """
    folders = (tmp_path_factory.getbasetemp() / f"state{number}" for number in itertools.count())

    def make(
        n: int,
        batch_size: int,
        *,
        fraction: float = 1.0,
        classes: int = 4,
        seed: int = 0,
        look: Callable[..., tuple[Tensor, Tensor]] = refuses_to_look,
        aug: tuple[Any, ...] = (),
        aug_random: Random | None = None,
        **others: Any,
    ) -> Context:
        images = torch.randint(256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        labels = torch.arange(n) % classes
        pixels = [0.5] * 3
        data = Data(images, labels, images[:1], labels[:1], pixels, pixels, flip=True, padding=1, classes=classes)
        view = Views(data, aug, aug_random or Random.seeded(seed, "aug", CPU))

        facts: dict[str, Any] = {
            "validation": None,
            "progress": lambda: 0.0,
            "select": Top(best=True),
            "read_scores": refuses_to_look,
            "read_kept": refuses_to_look,
            "read_features": refuses_to_look,
            "state_folder": next(folders),
            "needs_features": lambda: None,
            "embed": refuses_to_look,
            "gradient_norms": refuses_to_look,
            "second": refuses_to_look,
            "logit_gradients": CrossEntropy(smoothing=0.0).logit_gradients,
        }
        return Context(
            n=n,
            classes=classes,
            labels=labels,
            batch_size=batch_size,
            fraction=fraction,
            epoch=n // batch_size,
            device=CPU,
            random=Random.seeded(seed, "sampler", CPU),
            view=view,
            look=look,
            **(facts | others),
        )

    return make


@pytest.fixture
def experiment_for(tmp_path: Any) -> Callable[..., Experiment]:
    """The checked experiment of a command line, with its outputs in a temporary folder."""

    def make(*overrides: str) -> Experiment:
        return checked(f"output_dir={tmp_path}", "device=cpu", *overrides)

    return make


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The run of budget=0.5 epochs=1, to be copied and never changed."""
    return finished_in(tmp_path_factory.mktemp("finished"), "budget=0.5 epochs=1")


@pytest.fixture
def finished(finished_once: Done, tmp_path: Path) -> Done:
    """The same run in the test's own folder, tmp_path."""
    return copied(finished_once, tmp_path)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with labels that people might have given to the digits, a quarter of them wrong."""
    clean = Digits(mean=[0.3], std=[0.4], flip=False, padding=1).load("").labels.numpy()
    human = (clean + (np.arange(len(clean)) % 4 == 0)) % 10
    folder = tmp_path_factory.mktemp("people")
    for classes, key in ((10, "worse_label"), (100, "noisy_label")):
        human_file(folder / f"CIFAR-{classes}_human.pt", {"clean_label": clean, key: human})
    return folder


@pytest.fixture(scope="session")
def coded_batch() -> Callable[..., Batch]:
    """Batches whose pixels encode where they come from: channel 0 is the row, 1 the y and 2 the x of the pixel.

    The example in row i is number 1000 + 7 i, of class 3 i mod 5.
    """

    def make(count: int, height: int, width: int) -> Batch:
        assert count <= 256
        coordinates = torch.meshgrid(torch.arange(count), torch.arange(height), torch.arange(width), indexing="ij")
        images = torch.stack(coordinates, dim=1).to(torch.uint8)
        index = 1000 + 7 * torch.arange(count)
        label = 3 * torch.arange(count) % 5
        return Batch(images, index[:, None], label[:, None], torch.ones(count, 1), drawn=index)

    return make
