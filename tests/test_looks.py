"""Looking at examples: what comes back, that it costs what it says, and that it leaves no trace in the model."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cli import checked
from torch import Tensor, nn

from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Context, Data, Loss, UserError
from budgetrun.launch.preflight import Preflight
from budgetrun.loss.cross_entropy import CrossEntropy
from budgetrun.loss.focal import Focal
from budgetrun.model.cnn import CNN
from budgetrun.model.resnet import ResNet
from budgetrun.model.wide_resnet import WideResNet
from budgetrun.optimizer.sgd import SGD
from budgetrun.train import run
from budgetrun.training.budget import Budget, model_flops
from budgetrun.training.looks import Looks, SecondNetwork
from budgetrun.training.network import Network

CPU = torch.device("cpu")
PART = 4  # images per pass
PLAIN = CrossEntropy(smoothing=0.0)
# 8x8 images of one channel; 16x16 of three, which are laid out with the channels last
GREY, COLOUR = (1, 8, 8), (3, 16, 16)
MODELS = [
    (CNN(width=4), GREY),
    (CNN(width=4), COLOUR),
    (ResNet(depth=18, stem="small", init="torch"), COLOUR),
    (WideResNet(depth=10, width=1, dropout=0.3), COLOUR),
]
NAMES = ["cnn", "cnn in colour", "resnet18", "wrn"]


@dataclass
class Bench:
    """A network with its own BatchNorm statistics, and everything that a look involves."""

    experiment: Experiment
    data: Data
    network: Network
    looks: Looks
    budget: Budget
    batch: Batch

    @property
    def net(self) -> nn.Module:
        return self.network.net


def random_batch(count: int, shape: tuple[int, int, int], sources: int = 1, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)
    label = torch.randint(10, (count, sources), generator=generator)
    share = torch.rand(count, sources, generator=generator).add(0.1)
    index = torch.randint(100, (count, sources), generator=generator)
    return Batch(
        images if sources == 1 else images.float() * 0.9,
        index,
        label,
        share / share.sum(1, keepdim=True),
        drawn=index[:, 0],
    )


def bench(model: Any, shape: tuple[int, int, int], loss: Loss = PLAIN, count: int = 10, sources: int = 1) -> Bench:
    torch.manual_seed(0)
    batch = random_batch(count, shape, sources)
    pixels = [0.4] * shape[0], [0.3] * shape[0]
    data = Data(
        batch.images, batch.label[:, 0], batch.images, batch.label[:, 0], *pixels, flip=True, padding=1, classes=10
    )
    experiment = replace(checked("device=cpu"), loss=loss)
    network = Network(model, experiment, data, CPU)
    with torch.no_grad():
        for seed in range(3):
            network.forward(random_batch(20, shape, seed=seed).images, network.net)
    budget = Budget("updates", 100, 1, CPU)
    return Bench(experiment, data, network, Looks(network, budget, PART), budget, batch)


@contextlib.contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Check that weights, statistics, gradients, modes, hooks and global randomness are unchanged afterwards."""
    state, modes = copy.deepcopy(net.state_dict()), [layer.training for layer in net.modules()]
    gradients, random = [p.grad for p in net.parameters()], torch.get_rng_state()
    yield
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert [layer.training for layer in net.modules()] == modes == [True] * len(modes)
    assert all(p.grad is before for p, before in zip(net.parameters(), gradients, strict=True))
    assert all(p.requires_grad for p in net.parameters())
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in net.modules())
    assert torch.equal(torch.get_rng_state(), random)


def in_evaluation_mode(b: Bench, images: Tensor) -> Tensor:
    """Logits of a copy of the network in evaluation mode, one image at a time."""
    twin = copy.deepcopy(b.net).eval()
    with torch.no_grad():
        return torch.cat([b.network.forward(image[None], twin) for image in images])


# ---- look


@pytest.mark.parametrize(("model", "shape"), MODELS, ids=NAMES)
def test_a_look_is_in_evaluation_mode_and_leaves_no_trace(
    model: CNN | ResNet | WideResNet, shape: tuple[int, int, int]
) -> None:
    b = bench(model, shape)
    with untouched(b.net):
        losses, logits = b.looks.look(b.batch)
    torch.testing.assert_close(logits, in_evaluation_mode(b, b.batch.images), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses, F.cross_entropy(logits, b.batch.label[:, 0], reduction="none"))
    assert not losses.requires_grad
    assert not logits.requires_grad


