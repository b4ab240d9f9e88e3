"""A run begins with exactly the weights of a file, but for a last layer of other classes, or says why it does not."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cli import here, listing, refused
from samplers import ran
from torch import Tensor, nn

from budgetrun.config import Experiment
from budgetrun.contracts import UserError
from budgetrun.model.cnn import CNN
from budgetrun.training.checks import built
from budgetrun.training.weights import begin_with, heads

LAST = "13"  # the linear layer of a CNN


def weights_of(classes: int = 10, channels: int = 1, width: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(3)
    state = CNN(width).build(channels, classes).state_dict()
    return {name: torch.randn_like(value) if value.is_floating_point() else value + 7 for name, value in state.items()}


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights_of().items()}


@pytest.mark.parametrize(
    "made",
    [
        weights_of(),
        {"state_dict": weights_of(), "epoch": 3},
        {"model": weights_of(), "optimizer": {"lr": 0.1}},
        {"model_state_dict": weights_of()},
        {"state_dict": prefixed("module."), "model": {}},
        prefixed("_orig_mod."),
        prefixed("_orig_mod.module."),
        prefixed("module._orig_mod."),
        {name: value.double() for name, value in weights_of().items()},
    ],
)
def test_every_weight_of_a_file_is_loaded_however_it_is_wrapped(made: Any, tmp_path: Path) -> None:
    torch.save(made, tmp_path / "w.pth")
    net = CNN(2).build(1, 10)
    assert begin_with(str(tmp_path / "w.pth"), net) == {}
    for name, value in net.state_dict().items():
        assert torch.equal(value, weights_of()[name]), name


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    save = pytest.importorskip("safetensors.torch", reason="the extra timm is not installed").save_file
    save(weights_of(), tmp_path / "w.safetensors")
    for device in ("cpu", "meta"):
        with torch.device(device):
            net = CNN(2).build(1, 10)
        begin_with(str(tmp_path / "w.safetensors"), net)
    begin_with(str(tmp_path / "w.safetensors"), net := CNN(2).build(1, 10))
    assert all(torch.equal(value, weights_of()[name]) for name, value in net.state_dict().items())


def test_a_net_whose_own_names_begin_with_a_prefix_keeps_them(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.module = nn.Linear(3, 2)
    weights = {name: value + 1 for name, value in net.state_dict().items()}
    torch.save(weights, tmp_path / "w.pt")
    begin_with(str(tmp_path / "w.pt"), net)
    assert torch.equal(net.state_dict()["module.bias"], weights["module.bias"])


def test_a_last_layer_of_other_classes_begins_anew_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(weights_of(classes=20), tmp_path / "w.pt")
    net = CNN(2).build(1, 10)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with caplog.at_level(logging.INFO, "budgetrun"):
        begin_with(str(tmp_path / "w.pt"), net)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith(f"{LAST}.") else weights_of(classes=20)[name]), name
    assert [record.message.partition("so ")[2] for record in caplog.records] == [f"the last layer, {LAST}, begins anew"]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (weights_of(channels=3), r"\(0.weight is \[2, 3, 3, 3\] and not \[2, 1, 3, 3\]\)"),
        (weights_of(width=3, classes=20), r"0.weight is .*, 1.weight is .*, 1.bias is .*, and \d+ more"),
        ({name: v for name, v in weights_of().items() if name != "4.weight"}, r"\(4.weight is missing\)"),
        (
            {name: v for name, v in weights_of().items() if LAST not in name},
            r"13.weight is missing, 13.bias is missing",
        ),
        ({**weights_of(), "neck": torch.zeros(1)}, r"\(neck is not in the model\)"),
        ({**weights_of(), f"{LAST}.weight": torch.zeros(20, 5)}, r"\(13.weight is \[20, 5\] and not \[10, 32\]\)"),
        ({"state_dict": {}}, "it is empty"),
        ({"state_dict": {"a": 3}}, "its a is not a tensor"),
        ([torch.zeros(3)], "it is a list"),
        ({"model": weights_of(), "args": argparse.Namespace(lr=1)}, "it also holds argparse.Namespace, which is code"),
        (nn.Linear(2, 2), "it also holds torch.nn.modules.linear.Linear, which is code"),
    ],
)
def test_nothing_is_loaded_in_part(made: Any, words: str, tmp_path: Path) -> None:
    torch.save(made, tmp_path / "w.pt")
    with torch.device("meta"):
        outline = CNN(2).build(1, 10)
    for net in (CNN(2).build(1, 10), outline):
        with pytest.raises(UserError, match=rf"init_from: .*{words}"):
            begin_with(str(tmp_path / "w.pt"), net)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_file_runs_no_code(tmp_path: Path) -> None:
    torch.save({"model": weights_of(), "more": Hostile(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"it also holds posix\.mkdir, which is code"):
        begin_with(str(tmp_path / "w.pt"), CNN(2).build(1, 10))
    assert not (tmp_path / "ran").exists()


def test_the_head_is_the_last_linear_layer_or_what_the_model_says() -> None:
    from torchvision.models import resnet18, vit_b_16

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.head_dist, self.other = nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.Linear(2, 2)

        def get_classifier(self) -> tuple[nn.Module, nn.Module]:
            return self.head, self.head_dist

    with torch.device("meta"):
        nets = [CNN(2).build(1, 10), resnet18(), vit_b_16(), Two(), nn.Conv2d(1, 1, 1), nn.Linear(1, 1)]
    assert [heads(net) for net in nets] == [[LAST], ["fc"], ["heads.head"], ["head", "head_dist"], [], [""]]


def test_a_run_begins_with_a_file_whose_content_is_part_of_the_experiment(
    tmp_path: Path, experiment_for: Callable[..., Experiment]
) -> None:
    names = ("a.pt", "b.pt", "c.pt")
    for name, classes in zip(names, (20, 20, 10), strict=True):
        torch.save(weights_of(classes), tmp_path / "same.pt")
        (tmp_path / "same.pt").rename(tmp_path / name)
    one, same, other = (experiment_for(f"init_from={tmp_path}/{name}").run_id for name in names)
    assert one == same != other
    line = "epochs=0.05 model.width=2 lr=1e-12 schedule=constant evaluations=1"
    done, result = ran(f"{line} init_from=a.pt", tmp_path)
    assert "a.pt is for another number of classes, so the last layer, 13, begins anew" in done.out + done.err
    assert result["flops_before"] == 0
    saved = torch.load(tmp_path / "outputs" / result["run_id"] / "checkpoint.pt")["model"]
    assert torch.equal(saved["0.weight"], weights_of(20)["0.weight"])  # too small a step to change it
    before = listing(tmp_path)
    done = here(f"-m {line} seed=1,2 init_from=a.pt model.width=3", tmp_path)
    refused(done, "a.pt has the weights of another network", "0.weight is [2, 1, 3, 3] and not [3, 1, 3, 3]")
    assert listing(tmp_path) == before
    torch.save(weights_of(channels=3), tmp_path / "a.pt")
    done = here(f"-m {line} seed=1,2 init_from=a.pt", tmp_path)
    refused(done, "a.pt has weights for images of 3 channels, and these have 1 (0.weight is [2, 3, 3, 3]")


# ---- the size of images


class Asking:
    def build(self, channels: int, classes: int, image_size: int) -> nn.Module:
        if image_size % 2:
            raise ValueError("it must be even")
        return nn.Linear(channels * image_size**2, classes)


@pytest.mark.parametrize(
    ("shape", "image_size", "crop", "expected"),
    [((1, 8, 8), None, None, 64), ((3, 8, 6), 4, None, 48), ((1, 8, 8), None, 6, 36), ((1, 8, 6), None, None, "8x6")],
)
def test_a_model_is_told_the_pixels_per_side_that_it_sees(
    shape: tuple[int, ...], image_size: int | None, crop: int | None, expected: int | str
) -> None:
    data: Any = SimpleNamespace(images=torch.zeros(1, *shape), classes=3, crop=crop)
    settings: Any = SimpleNamespace(image_size=image_size)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=f"square images, and these are {expected}; set image_size=8"):
            built(Asking(), data, settings)
    else:
        assert built(Asking(), data, settings).in_features == expected
    assert len(list(built(CNN(1), data, settings).parameters())) == 11  # it does not ask


def test_a_model_that_refuses_a_size_is_one_sentence() -> None:
    data: Any = SimpleNamespace(images=torch.zeros(1, 1, 7, 7), classes=3, crop=None)
    with pytest.raises(UserError, match=r"images of 1x7x7 and 3 classes \(it must be even, in .*test_weights.py:\d+\)"):
        built(Asking(), data, SimpleNamespace(image_size=None))  # type: ignore[arg-type]
