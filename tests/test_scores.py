"""What each scorer says about an example, against numbers worked out by hand, and the files that store it."""

from __future__ import annotations

import functools
import io
import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cli import CONF, before_update, checked, here, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from samplers import through_a_file
from states import interrupt
from torch import Tensor, nn

from budgetrun import acquisition
from budgetrun.acquisition import ACQUISITIONS
from budgetrun.config import build
from budgetrun.contracts import Batch, Context, Scorer, UserError
from budgetrun.folder import scorefile
from budgetrun.loss.cross_entropy import CrossEntropy
from budgetrun.loss.focal import Focal
from budgetrun.model.cnn import CNN
from budgetrun.scores.ensemble import Ensemble
from budgetrun.scores.forgetting import Forgetting
from budgetrun.scores.grand import GraNd
from budgetrun.scores.logits import SCORES as FUNCTIONS
from budgetrun.scores.logits import LogitScores, el2n, margin
from budgetrun.scores.memorization import Memorization
from budgetrun.scores.moderate import Moderate
from budgetrun.scores.moso import MoSo
from budgetrun.scores.prototypes import Prototypes
from budgetrun.training.budget import Flops, model_flops
from budgetrun.training.looks import Looks
from budgetrun.training.network import Network

CPU = torch.device("cpu")
SCORES = sorted(p for p in (CONF / "scores").glob("*.yaml") if p.stem != "none")
RUN = {"dataset_fingerprint": "0123456789abcdef", "labels_fingerprint": "fedcba9876543210"}


def batch_of(index: list[list[int]], label: list[list[int]], share: list[list[float]] | None = None) -> Batch:
    rows = torch.tensor(index)
    shares = torch.ones(rows.shape) / rows.shape[1] if share is None else torch.tensor(share)
    return Batch(torch.zeros(len(rows), 1, 1, 1), rows, torch.tensor(label), shares, drawn=rows[:, 0])


def predicting(classes: list[int]) -> Tensor:
    return F.one_hot(torch.tensor(classes), 4).float()


# ---- forgetting


def presented(context_for: Callable[..., Any], never: str, n: int, sequence: list[dict[int, bool]]) -> list[float]:
    """The scores after batches in which these examples are right or wrong."""
    scorer = Forgetting(never=never)
    scorer.start(context_for(n, 4))
    for right in sequence:
        labels = [[i % 4] for i in right]
        answers = [i % 4 if is_right else (i + 1) % 4 for i, is_right in right.items()]
        scorer.observe(batch_of([[i] for i in right], labels), torch.zeros(len(right)), predicting(answers))
    scores: list[float] = scorer.scores()["score"].tolist()
    return scores


def test_an_example_is_forgotten_when_it_goes_from_correct_to_wrong(context_for: Callable[..., Context]) -> None:
    # 0: right, wrong, right, wrong; 1: always right; 2: wrong, right, wrong, right; 3: never right; 4: never seen
    sequence = [
        {0: True, 1: True, 2: False, 3: False},
        {0: False, 2: True},
        {0: True, 1: True, 2: False, 3: False},
        {0: False, 2: True, 3: False},
    ]
    assert presented(context_for, "epochs", 5, sequence) == [2, 0, 1, 4, 4]  # the most presentations of one: 4
    assert presented(context_for, "zero", 5, sequence) == [2, 0, 1, 0, 0]


@settings(deadline=None, max_examples=50)
@given(
    sequence=st.lists(st.dictionaries(st.integers(0, 5), st.booleans(), min_size=1), min_size=1, max_size=12),
    never=st.sampled_from(["epochs", "zero"]),
)
def test_forgetting_is_the_number_of_falling_steps_of_each_example_s_history(
    context_for: Callable[..., Context], sequence: Any, never: Any
) -> None:
    history: dict[int, list[bool]] = {i: [right[i] for right in sequence if i in right] for i in range(6)}
    most = max(map(len, history.values()))
    expected = []
    for past in history.values():
        falls = sum(before and not after for before, after in itertools.pairwise(past))
        expected.append(falls if any(past) or never == "zero" else most)
    assert presented(context_for, never, 6, sequence) == expected


def test_a_mixed_image_is_a_presentation_of_the_example_that_it_shows_most_of(
    context_for: Callable[..., Context],
) -> None:
    scorer = Forgetting(never="zero")
    scorer.start(context_for(4, 2))
    batch = batch_of([[0, 1], [2, 3]], [[0, 1], [2, 3]], [[0.7, 0.3], [0.4, 0.6]])
    scorer.observe(batch, torch.zeros(2), predicting([0, 3]))  # 0 and 3 are right; 1 and 2 are not asked about
    scorer.observe(batch, torch.zeros(2), predicting([1, 2]))  # the labels of the lesser sources: 0 and 3 are wrong
    assert scorer.scores()["score"].tolist() == [1, 0, 0, 1]
    assert scorer.presentations.tolist() == [2, 0, 0, 2]