def test_a_look_in_training_mode_normalises_by_the_batch_and_moves_the_statistics() -> None:
    b = bench(CNN(width=4), COLOUR)
    twin = copy.deepcopy(b.net)
    with torch.no_grad():
        expected = torch.cat([b.network.forward(part, twin) for part in b.batch.images.split(PART)])
    before = copy.deepcopy(b.net.state_dict())
    _, logits = b.looks.look(b.batch, training=True)
    assert torch.equal(logits, expected)
    assert all(torch.equal(twin.state_dict()[name], value) for name, value in b.net.state_dict().items())
    moved = {name for name, value in b.net.state_dict().items() if not torch.equal(before[name], value)}
    assert moved == {name for name in before if "running" in name or "batches" in name}
    assert all(layer.training for layer in b.net.modules())


def test_the_losses_of_a_look_are_those_of_the_runs_loss_and_shares() -> None:
    b = bench(CNN(width=4), GREY, loss=Focal(gamma=2.0), sources=4)
    losses, logits = b.looks.look(b.batch)
    p = logits.double().softmax(1).gather(1, b.batch.label)
    torch.testing.assert_close(losses.double(), -(b.batch.share * (1 - p) ** 2 * p.log()).sum(1), atol=1e-5, rtol=1e-5)


# ---- embed


@pytest.mark.parametrize(("model", "shape"), MODELS, ids=NAMES)
def test_features_are_the_input_of_the_last_linear_layer(
    model: CNN | ResNet | WideResNet, shape: tuple[int, int, int]
) -> None:
    b = bench(model, shape)
    with untouched(b.net):
        features, logits = b.looks.embed(b.batch)
    (last,) = (layer for layer in b.net.modules() if isinstance(layer, nn.Linear))
    assert features.shape == (10, last.in_features)
    torch.testing.assert_close(features @ last.weight.T + last.bias, logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, in_evaluation_mode(b, b.batch.images), atol=1e-4, rtol=1e-4)
    assert not features.requires_grad


def test_features_are_of_the_last_of_several_linear_layers() -> None:
    @dataclass
    class Perceptron:
        def build(self, channels: int, classes: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, 5), nn.Tanh(), nn.Linear(5, classes))

    b = bench(Perceptron(), GREY)
    features, logits = b.looks.embed(b.batch)
    torch.testing.assert_close(b.net[3](features), logits)
    assert features.shape == (10, 5)


@dataclass
class Convolution:
    """No linear layer at all."""

    def build(self, channels: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, classes, 8), nn.Flatten())


@dataclass
class Tokens:
    """A linear layer that sees several vectors of each image, whose logits are averaged."""

    def build(self, channels: int, classes: int) -> nn.Module:
        net = nn.Sequential(nn.Flatten(2), nn.Linear(64, classes), nn.Flatten(1), nn.AvgPool1d(channels))
        return nn.Sequential(nn.Conv2d(channels, 1, 1), net)


@pytest.mark.parametrize(("model", "why"), [(Convolution(), "no linear layer"), (Tokens(), r"gets \[\d+, 1, 64\]")])
def test_a_model_without_features_is_refused_in_a_sentence_before_it_trains_for_them(
    model: Any, why: str, tmp_path: Path
) -> None:
    b = bench(model, GREY)
    with pytest.raises(UserError, match=why):
        b.looks.embed(b.batch)
    for line in ("save_features=true", "scores=moderate", "scores=grand scores.parameters=last", "sampler=craig"):
        asks = replace(checked(*line.split(), f"output_dir={tmp_path / 'outputs'}"), model=model)
        for begin in (run, Preflight()):
            with pytest.raises(UserError, match=why):
                begin(asks)
        assert not list(tmp_path.glob("outputs/*/checkpoint.pt"))


def test_a_failing_look_for_features_leaves_no_hook_behind() -> None:
    b = bench(CNN(width=4), GREY)
    with untouched(b.net), pytest.raises(RuntimeError):
        b.looks.embed(replace(b.batch, images=torch.zeros(10, 2, 8, 8)))


# ---- gradients of the loss


@pytest.mark.parametrize("sources", [1, 2, 4])
@pytest.mark.parametrize("loss", [PLAIN, CrossEntropy(smoothing=0.1), Focal(gamma=2.0)], ids=repr)
def test_logit_gradients_are_those_of_each_image_s_own_loss_and_cost_nothing(
    loss: CrossEntropy | Focal, sources: int
) -> None:
    b = bench(CNN(width=4), GREY, loss, sources=sources)
    logits = 3 * torch.randn(10, 10, generator=torch.Generator().manual_seed(sources))
    with untouched(b.net), torch.no_grad():
        gradients = b.looks.logit_gradients(logits, b.batch)
    assert not gradients.requires_grad
    assert (b.budget.flops, b.budget.examples_looked) == (0, 0)
    for row in range(10):
        one = logits[row : row + 1].clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(one, b.batch[row : row + 1])[0], one)
        torch.testing.assert_close(gradients[row], expected[0], atol=1e-6, rtol=1e-4)


