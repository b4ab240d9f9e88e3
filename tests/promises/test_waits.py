"""On a pretended CUDA device: every part trains, mixes no devices, and makes the host wait only where docs/gpu.md says.

Each run has a sampler and a part of every other group, so that a part that is new, or newly waits, is in one of them.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from cli import CHECKOUT, CONF, SAMPLERS
from torch.nn.functional import one_hot

GROUPS = ("aug", "noise", "scores", "loss", "optimizer", "schedule")
PARTS = {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in GROUPS}
RUNS = max(len(SAMPLERS), *map(len, PARTS.values()))


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT))


def allowed() -> dict[str, tuple[float, set[str]]]:
    """Of each option that waits: how often in an update, and where, by the table in the documentation."""
    rows = re.findall(r"^\| `(\w+=\w+)` \| \d+ \| ([\d.]+) \| (.*) \|$", (CHECKOUT / "docs/gpu.md").read_text(), re.M)
    assert rows
    return {option: (float(waits), set(places.split("; "))) for option, waits, places in rows}


def options_of(number: int) -> list[str]:
    parts = {"sampler": SAMPLERS[number % len(SAMPLERS)]}
    parts |= {group: options[number % len(options)] for group, options in PARTS.items()}
    return [f"{group}={option}" for group, option in parts.items()]


@pytest.mark.parametrize("number", range(RUNS))
def test_a_run_trains_on_a_pretended_gpu_and_waits_only_where_it_is_documented(number: int, tmp_path: Path) -> None:
    from benchmarks import waits

    options = [option for option in options_of(number) if option not in waits.NEED_FILES]
    if number == 0:
        options.append("device=cuda:1")
    file = waits.write_scores(tmp_path / "scores.csv")
    overrides = [override for option in options for override in waits.overrides_of(option, file)]
    found = waits.measured(waits.checked(overrides))
    known = [allowed()[option] for option in options if option in allowed()]
    places = {f"`{place}`: {why}" for place, why in found.waits}
    assert places <= set().union(*(places for _, places in known)), options
    # with other parts, a core-set may choose a little differently, and a queue may take one look more
    assert sum(found.waits.values()) <= 1.1 * found.updates * sum(waits for waits, _ in known) + 1, options


@pytest.mark.parametrize("place", ["host", "disk"])
def test_images_that_are_not_on_the_gpu_cost_one_wait_per_draw(place: str) -> None:
    from benchmarks import waits

    found = waits.measured(waits.checked([f"data_on={place}", "sampler=p_sgd", "aug=ricap"]))
    assert found.waits == {("stored.py Stored.reader", "a copy to the host"): 2}  # in two epochs


# ---- the device itself


def test_the_pretended_device_refuses_what_cuda_refuses_and_counts_what_waits() -> None:
    from benchmarks.pretended_cuda import pretended_cuda

    with pretended_cuda() as device:
        x = torch.arange(6.0, device="cuda").view(2, 3)
        assert str(x.device) == "cuda:0"
        assert x.is_cuda
        host = torch.ones(2, 3)
        for mixed in (
            lambda: x + host,
            lambda: x @ host.T,
            lambda: torch.cat([x, host]),
            lambda: x + host.to("cuda:1"),
            lambda: torch.rand(2, generator=torch.Generator("cpu"), device="cuda"),
            lambda: torch.rand(2, generator=torch.Generator("cuda:1"), device="cuda:0"),
            lambda: x.numpy(),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                mixed()
        device.waits.clear()

        free = [
            lambda: x * torch.tensor(2.0),  # a number on the CPU is a parameter of the kernel
            lambda: x.index_select(0, torch.zeros(1, dtype=torch.int64, device="cuda")),
            lambda: host.to("cuda", non_blocking=True),
            lambda: one_hot(x.long().flatten() % 3, 3),
            lambda: torch.func.vmap(lambda row: torch.nn.functional.softmax(row, 0))(x),
            lambda: torch.rand(2, generator=torch.Generator("cuda"), device="cuda"),
        ]
        for work in free:
            assert work().device == x.device
        assert not device.waits

        waiting = {
            "a copy to the host": lambda: x.cpu(),
            "a value is read": lambda: float(x.sum()),
            "a copy from the host": lambda: torch.tensor([1.0, 2.0], device="cuda"),
            "a mask: how many are there?": lambda: x[x > 1],
            "nonzero: how many are there?": lambda: (x > 1).nonzero(),
            "an index on the CPU": lambda: x[torch.tensor([0])],
            "multinomial looks at its weights, twice": lambda: torch.multinomial(x[1], 2),
            "for all its work": lambda: torch.cuda.synchronize(),
        }
        for why, work in waiting.items():
            work()
            assert {reason for _, reason in device.waits} == {why}
            device.waits.clear()
        assert x.cpu().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not torch.cuda.is_available() or torch.cuda.device_count()
    assert isinstance(torch.Generator("cpu"), torch.Generator)


def test_what_trains_on_the_pretended_device_is_what_trains_on_the_cpu(tmp_path: Path) -> None:
    """The values are those of the CPU, so a run in full precision ends with the same numbers."""
    from cli import checked

    from benchmarks.pretended_cuda import pretended_cuda
    from budgetrun.train import run

    def loss(device: str) -> float:
        line = "sampler=is sampler.threshold=0 aug=ricap model.width=2 epochs=1 evaluations=1 precision=fp32"
        return run(checked(*line.split(), f"device={device}", f"output_dir={tmp_path / device}"))["test_loss"]

    on_cpu = loss("cpu")
    with pretended_cuda():
        assert loss("cuda") == pytest.approx(on_cpu, rel=1e-6)
