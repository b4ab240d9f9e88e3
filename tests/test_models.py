"""The networks: every part of them learns, they see the whole image, and they are those of the papers."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cli import CONF
from omegaconf import OmegaConf
from torch import nn

from budgetrun.config import build
from budgetrun.contracts import Model, UserError
from budgetrun.model.cnn import Quarters
from budgetrun.training.budget import model_flops

MODELS = sorted(p.stem for p in (CONF / "model").glob("*.yaml"))
LARGE = "resnet101", "wrn_28_10"  # as resnet50 and wrn_28_2, with more of the same
WITHOUT_LARGE = [pytest.param(name, marks=pytest.mark.full) if name in LARGE else name for name in MODELS]


def network(name: str, channels: int = 3, classes: int = 10, size: int = 32, **changes: Any) -> nn.Module:
    """The network of an option for images of this many pixels per side, made with a fixed seed."""
    if name == "timm":
        pytest.importorskip("timm", reason="the extra timm is not installed")
    values: Any = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"))
    torch.manual_seed(0)
    model = build({**values, **changes}, "model.", Model)
    sizes = {"image_size": size} if "image_size" in inspect.signature(model.build).parameters else {}
    return model.build(channels, classes, **sizes)  # type: ignore[no-any-return]


def flops(name: str, size: int, **changes: Any) -> int:
    """FLOPs of a forward pass of an image of this many pixels per side; counted without computing anything."""
    with torch.device("meta"):
        return model_flops(network(name, **changes), torch.Size((3, size, size)))[0]


def images(count: int, channels: int, size: int) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_a_model_that_ends_in_probabilities_is_refused_and_log_probabilities_are_logits() -> None:
    linear, shape = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), torch.Size((1, 4, 4))
    for last in (nn.Softmax(1), nn.Sigmoid()):
        with pytest.raises(UserError, match=f"the model ends in {type(last).__name__}, and must return logits"):
            model_flops(nn.Sequential(linear, last), shape)
    assert model_flops(nn.Sequential(linear, nn.LogSoftmax(1)), shape) == model_flops(linear, shape)
    logits, label = linear(images(8, 1, 4)), torch.arange(8) % 4
    of_logits, of_logs = (
        torch.autograd.grad(F.cross_entropy(outputs, label), logits, retain_graph=True)[0]
        for outputs in (logits, logits.log_softmax(1))
    )
    torch.testing.assert_close(of_logits, of_logs)


# ---- they learn


@pytest.mark.parametrize("name", WITHOUT_LARGE)
def test_one_update_on_colour_images_of_32_pixels_reaches_every_weight_and_lowers_the_loss(name: str) -> None:
    begun = {"args": {"zero_init_last": False}} if name == "timm" else {}  # else its residual branches begin as zero
    # in double precision: where BatchNorm has four values per channel, single loses the loss's third digit
    net, batch = network(name, classes=5, **begun).double(), images(4, 3, 32).double()
    labels = torch.tensor([0, 4, 2, 0])
    torch.manual_seed(0)  # of dropout
    before = F.cross_entropy(net(batch), labels)
    before.backward()
    gradients = {key: p.grad for key, p in net.named_parameters()}
    assert [key for key, g in gradients.items() if g is None or not g.isfinite().all() or not g.any()] == []
    squared = sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None)
    with torch.no_grad():
        for p in net.parameters():
            assert p.grad is not None
            p -= 1e-3 / squared * p.grad  # a step that lowers the loss by 0.001, to first order
        torch.manual_seed(0)
        after = F.cross_entropy(net(batch), labels)
    assert float(before.detach() - after) == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("name", WITHOUT_LARGE)
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28)])
def test_the_logits_of_an_image_depend_on_every_corner_of_it(name: str, channels: int, size: int) -> None:
    batch = images(2, channels, size).requires_grad_()
    logits = network(name, channels, 7, size)(batch)
    logits[0].square().sum().backward()
    assert batch.grad is not None
    gradient = batch.grad[0].abs().sum(0)
    assert gradient[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 0


# ---- they are the published ones


@pytest.mark.parametrize(
    ("name", "millions", "gflops"),
    [
        ("resnet18", 11.18, 1.19),
        ("resnet50", 23.52, 2.69),
        ("efficientnet_b4", 17.56, 0.98),
        ("efficientnet_v2_s", 20.19, 1.86),
        ("mobilenet_v3_small", 1.52, None),  # they give 0.03, which is too coarse to compare
    ],
)
def test_with_the_stem_for_imagenet_they_have_the_size_and_flops_of_sahayam_et_al(
    name: str, millions: float, gflops: float | None
) -> None:
    """Their table's numbers, truncated to two decimal places: 10 classes, images of 128 pixels."""
    net = network(name, stem="imagenet")
    assert 0 <= sum(p.numel() for p in net.parameters()) / 1e6 - millions < 0.01
    if gflops is not None:
        # their FLOPs count a little more than convolutions and matrix products
        assert flops(name, 128, stem="imagenet") / 1e9 == pytest.approx(gflops, rel=0.01)


