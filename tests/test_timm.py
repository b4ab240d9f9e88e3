"""The models of timm: by name, for the channels, classes and size of the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import here, refused
from samplers import ran

pytest.importorskip("timm", reason="the extra timm is not installed")

from budgetrun.config import Experiment
from budgetrun.contracts import UserError
from budgetrun.model.timm import Timm
from budgetrun.training.budget import model_flops
from budgetrun.training.looks import check_features
from budgetrun.training.weights import heads


@pytest.mark.parametrize(
    ("name", "args", "size", "last"),
    [
        ("resnet18", None, 28, ["fc"]),
        ("vit_tiny_patch16_224", {"patch_size": 7, "depth": 1}, 28, ["head"]),
        ("levit_128", None, 64, ["head", "head_dist"]),
        ("resnetv2_18", None, 32, ["head.fc"]),  # a convolution
    ],
)
def test_a_model_fits_the_images_and_its_classifier_is_known(name: str, args: Any, size: int, last: list[str]) -> None:
    with torch.device("meta"):
        net = Timm(name, args).build(1, 7, size)
        assert net(torch.empty(2, 1, size, size)).shape == (2, 7)
    assert heads(net) == last
    if name == "resnetv2_18":
        with pytest.raises(UserError, match="no linear layer"):
            check_features(net, torch.Size((1, size, size)))
    else:
        check_features(net, torch.Size((1, size, size)))


def test_the_flops_of_a_vision_transformer_are_those_of_its_matrix_products() -> None:
    """N = 196 + 1 tokens of d = 192 in 12 blocks: 12 N d^2 and 2 N^2 d each; patches of 16x16x3; 1000 classes."""
    with torch.device("meta"):
        net = Timm("vit_tiny_patch16_224", None).build(3, 1000, 224)
    block = 12 * 197 * 192**2 + 2 * 197**2 * 192
    products = 12 * block + 196 * 768 * 192 + 192 * 1000
    assert model_flops(net, torch.Size((3, 224, 224)))[0] == 2 * products


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("model.name=resnet81", ("model.name=resnet81 is not a model of timm; did you mean resnet18 or",)),
        ("model.name=hf-hub:me/mine", ("is not a model of timm",)),
        ("model.name=resnet18.a1_in1k", ("published weights, which are not downloaded; set name=resnet18",)),
        ("'model.args={pretrained: true}'", ("args has pretrained",)),
        ("'model.args={bogus: 1}'", ("does not fit resnet18", "bogus")),
        ("model.args=3", ("a dictionary",)),
        ("model.name=vit_tiny_patch16_224", ("patches of 16 pixels per side, which do not divide 8",)),
    ],
)
def test_what_timm_does_not_have_is_one_sentence(values: str, words: tuple[str, ...], tmp_path: Path) -> None:
    refused(here(f"model=timm {values}", tmp_path), *words)
    assert not list(tmp_path.iterdir()), "something was written"


def test_name_and_arguments_count_in_the_id(experiment_for: Callable[..., Experiment]) -> None:
    lines = ["name=resnet18", "name=resnet34", "args={drop_rate: 0.1}", "args={drop_rate: 0.2}"]
    assert len({experiment_for("model=timm", f"model.{line}").run_id for line in lines}) == 4


def test_a_transformer_trains_and_its_weights_begin_another_run(tmp_path: Path) -> None:
    line = "model=timm model.name=test_vit image_size=16 'model.args={patch_size: 8}' optimizer=adamw evaluations=1"
    _, first = ran(f"{line} epochs=1 lr=0.001", tmp_path)
    weights = torch.load(tmp_path / f"outputs/{first['run_id']}/checkpoint.pt")["model"]
    torch.save({"state_dict": weights}, tmp_path / "w.pt")
    _, second = ran(f"{line} epochs=0.05 lr=1e-12 schedule=constant init_from=w.pt", tmp_path)  # it learns nothing
    assert second["test_loss"] == pytest.approx(first["test_loss"], abs=1e-5)
    assert second["versions"]["timm"]