# ---- gradient norms


def norms_one_by_one(b: Bench, loss: Loss) -> Tensor:
    """The norm of each image's gradient, one backward pass per image, in evaluation mode."""
    twin, norms = copy.deepcopy(b.net).eval(), []
    for row in range(len(b.batch)):
        one = b.batch[row : row + 1]
        gradients = torch.autograd.grad(loss(b.network.forward(one.images, twin), one)[0], list(twin.parameters()))
        norms.append(torch.cat([g.flatten() for g in gradients]).double().norm())
    return torch.stack(norms).float()


@pytest.mark.parametrize("sources", [1, 2, 4])
@pytest.mark.parametrize("loss", [PLAIN, CrossEntropy(smoothing=0.1), Focal(gamma=2.0)], ids=repr)
@pytest.mark.parametrize("shape", [GREY, COLOUR], ids=["grey", "colour"])
def test_gradient_norms_are_those_of_a_backward_pass_per_image(
    shape: tuple[int, int, int], loss: CrossEntropy | Focal, sources: int
) -> None:
    b = bench(CNN(width=4), shape, loss, sources=sources)
    with untouched(b.net):
        norms = b.looks.gradient_norms(b.batch)
    torch.testing.assert_close(norms, norms_one_by_one(b, loss), atol=1e-6, rtol=1e-4)
    assert norms.max() > 1.2 * norms.min()
    assert not norms.requires_grad


@pytest.mark.parametrize(("model", "shape"), MODELS[2:], ids=NAMES[2:])
def test_gradient_norms_of_the_large_models_are_those_of_a_backward_pass_per_image(
    model: ResNet | WideResNet, shape: tuple[int, int, int]
) -> None:
    b = bench(model, shape, count=3)
    with untouched(b.net):
        norms = b.looks.gradient_norms(b.batch)
    torch.testing.assert_close(norms, norms_one_by_one(b, PLAIN), atol=1e-6, rtol=1e-4)


def test_gradient_norms_of_many_images_and_inside_no_grad_are_the_same() -> None:
    """More images than are differentiated at once; a method may call it from anywhere."""
    b = bench(CNN(width=2), GREY, count=70)
    with torch.no_grad():
        norms = b.looks.gradient_norms(b.batch)
    torch.testing.assert_close(norms, norms_one_by_one(b, PLAIN), atol=1e-6, rtol=1e-4)


def test_gradient_norms_are_computed_in_float32_where_the_model_is_not() -> None:
    b = bench(CNN(width=4), COLOUR)
    exact, (_, logits) = b.looks.gradient_norms(b.batch), b.looks.look(b.batch)
    b.network.bf16 = True
    assert not torch.equal(b.looks.look(b.batch)[1], logits)
    assert torch.equal(b.looks.gradient_norms(b.batch), exact)


# ---- the costs


def test_every_way_to_look_charges_exactly_its_passes() -> None:
    b = bench(CNN(width=4), GREY)
    forward, update = b.network.flops
    for look, flops in (
        (b.looks.look, 10 * forward),
        (lambda batch: b.looks.look(batch, training=True), 10 * forward),
        (b.looks.embed, 10 * forward),
        (b.looks.gradient_norms, 10 * update),
    ):
        before = b.budget.state_dict()
        look(b.batch)
        after = b.budget.state_dict()
        changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
        assert changed == {"examples_forward": 10, "examples_looked": 10, "flops": flops}


