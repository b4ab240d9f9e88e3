"""The file of a run's most and least selected examples."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cli import here

from budgetrun.contracts import Data
from budgetrun.dataset.digits import Digits
from budgetrun.folder import selected
from budgetrun.folder.run import RunFolder
from budgetrun.training.files import Files
from budgetrun.training.world import World


def test_a_run_writes_its_extremes_as_they_are_in_the_data_set(tmp_path: Path) -> None:
    """Held-out examples do not shift the numbers, corrupted ones are marked, and the most selected come first."""
    done = here("sampler=sb epochs=2 validation=0.2 noise=symmetric noise.rate=0.5", tmp_path)
    assert done.code == 0, done.err
    found = selected.read(done.folder / "selected.npz")
    data = Digits(**{name: v for name, v in done.result["config"]["dataset"].items() if name != "_target_"}).load(".")
    assert len(found) == 2 * selected.COUNT
    visits = [one.visits for one in found]
    assert visits == sorted(visits, reverse=True)
    assert visits[0] > visits[-1]
    for one in found:
        assert np.array_equal(one.image, data.images[one.index])
        assert one.corrupted == (one.label != data.labels[one.index])
    assert {one.corrupted for one in found} == {True, False}


def test_the_visits_of_all_examples_are_those_of_the_run(tmp_path: Path) -> None:
    """By their entropy and their sum, which the result has."""
    done = here("sampler=sb epochs=2 validation=0.2", tmp_path)
    visits = selected.visits(done.folder / "selected.npz")
    assert len(visits) == done.result["n_training"]
    assert visits.sum() == pytest.approx(done.result["examples_backward"])
    share = visits[visits > 0] / visits.sum()
    assert -(share * np.log(share)).sum() == pytest.approx(done.result["visits_entropy"], abs=1e-6)
    mine = selected.read(done.folder / "selected.npz")
    assert {one.visits for one in mine[: selected.COUNT]} <= set(np.sort(visits)[-selected.COUNT :].tolist())


def file_of(images: torch.Tensor, folder: Path) -> list[selected.Example]:
    """What is written and read of two images, of which the second was selected."""
    labels = torch.tensor([3, 4])
    data = Data(images, labels, images, labels, [0.5], [0.5], flip=False, padding=0, classes=5)
    counted: Any = SimpleNamespace(visits=torch.tensor([0.0, 1.5]), extremes=lambda count: torch.tensor([1, 0]))
    unused: Any = None
    network: Any = SimpleNamespace(world=World())
    Files(unused, RunFolder(str(folder), ""), data, "", unused, network, None).selected(counted)
    return selected.read(folder / "selected.npz")


def test_large_images_are_reduced_by_means_and_keep_their_shape(tmp_path: Path) -> None:
    images = torch.zeros(2, 3, 64, 128, dtype=torch.uint8)
    images[1, :, ::2] = 100  # every other line: the mean of a square of four pixels is 50
    second, first = file_of(images, tmp_path)
    assert second.image.shape == (3, 16, 32)
    assert (second.image == 50).all()
    assert not first.image.any()
    assert (second.index, second.visits, second.label, second.corrupted) == (1, 1.5, 4, False)


def test_images_of_other_channels_are_grey(tmp_path: Path) -> None:
    images = torch.tensor([0, 4], dtype=torch.uint8).view(1, 2, 1, 1).expand(2, 2, 8, 8).contiguous()
    assert [(one.image.shape, one.image.max()) for one in file_of(images, tmp_path)] == [((1, 8, 8), 2)] * 2


GOOD = {
    "index": np.array([1]),
    "visits": np.array([1.0]),
    "label": np.array([0]),
    "corrupted": np.array([False]),
    "image": np.zeros((1, 1, 2, 2), np.uint8),
}


@pytest.mark.parametrize(
    "changed",
    [
        {"image": np.zeros((1, 2, 2, 2), np.uint8)},
        {"image": np.zeros((1, 1, 2, 33), np.uint8)},
        {"image": np.zeros((1, 1, 2, 0), np.uint8)},
        {"image": np.zeros((1, 1, 2, 2))},
        {"label": np.array([0, 1])},
        {"index": np.array(["<b>"])},
        {"visits": np.array([None])},
    ],
)
def test_what_is_not_such_a_file_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", **GOOD)
    assert len(selected.read(tmp_path / "good.npz")) == 1
    np.savez(tmp_path / "bad.npz", **{**GOOD, **changed})
    with pytest.raises(ValueError, match="it is not a file of selected examples"):
        selected.read(tmp_path / "bad.npz")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.savez_compressed(whole, **GOOD)
    for length in range(0, len(whole.getvalue()), 37):
        (tmp_path / "cut.npz").write_bytes(whole.getvalue()[:length])
        with pytest.raises(ValueError, match="it is not a file of selected examples"):
            selected.read(tmp_path / "cut.npz")
    with pytest.raises(FileNotFoundError):
        selected.read(tmp_path / "none.npz")