def test_an_example_twice_in_a_batch_is_presented_once_and_right_only_if_both_are(
    context_for: Callable[..., Context],
) -> None:
    scorer = Forgetting(never="zero")
    scorer.start(context_for(2, 2))
    twice = batch_of([[0], [0]], [[0], [0]])
    scorer.observe(twice, torch.zeros(2), predicting([0, 0]))
    scorer.observe(twice, torch.zeros(2), predicting([0, 1]))
    assert scorer.presentations.tolist() == [2, 0]
    assert scorer.scores()["score"].tolist() == [1, 0]


# ---- functions of the logits


def test_the_functions_of_the_logits_are_those_worked_out_by_hand() -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.0, 1.0, 0.0]]).log()
    label = torch.tensor([[0], [2], [1]])
    expected = [math.sqrt(0.3**2 + 0.2**2 + 0.1**2), math.sqrt(0.7**2 + 0.2**2 + 0.9**2), 0.0]
    torch.testing.assert_close(el2n(logits, label), torch.tensor(expected))
    torch.testing.assert_close(margin(logits, label), torch.tensor([-0.5, 0.6, -1.0]))  # the second is wrong
    unsure = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    torch.testing.assert_close(FUNCTIONS["entropy"](logits, label), torch.tensor([unsure, unsure, 0.0]))
    torch.testing.assert_close(FUNCTIONS["least_confidence"](logits, label), torch.tensor([0.3, 0.3, 0.0]))


@pytest.mark.parametrize("score", ["el2n", "loss", "margin", "entropy", "least_confidence"])
def test_a_harder_example_has_a_higher_score(context_for: Callable[..., Context], score: str) -> None:
    logits = torch.tensor([[4.0, 0, 0, 0], [1, 2, 0, 0], [1, 0, 2.1, 0], [0, 0, 0, 0.5]])
    sizes = []

    def look(batch: Batch) -> tuple[Tensor, Tensor]:
        sizes.append(len(batch))
        return F.cross_entropy(logits[batch.drawn], batch.label[:, 0], reduction="none"), logits[batch.drawn]

    scorer = LogitScores(score=score, of="training")
    scorer.start(context_for(4, 3, look=look))
    easy, _, _, unsure = scorer.scores()["score"].tolist()
    assert easy < unsure
    assert sizes == [3, 1]  # everything once, in parts


def test_the_images_that_are_scored_are_not_augmented(context_for: Callable[..., Context]) -> None:
    from budgetrun.aug.ricap import RICAP

    images = []

    def look(batch: Batch) -> tuple[Tensor, Tensor]:
        images.append(batch.images)
        return torch.zeros(len(batch)), torch.zeros(len(batch), 4)

    context = context_for(10, 4, look=look, aug=(RICAP(beta=0.3, draw="image"),))
    scorer = LogitScores(score="loss", of="training")
    scorer.start(context)
    scorer.scores()
    assert torch.equal(torch.cat(images), context.view.data.images)


def test_of_validation_scores_the_held_out_examples_in_their_order(context_for: Callable[..., Context]) -> None:
    held = batch_of([[i] for i in range(5)], [[3]] * 5)
    scorer = LogitScores(score="loss", of="validation")
    scorer.start(context_for(10, 2, validation=held, look=lambda batch: (batch.drawn * 10.0, torch.zeros(1, 4))))
    assert scorer.scores()["score"].tolist() == [0, 10, 20, 30, 40]


# ---- GraNd


class Small(nn.Module):
    """A convolution, BatchNorm with some history, and two linear layers of which the last has a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))
        self.last = nn.Linear(5, 4)
        self.features(torch.randn(50, 3, 8, 8))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.last(self.features(images).relu())
        return out


class SmallModel:
    def build(self, channels: int, classes: int) -> nn.Module:
        return Small()


class Spent:
    """Counts what is charged."""

    def __init__(self) -> None:
        self.images, self.flops = 0, 0

    def charge_look(self, images: int, flops: int) -> None:
        self.images += images
        self.flops += images * flops


@pytest.fixture
def trained(context_for: Callable[..., Context], monkeypatch: pytest.MonkeyPatch) -> Any:
    """For a loss: a context over 11 examples that looks with a real network, the network, and the looks' charges."""

    def make(loss: Any) -> tuple[Any, nn.Module, Spent]:
        data = replace(context_for(11, 4).view.data, mean=[0.0] * 3, std=[1.0] * 3)
        network = Network(SmallModel(), replace(checked("device=cpu"), loss=loss), data, torch.device("cpu"))
        spent = Spent()
        monkeypatch.setattr(network, "cost", lambda images, scale=1.0: Flops(3, 10))
        looks = Looks(network, spent, part=4)
        own = {name: getattr(looks, name) for name in ("look", "embed", "gradient_norms", "logit_gradients")}
        return context_for(11, 4, **own), network.net, spent

    return make


def norms_one_by_one(context: Any, net: nn.Module, loss: Any, parameters: list[nn.Parameter]) -> Tensor:
    net.eval()
    norms = []
    for i in range(11):
        image = context.view.plain(torch.tensor([i]))
        gradients = torch.autograd.grad(loss(net(image.images.float() / 255), image)[0], parameters)
        norms.append(torch.cat([g.flatten() for g in gradients]).norm())
    return torch.stack(norms)