def test_an_update_learns_that_further_views_of_an_image_agree_and_tells_the_loss_of_the_image_alone() -> None:
    """The batch's mean of w (CE + 12 JS), as AugMix's code has it; looks pass the image alone."""
    b = bench(CNN(width=4), GREY)
    batch = b.batch.weighted()
    batch.weight = torch.linspace(0, 2, 10)
    batch.others = torch.stack([random_batch(10, GREY, seed=seed).images for seed in (8, 9)], 1)
    twin = copy.deepcopy(b.net)
    b.network.consistency = 12.0
    told: list[tuple[Tensor, Tensor]] = []
    returned = b.network.update(batch, lambda batch, losses, logits: told.append((losses, logits)))

    every = torch.cat([batch.images, batch.others[:, 0], batch.others[:, 1]])
    clean, *others = b.network.forward(every, twin).split(10)  # one pass: BatchNorm sees them together
    losses = F.cross_entropy(clean, batch.label[:, 0], reduction="none")
    p = [logits.softmax(1) for logits in (clean, *others)]
    mean = (sum(p) / 3).clamp(1e-7, 1).log()
    apart = sum(F.kl_div(mean, each, reduction="none").sum(1) for each in p) / 3
    gradients = torch.autograd.grad((batch.weight * (losses + 12 * apart)).mean(), list(twin.parameters()))
    for parameter, gradient in zip(b.net.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3)
    assert len(told) == 1
    torch.testing.assert_close(told[0], (losses.detach(), clean.detach()))
    torch.testing.assert_close(returned, (batch.weight * losses).mean().detach())

    before = b.budget.flops
    looked = b.looks.look(batch)[0]
    torch.testing.assert_close(looked, b.looks.look(replace(batch, others=None))[0])
    assert b.budget.flops - before == 2 * 10 * b.network.flops[0]
    other = second(b, 1)
    before = b.budget.flops
    other.learn(batch)
    assert b.budget.flops - before == 30 * other.network.flops[1]


# ---- the second network


def second(b: Bench, seed: int) -> SecondNetwork:
    torch.manual_seed(seed)
    settings = replace(b.experiment.settings, weight_decay=1e-3)
    experiment = replace(b.experiment, settings=settings, optimizer=SGD(momentum=0.9, nesterov=False))
    return SecondNetwork(Network(CNN(width=2), experiment, b.data, CPU), b.network, b.budget, PART)


@pytest.mark.parametrize("weight", [None, [0.0, 3.0, 1.0, 0.5, 0.0, 2.0, 0.25, 1.0]], ids=["plain", "weighted"])
def test_a_second_network_learns_as_torch_does_at_the_learning_rate_of_the_moment(weight: list[float] | None) -> None:
    b = bench(CNN(width=4), GREY)
    other = second(b, 1)
    twin = copy.deepcopy(other.network.net)
    velocity = [torch.zeros_like(p) for p in twin.parameters()]
    with untouched(b.net):
        for seed, lr in enumerate([0.1, 0.05, 0.01]):
            batch = random_batch(8, GREY, seed=seed)
            batch.weight = None if weight is None else torch.tensor(weight)
            b.network.lr = lr
            other.learn(batch)
            losses = F.cross_entropy(b.network.forward(batch.images, twin), batch.label[:, 0], reduction="none")
            loss = sum(w * each for w, each in zip(weight or [1.0] * 8, losses, strict=True)) / 8
            gradients = torch.autograd.grad(loss, list(twin.parameters()))
            with torch.no_grad():
                for p, v, gradient in zip(twin.parameters(), velocity, gradients, strict=True):
                    v.mul_(0.9).add_(gradient + 1e-3 * p)
                    p -= lr * v
    for name, value in other.network.net.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], atol=1e-5, rtol=1e-4)


def test_a_look_with_a_second_network_is_its_own_and_leaves_no_trace() -> None:
    b = bench(CNN(width=4), GREY)
    other = second(b, 1)
    other.learn(random_batch(8, GREY, seed=5))
    for p in other.network.net.parameters():
        p.grad = None
    with untouched(other.network.net), untouched(b.net):
        losses, logits = other.look(b.batch)
    twin = copy.deepcopy(other.network.net).eval()
    torch.testing.assert_close(logits, b.network.forward(b.batch.images, twin).detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(losses, F.cross_entropy(logits, b.batch.label[:, 0], reduction="none"))


def test_a_second_network_is_charged_by_its_own_flops() -> None:
    b = bench(CNN(width=4), GREY)
    other = second(b, 1)
    forward, update = other.network.flops
    assert forward < b.network.flops[0]
    other.look(b.batch)
    assert b.budget.realised() | {"seconds": 0} == {
        "updates": 0,
        "examples_forward": 0,
        "examples_backward": 0,
        "flops": 10 * forward,
        "seconds": 0,
    }
    assert b.budget.examples_looked == 10
    other.learn(random_batch(8, GREY))
    assert b.budget.flops == 10 * forward + 8 * update
    assert b.budget.examples_looked == 10
    assert b.budget.updates == 0


def test_a_second_network_goes_on_from_a_saved_file_bit_for_bit() -> None:
    b = bench(CNN(width=4), GREY)
    other, again = second(b, 1), second(b, 2)
    for seed in range(3):
        other.learn(random_batch(8, GREY, seed=seed))
    file = io.BytesIO()
    torch.save(other.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    for each in (other, again):
        for seed in range(3, 6):
            each.learn(random_batch(8, GREY, seed=seed))
    for name, value in other.network.net.state_dict().items():
        assert torch.equal(again.network.net.state_dict()[name], value), name


# ---- in a run


@dataclass
class Probe:
    """Uniform sampling that uses everything the context offers, and records what that should cost."""

    second: bool = True
    rates: list[float] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)

    def start(self, context: Context) -> None:
        self.context, self.stream = context, context.stream(context.permutation)
        self.contexts.append(context)
        if self.second:
            self.other = context.second(CNN(width=2))

    def draw(self) -> Batch:
        pool = self.stream.take(self.context.batch_size)
        self.progress.append(self.context.progress())
        self.context.look(pool[:7])
        self.context.embed(pool[:5])
        self.context.gradient_norms(pool[:3])
        if self.second:
            self.other.look(pool[:11])
            self.other.learn(pool[:13])
            self.rates.append(self.other.network.optimizer.param_groups[0]["lr"])
        return pool

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)


