"""What a pass costs: by the size of the images and by the layers that train, charged as it is counted by hand."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import SAMPLERS, before_update, checked, here, needed, sampler_class
from states import AT_WORK, assert_ends_alike, interrupt
from torch import Tensor, nn

from budgetrun.aug.progressive import Progressive
from budgetrun.contracts import Batch, Random
from budgetrun.errors import Interrupted, UserError
from budgetrun.freeze.backbone import Backbone
from budgetrun.freeze.layers import Layers
from budgetrun.train import run
from budgetrun.training.data import prepare
from budgetrun.training.layers import in_order
from budgetrun.training.network import Network
from budgetrun.training.returned import check_freezing, check_optimizer

WIDTH = 2
UPDATES = 22  # an epoch of digits
CNN = f"model.width={WIDTH} epochs=1"


def flops_of_cnn(side: int) -> list[int]:
    """Of the four layers of `cnn` that have any, forward, for a grey image of ten classes."""
    w, pixels = WIDTH, [side**2, (side // 2) ** 2, (side // 4) ** 2]
    into, out = [1, w, 2 * w], [w, 2 * w, 4 * w]
    convolutions = [2 * 9 * i * o * p for i, o, p in zip(into, out, pixels, strict=True)]
    return [*convolutions, 2 * 16 * w * 10]


def update_of_cnn(side: int, frozen: int) -> int:
    """Of one image in an update with so many frozen layers of the seven: convolution, BatchNorm, ..., linear."""
    layers = flops_of_cnn(side)
    cost = sum(layers)
    for number, flops in enumerate(layers):
        place = 2 * number  # among the seven
        cost += flops * (place >= frozen)  # for its weights
        cost += flops * (number > 0 and place > frozen)  # for its input, if a layer before it trains
    return cost


def result_of(line: str, folder: Path) -> dict[str, Any]:
    with contextlib.chdir(folder):
        return run(checked(*line.split()))


# ---- layers


class Odd(nn.Module):
    """Its head is defined first, and its attention only reads the parameters of a module that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.last = nn.Parameter(torch.zeros(3))
        self.stem = nn.Linear(8, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4, elementwise_affine=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images[:, 0])
        x = self.norm(x + self.attention(x, x, x)[0])
        found: Tensor = self.head(x.mean(1)) + self.last
        return found


def test_layers_are_in_the_order_in_which_images_pass_them() -> None:
    net = Odd().to("meta")
    layers = in_order(net, torch.Size((1, 8, 8)))
    of_attention = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    assert [layer.parameters for layer in layers] == [
        ["last"],
        ["stem.weight", "stem.bias"],
        [f"attention.{name}" for name in of_attention],
        ["head.weight", "head.bias"],
    ]
    assert [layer.modules for layer in layers] == [[""], ["stem"], ["attention", "norm"], ["head"]]
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_layers_freeze_in_a_straight_line_and_the_last_one_never() -> None:
    by_half = Layers(start=0.5, level=1.0, rests=False)
    assert [by_half.frozen(t, 9) for t in (0.0, 0.5, 0.5625, 0.7, 0.75, 0.9375, 1.0)] == [0, 0, 1, 3, 4, 7, 8]
    assert [Layers(0.0, 0.5, False).frozen(t, 9) for t in (0.0, 0.25, 0.5, 1.0)] == [0, 1, 2, 4]
    assert [by_half.frozen(t, 1) for t in (0.0, 1.0)] == [0, 0]
    assert [Backbone(1.0, True).frozen(t, 7) for t in (0.0, 0.5, 1.0)] == [6, 6, 6]
    assert [Backbone(0.25, True).frozen(t, 7) for t in (0.0, 0.24, 0.25, 1.0)] == [6, 6, 0, 0]


# ---- what is frozen


def states(folder: str) -> dict[str, Tensor]:
    (path,) = Path(folder).glob("*/checkpoint.pt")
    found: dict[str, Tensor] = torch.load(path, weights_only=True)["model"]
    return found


@pytest.mark.parametrize("returned", [None, -1, 7, 1.0])
def test_what_a_freezing_or_an_optimizer_of_one_s_own_returns_is_checked(returned: Any) -> None:
    class Own:
        def frozen(self, progress: float, layers: int) -> Any:
            return returned if progress == 1 else 0

    with pytest.raises(UserError, match=rf"Own\.frozen returns {returned} at 100% .* whole number in 0 \.\. 6"):
        check_freezing(Own(), 7)
    with pytest.raises(UserError, match=r"Own\.build returns .*, and must return a torch\.optim\.Optimizer"):
        check_optimizer(returned, Own())


