"""The losses, against their formulas in float64 and torch's own, and what a run reports about them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cli import CONF, here
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from budgetrun.config import Experiment
from budgetrun.contracts import Batch
from budgetrun.loss.cross_entropy import CrossEntropy
from budgetrun.loss.focal import Focal
from budgetrun.model.cnn import CNN
from budgetrun.softmax import divergence
from budgetrun.training.data import Normalize, prepare

LOSSES = sorted(p.stem for p in (CONF / "loss").glob("*.yaml"))
CLASSES = 6


def labelled(label: list[list[int]], share: list[list[float]]) -> Batch:
    rows = torch.tensor(label)
    return Batch(torch.zeros(len(rows), 1, 1, 1), rows, rows, torch.tensor(share), drawn=rows[:, 0])


@st.composite
def batches(draw: st.DrawFn, sources: int | None = None) -> tuple[Tensor, Batch]:
    """Logits and batches of 1 to 8 images, each of the same number of sources."""
    count, k = draw(st.integers(1, 8)), sources or draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**30)))
    logits = draw(st.sampled_from([0.1, 1.0, 5.0])) * torch.randn(count, CLASSES, generator=generator)
    share = torch.rand(count, k, generator=generator) + 0.01
    label = torch.randint(CLASSES, (count, k), generator=generator)
    return logits, labelled(label.tolist(), (share / share.sum(1, keepdim=True)).tolist())


def by_the_formula(logits: Tensor, batch: Batch, gamma: float = 0.0, smoothing: float = 0.0) -> list[float]:
    """sum over sources of share times the loss of the source's label, in float64, number by number."""
    losses = []
    for row, labels, shares in zip(logits.double(), batch.label.tolist(), batch.share.tolist(), strict=True):
        p = row.exp() / row.exp().sum()
        loss = 0.0
        for label, share in zip(labels, shares, strict=True):
            for c in range(CLASSES):
                target = (1 - smoothing) * (c == label) + smoothing / CLASSES
                loss -= share * target * float((1 - p[c]) ** gamma * p[c].log())
        losses.append(loss)
    return losses