def test_what_a_run_offers_is_charged_exactly_and_the_second_network_follows_the_schedule(
    experiment_for: Callable[..., Experiment],
) -> None:
    probe = Probe()
    experiment = experiment_for("model.width=4", "epochs=1", "evaluations=1", "lr=0.2", "schedule.final=0.01")
    result = run(replace(experiment, sampler=probe))
    forward, update = model_flops(CNN(width=4).build(1, 10), torch.Size(GREY))
    other_forward, other_update = model_flops(CNN(width=2).build(1, 10), torch.Size(GREY))
    assert result["updates"] == 22
    assert result["examples_forward"] == 22 * (64 + 7 + 5 + 3)
    assert result["examples_backward"] == 22 * 64
    looks = 12 * forward + 3 * update + 11 * other_forward + 13 * other_update
    assert result["flops"] == 22 * (64 * update + looks)
    assert result["selection_flops"] == pytest.approx(looks / (64 * update + looks), rel=1e-12)
    assert result["keep_rate"] == 1  # it trains on more than it looks at
    assert probe.rates == pytest.approx([0.2 + (0.01 - 0.2) * t / 21 for t in range(22)], rel=1e-12)
    assert probe.progress == pytest.approx([t / 21 for t in range(22)], rel=1e-12)
    (context,) = probe.contexts
    assert (context.n, context.classes, context.epoch, context.fraction) == (1438, 10, 22, 1.0)
    assert context.validation is None


def test_looking_does_not_change_the_training(experiment_for: Callable[..., Experiment]) -> None:
    """The same draws with and without looks end at the same weights: nothing of a look leaks into the training."""

    @dataclass
    class Blind(Probe):
        def draw(self) -> Batch:
            return self.stream.take(self.context.batch_size)

    overrides = ("model.width=4", "epochs=1", "evaluations=2")
    results = [
        run(replace(experiment_for(*overrides, f"force={force}"), sampler=kind(second=False)))
        for kind, force in ((Probe, "true"), (Blind, "true"))
    ]
    for name in ("train_loss", "test_loss", "test_accuracy"):
        assert results[0][name] == results[1][name]
    assert results[0]["flops"] > results[1]["flops"]


def test_the_held_out_part_is_one_plain_batch(experiment_for: Callable[..., Experiment]) -> None:
    probe = Probe(second=False)
    run(replace(experiment_for("model.width=2", "epochs=1", "evaluations=1", "validation=0.1"), sampler=probe))
    (context,) = probe.contexts
    held = context.validation
    assert len(held) + context.n == 1438
    assert torch.equal(held.index[:, 0], torch.arange(len(held)))
    assert torch.equal(held.drawn, torch.arange(len(held)))
    assert held.images.dtype == torch.uint8
    assert len(held.label.unique()) == 10


def test_the_recalls_of_classes_are_those_of_their_own_images(monkeypatch: pytest.MonkeyPatch) -> None:
    network = bench(CNN(2), (1, 8, 8)).network
    predicted, labels = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([0, 0, 0, 1, 1, 2])
    monkeypatch.setattr(network, "of_all", lambda images: F.one_hot(predicted, 4).float())
    # of class 0 two of three, of class 1 both, of class 2 none; class 3 has no image: that of all, four of six
    torch.testing.assert_close(network.recalls(torch.empty(6), labels, 4), torch.tensor([2 / 3, 1, 0, 4 / 6]))
