"""compile=true: every size of a batch is compiled before the clock starts, and nothing is compiled afterwards."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import before_update, checked
from torch import Tensor, nn

from budgetrun.train import run


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch size of each graph that is compiled, in order; its operations then run as they are."""
    sizes: list[int] = []

    def backend(graph: nn.Module, inputs: list[Any]) -> Any:
        (images,) = (one for one in inputs if isinstance(one, torch.Tensor) and one.shape[-2:] == (8, 8))
        sizes.append(len(images))
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return sizes


@pytest.mark.parametrize(
    ("line", "sizes"),
    [
        # more than the 8 compilations that torch allows one function by default
        (
            "sampler=osgd sampler.backward=rows sampler.thresholds=[0.0001,0.0002,0.9,0.91,0.92,0.93]",
            [64, 32, 16, 8, 4, 2, 1, 64, 64],
        ),
        ("sampler=sb_batchwise sampler.begin=0 sampler.keep=0.3", [64, 19, 64, 64]),
        # the last candidates of an epoch, and the rest of all examples, are looked at uncompiled
        ("sampler=sb sampler.prime=0 sampler.stale=2 scores=el2n", [64, 64, 64]),
        # three views of 64 images in an update, and one in a look
        ("sampler=is sampler.threshold=0 aug=augmix_consistency", [192, 64, 64]),
    ],
    ids=["osgd", "sb_batchwise", "sb", "augmix_consistency"],
)
def test_all_sizes_are_compiled_beforehand_and_others_run_as_they_are(
    line: str, sizes: list[int], compiled: list[int], tmp_path: Path
) -> None:
    line += " model.width=2 epochs=2 evaluations=2"

    def loss(how: str) -> float:
        return run(checked(*line.split(), f"compile={how}", f"output_dir={tmp_path / how}"))["test_loss"]

    seen: list[list[int]] = []
    with before_update(1, line.split()[0].split("=")[1], lambda: seen.append(list(compiled))):
        assert loss("true") == pytest.approx(loss("false"))
    assert seen[0] == compiled == sizes


class InTheSameMemory(torch.autograd.Function):
    """Values in a tensor that the next run of the same graph overwrites, as a CUDA graph does it."""

    @staticmethod
    def forward(_: Any, values: Tensor, memory: Tensor) -> Tensor:
        return memory.copy_(values).detach()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def test_a_run_with_cuda_graphs_is_the_same_although_they_overwrite_what_they_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, passes = [], []

    def compiled(net: nn.Module, *, dynamic: bool, mode: str) -> Any:
        modes.append(mode)
        memory: dict[int, Tensor] = {}

        def model(images: Tensor) -> Tensor:
            passes.append((len(images), net.training, torch.is_grad_enabled()))
            logits = net(images)
            return InTheSameMemory.apply(logits, memory.setdefault(len(logits), torch.empty_like(logits)))

        model.train = net.train  # type: ignore[attr-defined]
        return model

    def result(line: str) -> dict[str, Any]:
        pool = "sampler=is sampler.pool=3 sampler.threshold=1 model.width=2 epochs=2 evaluations=2"
        return run(checked(*f"{pool} {line}".split()))

    plain = result(f"output_dir={tmp_path / 'plain'}")
    monkeypatch.setattr(torch, "compile", compiled)
    graphs = result(f"compile=true compile_mode=reduce-overhead output_dir={tmp_path / 'graphs'}")
    assert modes == ["reduce-overhead"]
    # warm-up, recording and a replay of each kind of pass before the first update
    assert passes[:9] == [(64, True, True)] * 3 + [(64, False, False)] * 3 + [(64, True, False)] * 3
    assert all(graphs[key] == plain[key] for key in ("train_loss", "test_loss", "updates", "examples_forward"))


def test_the_seconds_of_a_full_run_are_those_of_the_compiled_model_and_measuring_them_changes_nothing(
    compiled: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from budgetrun.training import machine

    models = []

    def measured(work: Any, device: Any) -> float:
        work()
        models.append(compiled[-1])
        return 1e-9  # so that every budget of seconds is spent by one update

    monkeypatch.setattr(machine, "seconds_of", measured)
    line = "model.width=2 epochs=1 evaluations=1 compile=true optimizer=adamw"
    once = run(checked(*line.split(), "budget=0.04", f"output_dir={tmp_path / 'a'}"))
    other = run(checked(*line.split(), "budget=0.04", "budget_unit=seconds", f"output_dir={tmp_path / 'b'}"))
    assert once["updates"] == other["updates"] == 1
    assert once["test_loss"] == other["test_loss"]
    assert models == [64]