def test_resnet101_and_densenet121_have_as_many_parameters_as_published() -> None:
    """torchvision's documentation: 44,549,160 and 7,978,856 with 1000 classes and the stem for ImageNet."""
    for name, published, features in (("resnet101", 44_549_160, 2048), ("densenet121", 7_978_856, 1024)):
        net = network(name, stem="imagenet", classes=10)
        assert sum(p.numel() for p in net.parameters()) == published - 990 * (features + 1)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", pytest.param("resnet101", marks=pytest.mark.full), "densenet121"]
)
def test_the_small_stem_does_at_32_pixels_what_the_other_does_at_128(name: str) -> None:
    """Except for the stem itself: 3x3 at 32 x 32 positions instead of 7x7 at 64 x 64, each to 64 channels."""
    small, large = flops(name, 32, stem="small"), flops(name, 128, stem="imagenet")
    assert small - 2 * 9 * 3 * 64 * 32**2 == large - 2 * 49 * 3 * 64 * 64**2


@pytest.mark.parametrize("name", ["efficientnet_b4", "efficientnet_v2_s", "mobilenet_v3_small"])
def test_the_small_stem_does_at_32_pixels_what_the_other_does_at_64(name: str) -> None:
    assert flops(name, 32, stem="small") == flops(name, 64, stem="imagenet")


def test_a_network_that_does_not_fit_small_images_gives_one_sentence() -> None:
    with pytest.raises(UserError, match="does not fit images of 1x8x8"):
        model_flops(network("densenet121", 1, stem="imagenet"), torch.Size((1, 8, 8)))


# ---- how they begin, and what is random in them


@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_resnets_begin_as_torch_s_layers_or_as_torchvision_s(stem: str) -> None:
    for layer in ("conv1", "layer4.1.conv2"):
        weight = network("resnet18", init="torch", stem=stem).state_dict()[f"{layer}.weight"]
        bound = weight[0].numel() ** -0.5  # uniform in +- 1 / sqrt(fan in)
        assert 0.98 * bound < float(weight.max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.03)
        weight = network("resnet18", init="torchvision", stem=stem).state_dict()[f"{layer}.weight"]
        fan_out = len(weight) * weight[0, 0].numel()
        assert float(weight.std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        assert float(weight.max()) > 3 * (2 / fan_out) ** 0.5  # normal: a uniform one ends at 1.7 deviations


@pytest.mark.parametrize(
    ("name", "off", "on"),
    [
        ("efficientnet_v2_s", {"dropout": 0, "stochastic_depth": 0}, {"stochastic_depth": 0.5}),
        ("efficientnet_v2_s", {"dropout": 0, "stochastic_depth": 0}, {"dropout": 0.5}),
        ("mobilenet_v3_small", {"dropout": 0}, {"dropout": 0.5}),
    ],
)
def test_only_dropout_and_stochastic_depth_are_random_and_they_use_the_generator_in_checkpoints(
    name: str, off: dict[str, float], on: dict[str, float]
) -> None:
    batch = images(4, 3, 16)
    with torch.no_grad():
        still, moving = network(name, **off), network(name, **{**off, **on})
        assert torch.equal(still(batch), still(batch))
        state = torch.get_rng_state()
        first = moving(batch)
        assert not torch.equal(moving(batch), first)
        torch.set_rng_state(state)
        assert torch.equal(moving(batch), first)
        moving.eval()
        assert torch.equal(moving(batch), moving(batch))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (2, 2), (3, 3), (5, 8), (7, 7), (21, 21)])
def test_the_mean_over_quarters_is_adaptive_pooling_to_the_bit(height: int, width: int) -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(4, 8, height, width, generator=random).to(memory_format=torch.channels_last)
    one, other = (values.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
    seen, expected = Quarters()(one), nn.AdaptiveAvgPool2d(2)(other)
    assert torch.equal(seen, expected)
    ahead = torch.randn(seen.shape, generator=random)
    seen.backward(ahead)
    expected.backward(ahead)
    assert one.grad is not None
    assert other.grad is not None
    assert torch.allclose(one.grad, other.grad, rtol=1e-6, atol=1e-7)