@pytest.mark.parametrize("loss", [CrossEntropy(0.0), CrossEntropy(0.2), Focal(2.0)], ids=repr)
@pytest.mark.parametrize("parameters", ["all", "last"])
def test_grand_is_the_norm_that_a_loop_over_the_examples_finds(
    trained: Any, parameters: str, loss: CrossEntropy | Focal
) -> None:
    context, net, spent = trained(loss)
    scorer = GraNd(parameters=parameters)
    scorer.start(context)
    scores = scorer.scores()["score"]
    assert net.training
    own = list(net.parameters() if parameters == "all" else net.last.parameters())
    torch.testing.assert_close(scores, norms_one_by_one(context, net, loss, own), rtol=1e-4, atol=1e-6)
    assert spent.flops == 11 * (10 if parameters == "all" else 3)


# ---- ensembles


def test_the_uncertainties_of_an_ensemble_are_those_worked_out_by_hand(
    context_for: Callable[..., Context],
) -> None:
    """Three members over two classes, labels 0 and 1."""
    members = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.6, 0.4], [0.2, 0.8]], [[0.3, 0.7], [0.2, 0.8]]])
    turn = iter(members.log())
    progress = [0.0]
    scorer = Ensemble(members=3, acquisition="variation_ratio", since=0.0)
    now: list[Tensor] = []

    def look(batch: Batch) -> tuple[Tensor, Tensor]:
        if int(batch.drawn[0]) == 0:
            now[:] = [next(turn)]
        return torch.zeros(len(batch)), now[0][batch.drawn]

    scorer.start(context_for(2, 1, classes=2, look=look, progress=lambda: progress[0]))
    batch = batch_of([[0]], [[0]])
    for progress[0], taken in [(0.0, 0), (0.3, 0), (0.34, 1), (0.5, 1), (0.7, 2), (1.0, 2)]:
        scorer.observe(batch, torch.zeros(1), torch.zeros(1, 2))
        assert scorer.taken == taken
    columns = scorer.scores()

    def h(*p: float) -> float:
        return -sum(x * math.log(x) for x in p)

    mean_h = [(h(0.9, 0.1) + h(0.6, 0.4) + h(0.3, 0.7)) / 3, (h(0.5, 0.5) + 2 * h(0.2, 0.8)) / 3]
    total = [h(0.6, 0.4), h(0.3, 0.7)]
    expected = {
        "entropy": total,
        "mutual_information": [t - m for t, m in zip(total, mean_h, strict=True)],
        "variation_ratio": [1 / 3, 1 / 3],
        "errors": [1, 1],  # a tie of the first member of example 1 goes to class 0
        "least_confidence": [0.4, 0.3],
        "margin": [0.4 - 0.6, 0.3 - 0.7],
        "variance": [0.06, 0.02],  # of 0.9, 0.6, 0.3 and of 0.5, 0.8, 0.8
    }
    assert columns.keys() - {"score"} == expected.keys() == set(ACQUISITIONS)
    for name, values in expected.items():
        torch.testing.assert_close(columns[name], torch.tensor(values, dtype=torch.float32), rtol=1e-5, atol=1e-6)
    assert torch.equal(columns["score"], columns["variation_ratio"])


def test_a_run_of_fewer_updates_than_members_has_as_many_as_it_can(context_for: Callable[..., Context]) -> None:
    progress = [0.0]
    scorer = Ensemble(members=10, acquisition="errors", since=0.0)
    look = lambda batch: (torch.zeros(len(batch)), predicting([0] * len(batch)))  # noqa: E731
    scorer.start(context_for(4, 2, look=look, progress=lambda: progress[0]))
    for progress[0] in (0.0, 0.5, 1.0):
        scorer.observe(batch_of([[0]], [[0]]), torch.zeros(1), torch.zeros(1, 4))
    columns = scorer.scores()  # at 0.5, 1.0 and the end
    assert columns["errors"].tolist() == [0, 3, 3, 3]
    assert columns["variation_ratio"].tolist() == [0, 0, 0, 0]


def test_members_can_come_from_a_later_part_of_the_run_alone(context_for: Callable[..., Context]) -> None:
    progress = [0.0]
    scorer = Ensemble(members=4, acquisition="errors", since=0.6)
    look = lambda batch: (torch.zeros(len(batch)), predicting([0] * len(batch)))  # noqa: E731
    scorer.start(context_for(4, 2, look=look, progress=lambda: progress[0]))
    for progress[0], taken in [(0.0, 0), (0.5, 0), (0.65, 0), (0.701, 1), (0.75, 1), (0.801, 2), (0.901, 3), (1.0, 3)]:
        scorer.observe(batch_of([[0]], [[0]]), torch.zeros(1), torch.zeros(1, 4))
        assert scorer.taken == taken
    assert scorer.scores()["errors"].tolist() == [0, 4, 4, 4]


