"""How much memory a run takes at least, and what is said if there is less."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from budgetrun import memory
from budgetrun.contracts import Data, UserError
from budgetrun.training.checks import check_memory, outline

CPU = torch.device("cpu")


@dataclass
class Flat:
    """64 inputs, 10 outputs."""

    def build(self, channels: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


@dataclass
class NotOnMeta:
    """A network that reads its weights while it is built."""

    def build(self, channels: int, classes: int) -> nn.Module:
        net = Flat().build(channels, classes)
        assert float(net[1].weight.sum()) != 0
        return net


@pytest.mark.parametrize("model", [Flat(), NotOnMeta()])
@pytest.mark.parametrize(("precision", "of_batch"), [("fp32", 100 * 64 * 4), ("bf16", 100 * 64 * 2)])
def test_training_takes_weights_gradients_what_a_batch_leaves_and_the_data(
    model: Any, precision: str, of_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = torch.zeros(30, 1, 4, 4, dtype=torch.uint8), torch.zeros(30, dtype=torch.int64)
    data = Data(images, labels, images[:7], labels[:7], [0.5], [0.5], flip=False, padding=0, classes=10)
    settings: Any = SimpleNamespace(image_size=8, batch_size=100, precision=precision, compile=False, data_on="auto")
    needed = 2 * 650 * 4 + of_batch + 37 * 64
    net = outline(model, data, settings)
    monkeypatch.setattr(memory, "total", lambda device: needed)
    check_memory(net, data, settings, CPU)
    monkeypatch.setattr(memory, "total", lambda device: needed - 1)
    with pytest.raises(UserError, match="a model of 650 weights and a batch of 100 images do not fit"):
        check_memory(net, data, settings, CPU)
    monkeypatch.setattr(memory, "total", lambda device: needed + 2 * of_batch)
    check_memory(net, data, settings, CPU, passes=3)
    with pytest.raises(UserError, match="do not fit"):
        check_memory(net, data, settings, CPU, passes=4)


def test_an_outline_takes_no_memory_and_draws_no_random_numbers() -> None:
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    data = Data(images, images, images, images, [0.5], [0.5], flip=False, padding=0, classes=10)
    settings: Any = SimpleNamespace(image_size=None)
    before = torch.get_rng_state()
    assert all(p.is_meta for p in outline(Flat(), data, settings).parameters())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: torch.empty(2**55), "tried to allocate 144115188075855872 bytes"),
        (lambda: np.empty(2**55), "Unable to allocate 256. PiB"),
        (lambda: b"0" * 2**60, "MemoryError"),
    ],
)
def test_memory_that_is_refused_is_reported_in_one_sentence(work: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"not enough memory .{words}.*batch_size"), memory.explained():
        work()


def test_other_errors_are_not_about_memory() -> None:
    with pytest.raises(RuntimeError, match="must match"), memory.explained():
        torch.zeros(2) + torch.zeros(3)


def test_the_least_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = memory.total()
    for limit in (machine // 2, machine * 2):
        for folder in (tmp_path, tmp_path / "memory"):  # version 2 and version 1
            folder.mkdir(exist_ok=True)
            for name in ("memory.max", "memory.limit_in_bytes"):
                (folder / name).write_text(f"{limit}\n")
        monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path)
        assert memory.total() == min(limit, machine)


@pytest.mark.parametrize(
    ("count", "words"),
    [(1023, "1023 bytes"), (1536, "1.5 KiB"), (20 * 2**30, "20 GiB"), (400 * 2**40, "400 TiB"), (2**80, "1.1e+12 TiB")],
)
def test_bytes_in_words(count: int, words: str) -> None:
    assert memory.in_units(count) == words