def close(losses: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(losses.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=2e-4)


@settings(deadline=None)
@given(case=batches(), gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
def test_focal_is_its_formula(case: Any, gamma: Any) -> None:
    logits, batch = case
    close(Focal(gamma)(logits, batch), by_the_formula(logits, batch, gamma=gamma))


@settings(deadline=None)
@given(case=batches(), smoothing=st.sampled_from([0.0, 0.1, 0.9]))
def test_cross_entropy_with_and_without_smoothing_is_its_formula(case: Any, smoothing: Any) -> None:
    logits, batch = case
    close(CrossEntropy(smoothing)(logits, batch), by_the_formula(logits, batch, smoothing=smoothing))


@settings(deadline=None)
@given(case=batches())
def test_focal_without_focus_is_the_cross_entropy(case: Any) -> None:
    logits, batch = case
    torch.testing.assert_close(Focal(0.0)(logits, batch), CrossEntropy(0.0)(logits, batch))


@settings(deadline=None)
@given(case=batches(sources=1), smoothing=st.sampled_from([0.0, 0.1, 0.5]))
def test_smoothing_is_torch_s(case: Any, smoothing: Any) -> None:
    logits, batch = case
    expected = F.cross_entropy(logits, batch.label[:, 0], reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(CrossEntropy(smoothing)(logits, batch), expected)


@pytest.mark.parametrize("loss", [CrossEntropy(0.0), CrossEntropy(0.1), Focal(0.0), Focal(0.5), Focal(2.0)], ids=repr)
def test_an_image_made_of_itself_several_times_has_the_loss_of_the_plain_image(loss: CrossEntropy | Focal) -> None:
    logits = torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(0))
    plain = loss(logits, labelled([[0], [4], [2]], [[1.0]] * 3))
    torch.testing.assert_close(loss(logits, labelled([[0] * 3, [4] * 3, [2] * 3], [[0.5, 0.25, 0.25]] * 3)), plain)
    other = loss(logits, labelled([[0, 1], [4, 4], [2, 1]], [[1.0, 0.0]] * 3))  # a source with a share of 0
    torch.testing.assert_close(other, plain)


def test_focal_loss_of_a_solved_image_is_small_and_its_numbers_are_known() -> None:
    """At p = 0.9 it is 100 times smaller than the cross-entropy, as in the paper's section 3.2."""
    p = torch.tensor([[0.9, *[0.02] * 5]])
    batch = labelled([[0]], [[1.0]])
    ratio = CrossEntropy(0.0)(p.log(), batch) / Focal(2.0)(p.log(), batch)
    assert ratio.item() == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize(
    "loss", [CrossEntropy(0.0), CrossEntropy(0.1), *map(Focal, (0.0, 0.01, 0.5, 1.0, 2.0))], ids=repr
)
@pytest.mark.parametrize("margin", [0.0, 1e-3, 1.0, 10.0, 16.0, 17.0, 30.0, 100.0, 1e4, 1e30])
def test_losses_and_gradients_are_finite_where_p_is_1_or_0(
    loss: CrossEntropy | Focal, sources: int, margin: float
) -> None:
    for sign in (1, -1):
        logits = torch.zeros(1, CLASSES)
        logits[0, 2] = sign * margin
        logits.requires_grad_()
        losses = loss(logits, labelled([[2] * sources], [[1 / sources] * sources]))
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert losses.isfinite().all()
        assert gradient.isfinite().all()
        assert losses.item() >= 0


def test_the_gradient_of_focal_is_that_of_its_formula_also_where_p_is_near_1() -> None:
    for margin in (0.0, 3.0, 8.0, 12.0, 20.0):
        logits = torch.tensor([[margin, *[0.0] * 5]], requires_grad=True)
        (gradient,) = torch.autograd.grad(Focal(2.0)(logits, labelled([[0]], [[1.0]])).sum(), logits)
        exact = logits.detach().double().requires_grad_()
        rest = exact[0, 1:].exp().sum() / exact[0].exp().sum()  # 1 - p, without the cancellation
        (expected,) = torch.autograd.grad(-(rest**2) * torch.log1p(-rest), exact)
        torch.testing.assert_close(gradient.double(), expected, atol=1e-12, rtol=1e-3)


@pytest.mark.parametrize("gamma", [-0.1, float("inf"), float("nan")])
def test_a_gamma_outside_of_its_range_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="must be at least 0"):
        Focal(gamma)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_a_smoothing_outside_of_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        CrossEntropy(smoothing)


# ---- in a run


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_trains_with_its_loss_and_tests_with_the_cross_entropy(
    loss: str, experiment_for: Callable[..., Experiment], tmp_path: Path
) -> None:
    done = here(f"loss={loss} model.width=4 epochs=6 evaluations=3 device=cpu", tmp_path)
    assert done.code == 0, done.err
    experiment = experiment_for(f"loss={loss}")
    data, _ = prepare(experiment)
    net = CNN(width=4).build(1, 10)
    net.load_state_dict(torch.load(done.folder / "checkpoint.pt", weights_only=True)["model"])
    with torch.no_grad():
        logits = net.eval()(Normalize(data, torch.device("cpu"))(data.test_images))
    expected = F.cross_entropy(logits.double(), data.test_labels).item()
    assert done.result["test_loss"] == pytest.approx(expected, rel=1e-4)
    lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert lines[-1]["test_accuracy"] > 0.8


@pytest.mark.parametrize("loss", LOSSES)
def test_the_first_update_of_a_run_is_made_on_its_loss(
    loss: str, experiment_for: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """train_loss after one update is the loss's mean over the batch that the untrained network was given."""
    from budgetrun.train import run
    from budgetrun.training.diagnostics import Diagnostics

    experiment = experiment_for(f"loss={loss}", "model.width=4", "epochs=1", "evaluations=22")
    seen = []
    monkeypatch.setattr(Diagnostics, "observe", lambda self, batch: seen.append(batch))
    monkeypatch.setattr(Diagnostics, "line", lambda self: {})
    run(experiment)
    torch.manual_seed(experiment.settings.seed)
    net = CNN(width=4).build(1, 10)
    data, _ = prepare(experiment)
    with torch.no_grad():
        logits = net(Normalize(data, torch.device("cpu"))(seen[0].images))
    (folder,) = (p for p in Path(experiment.settings.output_dir).iterdir() if p.is_dir())
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert line["updates"] == 1
    assert line["train_loss"] == pytest.approx(experiment.loss(logits, seen[0]).mean().item(), rel=1e-5)


def test_the_divergence_of_predictions_is_that_worked_out_by_hand() -> None:
    sure = torch.tensor([[40.0, 0.0], [0.0, 40.0]])
    equal = torch.zeros(1, 2)
    one, other = sure[:1], sure[1:]
    # of views [V, 1, classes]: log 2 - 0; the entropy of (2/3, 1/3); that of (3/4, 1/4) less half of log 2
    torch.testing.assert_close(divergence(torch.stack([one, other])), torch.tensor([math.log(2)]))
    expected = math.log(3) - 2 / 3 * math.log(2)
    torch.testing.assert_close(divergence(torch.stack([one, other, one])), torch.tensor([expected]))
    expected = math.log(4) - 3 / 4 * math.log(3) - math.log(2) / 2
    torch.testing.assert_close(divergence(torch.stack([one, equal])), torch.tensor([expected]))
    same = torch.randn(1, 5, 7).expand(3, 5, 7)
    torch.testing.assert_close(divergence(same), torch.zeros(5), atol=1e-6, rtol=0)