def members_file(path: Path, p: Tensor, label: Tensor, part: int = 5, **about: Any) -> Path:
    """A file of scores with the sums over these members: p [E, n, classes]."""
    path.parent.mkdir()
    records = [acquisition.of_member(one, label) for one in p]
    total = functools.reduce(acquisition.add, records[1:], records[0])
    acquisition.write(
        path.with_name("sums.npy"), [total[i : i + part] for i in range(0, len(total), part)], *p.shape[1:]
    )
    made = scorefile.additive(path.with_name("sums.npy"), len(p), "entropy")
    return written(path, {"score": torch.zeros(p.shape[1])}, **(made | about))


def slowly(p: Tensor, label: Tensor) -> dict[str, list[float]]:
    """Every acquisition of members p [E, n, classes], example by example."""
    found: dict[str, list[float]] = {name: [] for name in ACQUISITIONS}
    h = lambda row: -sum(x * math.log(x) for x in row if x > 0)  # noqa: E731
    for i, of_example in enumerate(p.double().transpose(0, 1).tolist()):
        mean = [sum(column) / len(of_example) for column in zip(*of_example, strict=True)]
        votes = [row.index(max(row)) for row in of_example]
        right = [row[int(label[i])] for row in of_example]
        found["entropy"].append(h(mean))
        found["mutual_information"].append(h(mean) - sum(map(h, of_example)) / len(of_example))
        found["variation_ratio"].append(1 - max(map(votes.count, votes)) / len(votes))
        found["errors"].append(sum(vote != int(label[i]) for vote in votes))
        found["least_confidence"].append(1 - max(mean))
        found["margin"].append(sorted(mean)[-2] - sorted(mean)[-1])
        found["variance"].append(float(np.var(right)))
    return found


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 1),
    classes=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_the_files_of_several_runs_are_one_ensemble_of_all_their_members_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], classes: int, seed: int
) -> None:
    folder, random = tmp_path_factory.mktemp("runs"), torch.Generator().manual_seed(seed)
    p = (4 * torch.randn(sum(sizes), 12, classes, generator=random)).softmax(2)
    label = torch.randint(classes, (12,), generator=random)
    files = [
        str(members_file(folder / str(number) / "scores.csv", part, label, part=1 + seed % 12))
        for number, part in enumerate(p.split(sizes))
    ]
    for name, expected in slowly(p, label).items():
        for order in (files, files[::-1]):
            columns, *_ = scorefile.read(",".join(order), "sampler.file", RUN, 12, name)
            np.testing.assert_allclose(columns["score"], expected, atol=1e-6)
    columns, *_ = scorefile.read(",".join(files), "sampler.file", RUN, 12)
    np.testing.assert_allclose(columns["score"], slowly(p, label)["entropy"], atol=1e-6)


def test_the_files_of_an_ensemble_keep_the_mean_recall_of_the_classes(tmp_path: Path) -> None:
    p, label = torch.rand(2, 4, 3).softmax(2), torch.arange(4) % 3
    files = []
    for name, recall in (("a", 0.25), ("b", 0.75)):
        path = members_file(tmp_path / name / "scores.csv", p, label)
        _, about = scorefile.parse(path, "sampler.file")
        files.append(str(written(path, {"score": torch.zeros(4), "recall": torch.full((4,), recall)}, **about)))
    columns, *_ = scorefile.read(",".join(files), "sampler.file", RUN, 4)
    assert columns["recall"].tolist() == [0.5] * 4
    np.testing.assert_allclose(columns["score"], slowly(p, label)["entropy"], atol=1e-6)


def test_files_that_are_not_one_ensemble_are_refused(tmp_path: Path) -> None:
    p, label = torch.rand(2, 4, 3).softmax(2), torch.arange(4) % 3
    files = {
        name: members_file(tmp_path / name / "scores.csv", p[:, :, :classes].softmax(2), label % classes, **about)
        for name, classes, about in [
            ("a", 3, {}),
            ("two", 2, {}),
            ("other", 3, {"acquisition": "errors"}),
            ("odd", 3, {"acquisition": "bald"}),
            ("changed", 3, {"sums": "0" * 64}),
            ("none", 3, {"members": 0}),
            ("unknown", 3, {"kind": "median"}),
            ("alone", 3, {}),
        ]
    }
    files["alone"].with_name("sums.npy").unlink()
    files["mean"] = written(tmp_path / "mean.csv", {"score": torch.ones(4)})

    def refusal(*names: str, n: int = 4, chosen: str | None = None) -> str:
        with pytest.raises(UserError) as error:
            scorefile.read(",".join(str(files[name]) for name in names), "sampler.file", RUN, n, chosen)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "3 classes of" in refusal("a", "two")
    assert "has 4 examples of 3 classes" in refusal("a", n=5)
    assert "name entropy and errors as their score; set sampler.acquisition" in refusal("a", "other")
    assert "of kind mean, and" in refusal("a", "mean")
    files["one"] = members_file(tmp_path / "one" / "scores.csv", p[:1], label)
    assert "has one member, and sampler.acquisition=variance compares several" in refusal("one", chosen="variance")
    assert "sampler.acquisition=errors is for the files of a run with scores=ensemble" in refusal(
        "mean", chosen="errors"
    )
    for name, words in [
        ("odd", "its acquisition is not one of entropy"),
        ("changed", "it is not what the file of scores was made from"),
        ("none", "members is not a whole number from 1"),
        ("unknown", "its kind is not one of mean, ensemble, memorization"),
        ("alone", "needs the sums beside it"),
    ]:
        assert words in refusal(name)
        assert str(files[name]) in refusal(name)