@pytest.mark.parametrize("rests", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw lr=0.01"])
def test_a_frozen_backbone_keeps_every_bit_whatever_the_optimizer(
    rests: bool, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = f"{CNN} budget=0.5 evaluations=2 weight_decay=0.1 optimizer={optimizer} freeze=backbone"
    result_of(f"{line} freeze.rests={str(rests).lower()}", tmp_path)
    ours = states("outputs")
    torch.manual_seed(0)
    before = checked(CNN.split()[0]).model.build(1, 10).state_dict()
    parameters = [name for name, _ in checked(CNN.split()[0]).model.build(1, 10).named_parameters()]
    for name, value in before.items():
        head, counts = name.startswith(parameters[-1].partition(".")[0]), name not in parameters
        assert torch.equal(ours[name], value) == (not head and (rests or not counts)), name


def test_layers_that_were_frozen_train_again_after_a_part_of_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Until half of 22 updates: 11 cost what the last layer's training costs, the others all."""
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", "budgetrun"):
        result = result_of(f"{CNN} freeze=backbone freeze.until=0.5", tmp_path)
    assert "freeze=backbone without init_from: 6 of 7 layers keep the weights" in caplog.text
    assert result["flops"] == 64 * 11 * (update_of_cnn(8, 6) + update_of_cnn(8, 0))
    first = checked(CNN.split()[0]).model.build(1, 10).state_dict()
    assert not any(torch.equal(first[name], value) for name, value in states("outputs").items() if name == "0.weight")


# ---- what it costs


def test_the_flops_of_an_update_are_those_of_the_layers_that_train() -> None:
    experiment = checked(*CNN.split())
    data, _ = prepare(experiment)
    network = Network(experiment.model, experiment, data, torch.device("cpu"))
    assert network.flops == (sum(flops_of_cnn(8)), update_of_cnn(8, 0))
    for frozen in (1, 2, 3, 6, 0):
        network.freeze(frozen, resting=False)
        for side in (8, 4):
            images = torch.zeros(5, 1, side, side, dtype=torch.uint8)
            assert network.cost(images) == (sum(flops_of_cnn(side)), update_of_cnn(side, frozen))


def test_freezing_layer_by_layer_charges_each_update_what_it_costs(tmp_path: Path) -> None:
    result = result_of(f"{CNN} freeze=layers freeze.start=0.25", tmp_path)
    progress = np.arange(UPDATES) / (UPDATES - 1)
    frozen = [int(max(0, t - 0.25) / 0.75 * 6) for t in progress]
    assert set(frozen) == set(range(7))
    assert result["updates"] == UPDATES
    assert result["flops"] == 64 * sum(update_of_cnn(8, count) for count in frozen)


def test_small_images_are_charged_as_such_in_looks_and_in_updates(tmp_path: Path) -> None:
    """Half of the size until half of the budget, then 4, 8 pixels: 8 x 0.75 rounds to 8."""
    line = f"{CNN} aug=progressive aug.progressive.delay=0.5 aug.progressive.finetune=0.25"
    uniform = result_of(line, tmp_path)
    progress = np.arange(UPDATES) / (UPDATES - 1)
    scales = [0.5 + 0.5 * min(1, max(0, t - 0.5) / 0.25) for t in progress]
    sides = [round(8 * scale / 4) * 4 for scale in scales]
    assert set(sides) == {4, 8}
    assert uniform["flops"] == 64 * sum(update_of_cnn(side, 0) for side in sides)
    looking = result_of(f"{line} sampler=is sampler.threshold=0", tmp_path)
    looks = 64 * 3 * sum(sum(flops_of_cnn(side)) for side in sides[1:])  # the gate opens after the first update
    assert looking["flops"] == uniform["flops"] + looks


def test_looks_at_smaller_images_are_charged_as_such(tmp_path: Path) -> None:
    line = f"{CNN} sampler=is sampler.threshold=0 sampler.looks_scale=0.5"
    result = result_of(line, tmp_path)
    looks = (UPDATES - 1) * 64 * 3 * sum(flops_of_cnn(4))
    assert result["flops"] == UPDATES * 64 * update_of_cnn(8, 0) + looks


SCALING = [name for name in SAMPLERS if hasattr(sampler_class(name), "looks_scale")]


@pytest.mark.parametrize("sampler", SCALING)
def test_every_sampler_that_looks_can_look_at_smaller_images(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales: list[float] = []
    really = Network.logits

    def logits(self: Network, images: Any, part: int, model: Any, scale: float = 1.0) -> Tensor:
        scales.append(scale)
        return really(self, images, part, model, scale)

    monkeypatch.setattr(Network, "logits", logits)
    monkeypatch.setattr(Network, "evaluate", lambda *_: (0.5, 0.5))
    late = {  # those that do not look at once
        "online_batch": "epochs=2 sampler.refresh=0.5",
        "kakurenbo": "epochs=2.2 sampler.tau=0.000001",
        "self_paced": "epochs=3",
        "sb": f"epochs=1 {AT_WORK['sb']}",
        "osgd": f"epochs=2 {AT_WORK['osgd']}",
    }
    at_work = late.get(sampler, f"epochs=0.3 {AT_WORK.get(sampler, '')}")
    line = f"model.width={WIDTH} evaluations=1 batch_size=128 sampler={sampler} {at_work} sampler.looks_scale=0.5"
    result_of(line + needed(sampler, tmp_path, line), tmp_path)
    assert set(scales) == {0.5}


def test_a_scaled_look_is_a_look_at_the_pixels_that_torch_interpolates() -> None:
    experiment = checked(*CNN.split())
    data, _ = prepare(experiment)
    network = Network(experiment.model, experiment, data, torch.device("cpu"))
    images = data.images[:6]
    small = torch.nn.functional.interpolate(images.float(), scale_factor=0.5, mode="bilinear")
    assert small.shape == (6, 1, 4, 4)
    net = network.net.eval()
    assert torch.equal(network.logits(images, 4, net, 0.5), network.logits(small, 4, net))


def test_a_budget_of_flops_buys_more_updates_if_passes_cost_less(tmp_path: Path) -> None:
    """What is allowed is what the full training run costs, on whole images and with all layers."""
    allowed = 11 * 64 * update_of_cnn(8, 0)
    line = f"{CNN} budget=0.5 budget_unit=flops freeze=backbone"
    result = result_of(line, tmp_path)
    assert result["updates"] == -(-allowed // (64 * update_of_cnn(8, 6))) > 20
    assert result["flops"] == result["updates"] * 64 * update_of_cnn(8, 6)


# ---- progressive resizing


def images_of(count: int, height: int, width: int) -> Batch:
    pixels = torch.arange(count * height * width, dtype=torch.int64).remainder(251).to(torch.uint8)
    index = torch.arange(count)
    return Batch.plain(pixels.view(count, 1, height, width), index, index)


def test_sizes_follow_composer_s_schedule() -> None:
    """Worked by hand from `0.5 + 0.5 (t - 0.5) / 0.3`, times 32, to the nearest multiple of 4."""
    step, shape = Progressive(0.5, 0.5, 0.2, 4, "nearest"), torch.Size((3, 32, 32))
    found = [step.sides(shape, t)[1] for t in (0.0, 0.49, 0.5, 0.56, 0.6, 0.65, 0.7, 0.74, 0.78, 0.8, 1.0)]
    assert found == [16, 16, 16, 20, 20, 24, 28, 28, 32, 32, 32]
    assert step.shapes(shape) == [torch.Size((3, side, side)) for side in (16, 20, 24, 28)]
    assert step.sides(torch.Size((3, 24, 32)), 0.0) == (12, 16)
    assert step.sides(torch.Size((1, 33, 33)), 1.0) == (33, 33)  # whole at the end, though 32 is the nearest multiple
    assert Progressive(1.0, 0.5, 0.2, 4, "crop").shapes(shape) == []


@pytest.mark.parametrize("how", ["nearest", "bilinear", "crop"])
def test_small_images_are_those_pixels(how: str) -> None:
    step, batch = Progressive(0.5, 0.5, 0.2, 2, how), images_of(3, 6, 8)
    random = Random.seeded(0, "aug", torch.device("cpu"))
    whole = batch.images.clone()
    small = step(replace(batch), random, 0.0).images
    assert small.shape == (3, 1, 3, 4)
    if how == "nearest":
        assert torch.equal(small, whole[:, :, ::2, ::2])
    elif how == "crop":
        parts = whole.unfold(2, 3, 1).unfold(3, 4, 1)
        assert any(torch.equal(small, parts[:, :, y, x]) for y in range(4) for x in range(5))
    else:
        expected = torch.nn.functional.interpolate(whole.float(), (3, 4), mode="bilinear", antialias=True)
        torch.testing.assert_close(small, expected)
    assert torch.equal(step(replace(batch), random, 1.0).images, whole)
    assert torch.equal(step(replace(batch), random).images, whole)  # as at the end, for what is timed before a run


def test_batches_of_two_sizes_become_one_of_the_last_size() -> None:
    small, large = images_of(2, 4, 4), images_of(3, 8, 8)
    both = Batch.cat([small, large])
    assert both.images.shape == (5, 1, 8, 8)
    assert both.images.dtype == torch.uint8
    assert torch.equal(both.images[2:], large.images)
    flat = replace(small, images=torch.full((2, 1, 4, 4), 9, dtype=torch.uint8))
    assert Batch.cat([flat, large]).images[:2].eq(9).all()


# ---- resumed, and refused


@pytest.mark.parametrize(
    "line",
    [
        "sampler=sb sampler.prime=0 aug=progressive aug.progressive.delay=0.2 aug.progressive.finetune=0.4",
        "sampler=is sampler.threshold=0 freeze=layers freeze.start=0.2 optimizer=adamw",
        "freeze=backbone freeze.until=0.6",
    ],
)
def test_a_run_that_is_cut_ends_bit_for_bit_as_one_that_is_not(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = checked(*f"{line} {CNN} evaluations=6".split())
    folders = []
    for name, stops in (("whole", []), ("parts", [8, 7])):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for update in stops:
            with before_update(update, once.names["sampler"], interrupt), pytest.raises(Interrupted):
                run(copy.deepcopy(once))
        run(copy.deepcopy(once))
        folders.append(tmp_path / name / "outputs" / once.run_id)
    assert_ends_alike(*folders)


def test_scores_of_a_frozen_network_are_the_same_after_an_interruption_at_the_very_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The norm of the gradient is over the layers that train; the last checkpoint is after the last update."""
    once = checked(*f"{CNN} budget=0.3 evaluations=1 freeze=backbone scores=grand".split())
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "budgetrun")
    run(copy.deepcopy(once))
    folder = tmp_path / "outputs" / once.run_id
    whole = (folder / "scores.csv").read_text()
    (folder / "result.json").unlink()
    (folder / "scores.csv").unlink()
    run(copy.deepcopy(once))
    assert "goes on from update 7" in caplog.text
    assert (folder / "scores.csv").read_text() == whole


def test_a_look_at_a_size_that_was_not_announced_is_counted_too() -> None:
    experiment = checked(*CNN.split())
    data, _ = prepare(experiment)
    network = Network(experiment.model, experiment, data, torch.device("cpu"))
    with torch.no_grad():
        assert network.cost(data.images, 0.75).forward == sum(flops_of_cnn(6)[:1]) + 2 * 9 * (2 * 4 * 9 + 4 * 8) + 640


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("freeze=layers freeze.start=1", ["freeze.start=1", "[0, 1)"]),
        ("freeze=layers freeze.level=0", ["freeze.level=0", "(0, 1]"]),
        ("freeze=backbone freeze.until=2", ["freeze.until=2", "(0, 1]"]),
        ("freeze=layers compile=true", ["freeze=layers", "compile=true", "leave out either"]),
        ("aug=progressive aug.progressive.scale=0.2", ["aug.progressive.scale=0.2", "8x8", "multiple=4"]),
        ("aug=progressive aug.progressive.delay=0.9", ["aug.progressive.delay=0.9", "1 in all"]),
        ("aug=progressive aug.progressive.how=cubic", ["aug.progressive.how=cubic", "nearest, bilinear, crop"]),
        ("aug=progressive aug.progressive.multiple=2 aug.progressive.scale=0.25", ["does not fit images of 1x2x2"]),
        (
            "-m aug=progressive aug.progressive.multiple=2 aug.progressive.scale=0.5,0.25",
            ["does not fit images of 1x2x2"],
        ),
        ("freeze=none freeze.start=0.5", ["freeze=none has no start"]),
        ("sampler=is sampler.looks_scale=0", ["sampler.looks_scale=0", "(0, 1]"]),
        ("-m sampler=is sampler.looks_scale=0.5,0.2", ["does not fit images of 1x1x1"]),
    ],
)
def test_what_cannot_be_is_one_sentence(line: str, words: list[str], tmp_path: Path) -> None:
    done = here(line, tmp_path)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert all(word in done.err for word in words), done.err
    assert not (tmp_path / "outputs").exists()