# ---- their state


STATEFUL = ("forgetting", "ensemble", "aum", "dyn_unc", "dual", "tdds", "moso")


@pytest.mark.parametrize("file", [p for p in SCORES if p.stem in STATEFUL], ids=lambda p: p.stem)
def test_a_scorer_goes_on_from_a_saved_file_as_if_it_had_not_stopped(
    context_for: Callable[..., Context], file: Path, tmp_path: Path
) -> None:
    progress = [0.0]
    logits = torch.randn(20, 12, 4, generator=torch.Generator().manual_seed(0))
    step = [0]

    def started(where: str) -> Any:
        scorer = build(OmegaConf.to_container(OmegaConf.load(file)), "scores.", Scorer)
        look = lambda batch: (torch.zeros(len(batch)), logits[step[0], batch.drawn])  # noqa: E731
        embed = lambda batch, scale=1.0: (logits[step[0], batch.drawn, :2], logits[step[0], batch.drawn])  # noqa: E731
        folder = {"state_folder": tmp_path / where}
        scorer.start(context_for(12, 4, look=look, embed=embed, progress=lambda: progress[0], **folder))
        return scorer

    def go(scorer: Any, steps: range) -> None:
        for step[0] in steps:
            progress[0] = step[0] / 19
            index = torch.randperm(12, generator=torch.Generator().manual_seed(step[0]))[:4]
            batch = batch_of(index[:, None].tolist(), (index % 4)[:, None].tolist())
            scorer.observe(batch, torch.zeros(4), logits[step[0], index])

    whole = started("whole")
    go(whole, range(20))
    first = started("parts")
    go(first, range(11))
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    second = started("parts")
    second.load_state_dict(torch.load(saved, weights_only=True))
    go(second, range(11, 20))
    expected, found = whole.scores(), second.scores()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert len(set(expected["score"].tolist())) > 2


# ---- memorization


def test_memorization_counts_whether_an_example_was_trained_on_and_is_right(
    context_for: Callable[..., Context],
) -> None:
    logits = torch.eye(2)[torch.tensor([0, 1, 1, 1, 0, 0])]  # the labels are 0, 1, 0, 1, 0, 1
    context = context_for(6, 2, classes=2, look=lambda batch: (torch.zeros(len(batch)), logits[batch.drawn]))
    earlier, scorer = Memorization(), Memorization()  # the second goes on from the state of the first
    earlier.start(context)
    earlier.observe(batch_of([[0, 2]], [[0, 0]]), torch.zeros(1), torch.zeros(1, 2))  # a mixed image
    scorer.start(context)
    scorer.load_state_dict(through_a_file(earlier.state_dict()))
    scorer.observe(batch_of([[2, 3]], [[0, 1]]), torch.zeros(1), torch.zeros(1, 2))
    columns = {name: column.tolist() for name, column in scorer.scores().items()}
    assert columns == {
        "in": [1, 0, 1, 1, 0, 0],
        "in_correct": [1, 0, 0, 1, 0, 0],
        "out": [0, 1, 0, 0, 1, 1],
        "out_correct": [0, 1, 0, 0, 1, 0],
    }


def test_memorization_is_refused_for_a_network_that_has_learnt_before(tmp_path: Path) -> None:
    refused(here("scores=memorization init_from=nowhere.pt", tmp_path), "learns from nothing; leave out init_from")


def test_the_files_of_many_runs_add_up_to_the_memorization(tmp_path: Path) -> None:
    # example 0 is right in 2 of 2 runs with it and in 1 of 2 without; example 1 in 0 of 1, and in 3 of 3
    trained = [[1, 0], [1, 0], [0, 1], [0, 0]]
    right = [[1, 1], [1, 1], [1, 0], [0, 1]]
    files = []
    for number, (there, correct) in enumerate(zip(torch.tensor(trained), torch.tensor(right), strict=True)):
        columns = {"in": there, "in_correct": there * correct, "out": 1 - there, "out_correct": (1 - there) * correct}
        files.append(str(written(tmp_path / f"{number}.csv", columns, kind="memorization")))
    columns, *_ = scorefile.read(",".join(files), "sampler.file", RUN, 2)
    torch.testing.assert_close(columns["score"], torch.tensor([1 - 1 / 2, 0 - 1.0]))
    with pytest.raises(UserError, match=r"1 of 2 examples were in all or in none of these 2 runs' data; add runs"):
        scorefile.read(f"{files[0]},{files[3]}", "sampler.file", RUN, 2)
    impossible = {
        "in": torch.ones(2),
        "in_correct": 9 * torch.ones(2),
        "out": torch.ones(2),
        "out_correct": torch.ones(2),
    }
    with pytest.raises(UserError, match="counts more correct runs than runs"):
        scorefile.read(str(written(tmp_path / "0.csv", impossible, kind="memorization")), "sampler.file", RUN, 2)
    written(tmp_path / "0.csv", {"score": torch.ones(2)}, kind="memorization")
    with pytest.raises(UserError, match=r"it has no column in\)"):
        scorefile.read(files[0], "sampler.file", RUN, 2)


# ---- files


def written(path: Path, columns: dict[str, Tensor], **about: Any) -> Path:
    scorefile.write(path, columns, {**RUN, "flops": 100, **about})
    return path


@settings(deadline=None, max_examples=40)
@given(values=st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=1, max_size=30), seed=st.integers(0, 9))
def test_a_file_gives_back_every_number_in_the_order_of_the_examples(
    tmp_path_factory: pytest.TempPathFactory, values: Any, seed: Any
) -> None:
    path = tmp_path_factory.mktemp("scores") / "scores.csv"
    score = torch.tensor(values, dtype=torch.float32)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    written(path, {"index": order, "score": score[order], "weight": 2 * order.float()})
    columns, runs, _ = scorefile.read(str(path), "sampler.file", RUN, len(values))
    assert columns["index"].tolist() == list(range(len(values)))
    assert torch.equal(columns["score"], score)
    assert torch.equal(columns["weight"], 2 * torch.arange(len(values)).float())
    assert runs == {str(path): 100}


def test_several_files_are_averaged_and_their_costs_added(tmp_path: Path) -> None:
    for number in range(3):
        runs = {"parent": 100, f"run{number}": number + 1}
        score = torch.tensor([1.0, 10.0]) * (number + 1)
        written(tmp_path / f"run{number}.csv", {"score": score}, flops=101 + number, runs=runs)
    columns, runs, _ = scorefile.read(f"{tmp_path}/run*.csv", "sampler.file", RUN, 2)
    torch.testing.assert_close(columns["score"], torch.tensor([2.0, 20.0]))
    assert runs == {"parent": 100, "run0": 1, "run1": 2, "run2": 3}, "a run that led to several files counts once"
    two = f"{tmp_path}/run0.csv,{tmp_path}/run2.csv"
    torch.testing.assert_close(scorefile.read(two, "sampler.file", RUN, 2)[0]["score"], torch.tensor([2.0, 20.0]))


def test_a_file_written_by_hand_needs_only_the_fingerprint_of_the_data_set(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text('# {"dataset_fingerprint": "0123456789abcdef"}\nscore,index\n5,1\n-2.5,0\n')
    columns, runs, methods = scorefile.read(str(tmp_path / "mine.csv"), "sampler.file", RUN, 9)
    assert columns["index"].tolist() == [0, 1]
    assert columns["score"].tolist() == [-2.5, 5]
    assert sum(runs.values()) == 0
    assert methods == ["mine.csv"]


def edited(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return edit


REFUSED = {
    "other data": (edited("0123456789abcdef", "0000000000000000"), "made for other data"),
    "other labels": (edited("fedcba9876543210", "0000000000000000"), "other labels"),
    "cut between two lines": (lambda text: "".join(text.splitlines(keepends=True)[:5]), "it was cut off"),
    "cut within the last number": (lambda text: text[:-3], "it was cut off"),
    "cut within the first line": (lambda text: text[:30], "not a file of scores"),
    "empty": (lambda text: "", "not a file of scores"),
    "no scores": (edited("index,score", "index,value"), "not a file of scores"),
    "a first line that is no comment": (lambda text: "\n".join(text.splitlines()[1:]) + "\n", "not a file of scores"),
    "a first line that is no object": (lambda text: "# 3\n" + text.partition("\n")[2], "not a file of scores"),
    "a word for a number": (edited("0.25", "high"), "not a file of scores"),
    "a cost that is no number": (edited('"flops": 100', '"flops": null'), "not a file of scores"),
    "not a number": (edited("0.25", "nan"), "finite"),
    "an infinite number": (edited("0.25", "inf"), "finite"),
    "a value too many": (edited("0.25", "0.25,1"), "not a file of scores"),
    "a number beyond float32": (edited("0.25", "1e39"), "finite"),
    "an infinite cost": (edited('"flops": 100', '"flops": Infinity'), "flops is not a whole number from 0"),
    "a cost below 0": (edited('"flops": 100', '"flops": -1'), "flops is not a whole number from 0"),
    "a cost of a run below 0": (edited('"flops": 100', '"runs": {"a": -1}'), "flops is not a whole number from 0"),
    "costs that name no runs": (edited('"flops": 100', '"runs": [1]'), "not a file of scores"),
    "a cost twice": (edited('"flops": 100', '"flops": 100, "flops": 1'), "flops more than once"),
    "a first line without end": (lambda text: "# " + 10**5 * "[" + text, "nested too deep"),
    "half an example": (edited("\n3,", "\n2.5,"), "whole numbers"),
    "a column twice": (lambda text: re.sub(r"(?m)^([^#,]*)(,.*)", r"\1\2\2", text), "a column twice"),
    "an example twice": (edited("\n3,", "\n2,"), "at most once"),
    "an example that does not exist": (edited("\n3,", "\n8,"), "from 0 to 7"),
    "an example below 0": (edited("\n3,", "\n-1,"), "from 0 to 7"),
}


@pytest.mark.parametrize(("edit", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_that_does_not_fit_is_refused_in_one_sentence_that_names_it(
    tmp_path: Path, edit: Callable[..., Any], words: str
) -> None:
    path = written(tmp_path / "scores.csv", {"score": torch.arange(8) / 4 + 0.125 * (torch.arange(8) == 7)})
    text = path.read_text()
    scorefile.read(str(path), "sampler.file", RUN, 8)
    path.write_text(edit(text))
    with pytest.raises(UserError, match=words) as refusal:
        scorefile.read(str(path), "sampler.file", RUN, 8)
    assert "sampler.file" in str(refusal.value)
    assert "scores.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_and_files_that_have_no_mean_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\*\.csv cannot be read"):
        scorefile.read(f"{tmp_path}/nothing*.csv", "sampler.file", RUN, 8)
    written(tmp_path / "a.csv", {"score": torch.ones(4)})
    written(tmp_path / "b.csv", {"score": torch.ones(3)})
    written(tmp_path / "c.csv", {"score": torch.ones(4), "weight": torch.ones(4)})
    for other in ("b", "c"):
        with pytest.raises(UserError, match=f"{other}.csv has other columns or examples than"):
            scorefile.read(f"{tmp_path}/a.csv,{tmp_path}/{other}.csv", "sampler.file", RUN, 8)


# ---- runs that write them


def scores_of(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    first, header, *rows = (folder / "scores.csv").read_text().splitlines()
    table = np.array([row.split(",") for row in rows], dtype=float)
    return json.loads(first.removeprefix("#")), dict(zip(header.split(","), table.T, strict=True))


@pytest.mark.parametrize("file", SCORES, ids=lambda p: p.stem)
def test_every_scorer_writes_finite_scores_and_what_they_cost(file: Path, tmp_path: Path) -> None:
    longer = {  # made of several visits of an example
        "dyn_unc": "epochs=4",
        "dual": "epochs=4",
        "tdds": "epochs=6",
        "eva": "epochs=6 scores.early=[0,0.5] scores.late=[0.5,1]",
    }
    line = f"scores={file.stem} budget=0.5 {longer.get(file.stem, 'epochs=1')} validation=0.02 aug=ricap"
    done = here(line, tmp_path)
    assert done.code == 0, done.err
    about, table = scores_of(done.folder)
    assert all(np.isfinite(column).all() for column in table.values())
    assert ("score" in table) == (file.stem != "memorization")
    assert len(set(table["index"])) == len(table["index"]) <= 1408
    assert (about["method"], about["run_id"]) == (file.stem, done.result["run_id"])
    assert about["dataset_fingerprint"] == done.result["dataset_fingerprint"]
    assert about["flops"] >= done.result["flops"]
    assert len(set(table["in_correct" if file.stem == "memorization" else "score"])) > 1


def test_the_cost_of_a_file_counts_the_looks_at_the_end(tmp_path: Path) -> None:
    done = here("scores=el2n budget=0.5 epochs=1 model.width=2", tmp_path)
    forward, update = model_flops(CNN(width=2).build(1, 10), torch.Size((1, 8, 8)))
    assert done.result["flops"] == 11 * 64 * update
    assert scores_of(done.folder)[0]["flops"] == 11 * 64 * update + 1438 * forward


@pytest.mark.parametrize("scores", ["forgetting", "ensemble"])
def test_an_interrupted_run_writes_the_scores_of_an_uninterrupted_one(scores: str, tmp_path: Path) -> None:
    line = f"scores={scores} epochs=2 aug=mixup checkpoint_every=0.01"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    uninterrupted = here(line, whole)
    with before_update(29, "uniform", interrupt):
        interrupted = here(line, parts)
    assert interrupted.code == 130
    if scores == "ensemble":  # the sums are not in the checkpoint, and only those that it needs are left
        assert {path.name for path in (interrupted.folder / "state").iterdir()} == {"sums-6.npy"}
        state = torch.load(interrupted.folder / "checkpoint.pt", weights_only=True)["scores"]
        assert state == {"due": 6, "taken": 6}
    continued = here(line, parts)
    assert "goes on from update 29" in continued.out
    one, other = (scores_of(d.folder) for d in (uninterrupted, continued))
    assert one[0]["flops"] == other[0]["flops"]
    assert all(np.array_equal(one[1][name], other[1][name]) for name in one[1])
    assert one[0].get("sums") == other[0].get("sums")


def test_a_scorer_of_the_held_out_part_needs_one(tmp_path: Path) -> None:
    refused(here("scores=loss scores.of=validation", tmp_path), "scores.of=validation", "set validation")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    [
        "scores=forgetting scores.never=inf",
        "scores=el2n scores.score=el3n",
        "scores=loss scores.of=test",
        "scores=grand scores.parameters=first",
        "scores=ensemble scores.members=1",
        "scores=ensemble scores.acquisition=bald",
        "scores=ensemble scores.since=1",
    ],
)
def test_senseless_scorers_are_refused(line: str, tmp_path: Path) -> None:
    refused(here(line, tmp_path), line.split()[1])


# ---- features


def embedded(context_for: Callable[..., Context], features: Tensor, **others: Any) -> Context:
    """A context in which the network's features of the examples are these; two classes in turn."""
    return context_for(
        len(features),
        4,
        classes=2,
        embed=lambda batch, scale=1.0: (features[batch.index[:, 0]], torch.zeros(len(batch), 2)),
        **others,
    )


def test_moderate_is_highest_at_the_median_distance_from_the_class(context_for: Callable[..., Context]) -> None:
    # class 0: 0, 1, 3, 10 with the median 2, at distances 2, 1, 1, 8
    # class 1: 5, 5.5, 9, 20 with the median 7.25, at distances 2.25, 1.75, 1.75, 12.75
    features = torch.tensor([0.0, 5, 1, 5.5, 3, 9, 10, 20])[:, None]
    distance = np.array([2, 2.25, 1, 1.75, 1, 1.75, 8, 12.75])
    scorer = Moderate(features=None)
    scorer.start(embedded(context_for, features))
    score = scorer.scores()["score"]
    rank = np.argsort(np.argsort(distance, kind="stable"))
    torch.testing.assert_close(score, -(torch.tensor(rank) / 7 - 0.5).abs(), check_dtype=False)
    assert set(score.topk(4).indices.tolist()) == {0, 1, 3, 5}  # 1.75, 1.75, 2 and 2.25


def test_prototypes_are_far_from_the_mean_of_the_class_or_of_the_cluster(context_for: Callable[..., Context]) -> None:
    features = torch.tensor([[1.0, 0], [0, 2], [1, 0], [0, 2], [1, 1.5], [2, 2]])
    scorer = Prototypes(centres=None, features=None)
    scorer.start(embedded(context_for, features))
    means = [features[label::2].mean(0) for label in (0, 1)]
    cosine = [float(x @ means[i % 2] / (x.norm() * means[i % 2].norm())) for i, x in enumerate(features)]
    torch.testing.assert_close(scorer.scores()["score"], 1 - torch.tensor(cosine))
    # two clusters far apart, whatever the labels
    around = 0.1 * torch.tensor([[0.0, 0], [0, 1], [0, -1], [0, 3]])
    clusters = torch.cat([torch.tensor([10.0, 0]) + around, torch.tensor([0, 10.0]) + around])
    scorer = Prototypes(centres=2, features=None)
    scorer.start(embedded(context_for, clusters))
    means = [clusters[:4].mean(0), clusters[4:].mean(0)]
    cosine = [float(x @ means[i // 4] / (x.norm() * means[i // 4].norm())) for i, x in enumerate(clusters)]
    torch.testing.assert_close(scorer.scores()["score"], 1 - torch.tensor(cosine), atol=1e-6, rtol=1e-4)
    # clusters by distance and not by direction
    along = torch.tensor([[1.0, 0], [1, 0.2], [10, 0], [10, 2]])
    scorer = Prototypes(centres=2, features=None)
    scorer.start(embedded(context_for, along))
    means = [along[:2].mean(0), along[2:].mean(0)]
    cosine = [float(x @ means[i // 2] / (x.norm() * means[i // 2].norm())) for i, x in enumerate(along)]
    torch.testing.assert_close(scorer.scores()["score"], 1 - torch.tensor(cosine), atol=1e-6, rtol=1e-4)
    with pytest.raises(UserError, match=r"scores.centres=9 is more than the 8 examples"):
        Prototypes(centres=9, features=None).start(embedded(context_for, clusters))


def test_moso_is_the_agreement_with_the_mean_gradient_at_each_point(context_for: Callable[..., Context]) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = [(torch.randn(8, 3, generator=generator), torch.randn(8, 2, generator=generator)) for _ in range(2)]
    labels = torch.arange(8) % 2

    def agreement(features: Tensor, logits: Tensor) -> Tensor:  # by the gradients themselves
        rows = []
        for feature, logit, label in zip(features, logits, labels, strict=True):
            layer = nn.Linear(3, 2)
            with torch.no_grad():
                layer.bias.copy_(logit - layer.weight @ feature)
            F.cross_entropy(layer(feature)[None], label[None]).backward()
            grads = [parameter.grad for parameter in (layer.weight, layer.bias) if parameter.grad is not None]
            rows.append(torch.cat([grad.flatten() for grad in grads]))
        mean = torch.stack(rows).mean(0)
        return torch.stack([mean @ (row - mean) for row in rows])

    now = 0
    progress = 0.0
    context = context_for(
        8,
        4,
        classes=2,
        progress=lambda: progress,
        embed=lambda batch, scale=1.0: tuple(output[batch.index[:, 0]] for output in outputs[now]),
    )
    scorer = MoSo(points=2, power=1.0)
    scorer.start(context)
    for progress in (0.0, 0.4, 0.5, 0.9):
        scorer.observe(batch_of([[0]], [[0]]), torch.zeros(1), torch.zeros(1, 2))
        assert scorer.taken == (progress >= 0.5)
    now = 1
    vectors = [agreement(*output) for output in outputs]
    expected = sum((point + 1) * vector / vector.norm() for point, vector in enumerate(vectors))
    torch.testing.assert_close(scorer.scores()["score"], expected, atol=1e-5, rtol=1e-4)
