"""Streams of augmented examples: what is drawn, in which order, and how much is augmented ahead of time."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from cli import AUGS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import CenterCrop

from budgetrun.aug.cutmix import CutMix
from budgetrun.aug.mixup import Mixup
from budgetrun.aug.ricap import RICAP
from budgetrun.config import Experiment
from budgetrun.contracts import Augmentation, Batch, Data, Random, Resizes
from budgetrun.training import views
from budgetrun.training.data import Normalize
from budgetrun.training.views import Stream, Views

CPU = torch.device("cpu")
N = 400
CLASSES = 7


def labels_of(index: Tensor) -> Tensor:
    return 3 * index % CLASSES


def coded(index: Tensor) -> Tensor:
    """Images [B, 2, 4, 4] whose pixels encode the number of their example, beyond 255 too."""
    return torch.stack([index % 256, index // 256], 1).to(torch.uint8)[:, :, None, None].expand(-1, -1, 4, 4)


def view_of(*steps: Augmentation, ahead: int | None = None, seed: int = 0) -> Views:
    """Views of N coded images; ahead: how many are augmented at once, if not the default."""
    index = torch.arange(N)
    images, labels = coded(index).contiguous(), labels_of(index)
    data = Data(images, labels, images[:1], labels[:1], [0.5] * 2, [0.5] * 2, flip=True, padding=1, classes=CLASSES)
    view = Views(data, steps, Random.seeded(seed, "aug", CPU))
    if ahead is not None:
        view.ahead = ahead
    return view


@dataclass
class Step:
    """Counts the images that it is given at once, and changes each by `change`."""

    change: Callable[[Tensor], Tensor] = field(default=lambda images: images)
    given: list[int] = field(default_factory=list)

    def __call__(self, batch: Batch, random: Random) -> Batch:
        self.given.append(len(batch))
        batch.images = self.change(batch.images)
        return batch


@dataclass
class EachImage(Step):
    image_wise: ClassVar[bool] = True


@dataclass
class Noise:
    """Adds a separate random number to every image."""

    image_wise: ClassVar[bool] = True

    def __call__(self, batch: Batch, random: Random) -> Batch:
        some = torch.randint(256, (len(batch), 1, 1, 1), generator=random.device, dtype=torch.uint8)
        batch.images = batch.images + some + random.host.integers(3)
        return batch


class Draws:
    """A plan of draws of these lengths, over and over; asked: how many draws were asked for."""

    def __init__(self, lengths: list[int], seed: int = 0) -> None:
        self.lengths, self.random, self.asked = itertools.cycle(lengths), Random.seeded(seed, "sampler", CPU), 0
        self.drawn: list[Tensor] = []

    def __call__(self) -> Tensor:
        self.asked += 1
        self.drawn.append(torch.randint(N, (next(self.lengths),), generator=self.random.device))
        return self.drawn[-1]


# ---- what is drawn


@settings(deadline=None, max_examples=200)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=25),
    ahead=st.integers(0, 90),
)
def test_batches_are_the_plan_in_order_and_the_plan_is_asked_only_when_a_draw_is_used_up(
    lengths: Any, counts: Any, ahead: Any
) -> None:
    plan = Draws(lengths)
    stream = Stream(plan, view_of(EachImage(), ahead=ahead))
    taken: list[Batch] = []
    for count in counts:
        taken.append(stream.take(count))
        assert len(taken[-1]) == count
        # the draws before the last one asked for are used up, and the last one is begun
        so_far = sum(map(len, taken))
        assert sum(map(len, plan.drawn[:-1])) < so_far <= sum(map(len, plan.drawn))
    batch = Batch.cat(taken)
    expected = torch.cat(plan.drawn)[: len(batch)]
    assert torch.equal(batch.drawn, expected)
    assert torch.equal(batch.index, expected[:, None])
    assert torch.equal(batch.label, labels_of(expected)[:, None])
    assert torch.equal(batch.images, coded(expected))
    assert torch.equal(batch.share, torch.ones(len(batch), 1))
    assert batch.weight is None


@pytest.mark.parametrize("images", [0, 1, 10, 1000])
def test_how_many_bytes_are_augmented_ahead_changes_no_example(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    monkeypatch.setattr(views, "AHEAD_BYTES", images * 2 * 4 * 4)
    view = view_of(EachImage())
    assert view.ahead == images
    stream = Stream(Draws([33, 50]), view)
    batches = [stream.take(count) for count in (10, 10, 25, 1, 40, 10)]
    expected = Draws([33, 50])
    assert torch.equal(Batch.cat(batches).drawn, torch.cat([expected() for _ in range(3)])[:96])


# ---- what is augmented ahead


def test_steps_that_change_each_image_by_itself_are_applied_to_several_batches_at_once() -> None:
    step = EachImage()
    stream = Stream(Draws([70, 35]), view_of(step, ahead=45))
    takes = []
    for _ in range(11):
        before = len(step.given)
        stream.take(10)
        takes.append(step.given[before:])
    # whole batches of up to 45 images until the draw ends; if it ends within a batch, the next draw completes that
    # batch and goes on with whole batches
    assert takes == [[40], [], [], [], [30], [], [], [35], [], [], [45]]


def test_images_larger_than_what_is_made_ahead_are_augmented_a_batch_at_a_time() -> None:
    step = EachImage()
    stream = Stream(Draws([64]), view_of(step, ahead=3))
    for _ in range(6):
        stream.take(8)
    assert step.given == [8] * 6


@settings(deadline=None, max_examples=50)
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=12), ahead=st.integers(0, 200))
def test_a_step_that_does_not_say_image_wise_gets_one_batch_at_a_time_and_so_does_what_follows_it(
    counts: Any, ahead: Any
) -> None:
    """Three steps that do not commute: an image-wise one may go ahead only where nothing before it mixes."""
    first, user, last = EachImage(lambda x: x // 2), Step(lambda x: x + 1), EachImage(lambda x: x * 2)
    stream = Stream(Draws([37]), view_of(first, user, last, ahead=ahead))
    batches = [stream.take(count) for count in counts]
    assert user.given == last.given == counts
    assert sum(first.given) >= sum(counts)
    for batch in batches:
        assert torch.equal(batch.images, (coded(batch.drawn) // 2 + 1) * 2)


def test_a_view_outside_of_a_stream_is_one_batch_through_all_steps_in_order() -> None:
    steps = EachImage(lambda x: x // 2), Step(lambda x: x + 1), EachImage(lambda x: x * 2)
    view, index = view_of(*steps), torch.tensor([300, 7, 7])
    batch = view(index)
    assert torch.equal(batch.images, (coded(index) // 2 + 1) * 2)
    assert torch.equal(batch.drawn, index)
    assert [step.given for step in steps] == [[3]] * 3
    assert torch.equal(view.plain(index).images, coded(index))
    assert [step.given for step in steps] == [[3]] * 3


def test_the_data_set_is_never_changed_by_a_step_that_works_in_place() -> None:
    view = view_of(EachImage(lambda x: x.fill_(9)), Step(lambda x: x.add_(1)))
    stream = Stream(Draws([20]), view)
    assert (stream.take(15).images == 10).all()
    assert torch.equal(view.data.images, coded(torch.arange(N)))


def test_mixup_draws_one_lambda_per_batch_and_partners_within_it() -> None:
    stream = Stream(Draws([100]), view_of(EachImage(), Mixup(alpha=0.5, draw="batch"), ahead=1000))
    lambdas = []
    for count in (16, 16, 30, 16, 50):
        batch = stream.take(count)
        assert batch.share.unique(dim=0).shape == (1, 2)
        lambdas.append(batch.share[0, 0].item())
        assert torch.equal(batch.index[:, 0], batch.drawn)
        assert sorted(batch.index[:, 1].tolist()) == sorted(batch.drawn.tolist())
        assert torch.equal(batch.label, labels_of(batch.index))
        pair = coded(batch.index.flatten()).float().unflatten(0, (count, 2))
        expected = (batch.share[:, :, None, None, None] * pair).sum(1)
        torch.testing.assert_close(batch.images, expected, atol=1e-3, rtol=0)
    assert len(set(lambdas)) == 5


@pytest.mark.parametrize("mix", [Mixup(0.5, "image"), CutMix(1.0, "image", 1.0), RICAP(0.3, "image")])
def test_mixed_pixels_are_those_of_the_sources_that_the_batch_names(mix: CutMix | Mixup | RICAP) -> None:
    """The mean pixels of an image are the codes of its sources, weighted by their shares."""
    stream = Stream(Draws([90, 11]), view_of(EachImage(), mix, ahead=1000))
    for count in (16, 30, 16, 50):
        batch = stream.take(count)
        codes = (batch.share[:, :, None] * torch.stack([batch.index % 256, batch.index // 256], 2)).sum(1)
        torch.testing.assert_close(batch.images.float().mean((2, 3)), codes, atol=1e-2, rtol=0)
        assert torch.equal(batch.label, labels_of(batch.index))
        assert {*batch.index.flatten().tolist()} <= {*batch.drawn.tolist()}


@pytest.mark.parametrize("aug", AUGS)
def test_an_augmentation_says_image_wise_if_and_only_if_no_image_depends_on_another(
    experiment_for: Callable[..., Experiment], aug: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    some = torch.randint(256, (32, 3, 16, 16), generator=generator, dtype=torch.uint8)
    other = some.clone()
    other[8:] = torch.randint(256, (24, 3, 16, 16), generator=generator, dtype=torch.uint8)
    index = torch.arange(32)[:, None]
    for step in experiment_for(f"aug={aug}", "dataset.flip=true").aug:
        results = [
            step(
                Batch(images.clone(), index, index, torch.ones(32, 1), drawn=index[:, 0]), Random.seeded(1, "aug", CPU)
            )
            for images in (some, other)
        ]
        alone = torch.equal(results[0].images[:8], results[1].images[:8])
        # a step that follows the progress cannot be applied ahead of time
        assert getattr(step, "image_wise", False) == (alone and not isinstance(step, Resizes)), step


# ---- the state


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state or []
    return [tensor for value in values for tensor in tensors(value)]


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    before=st.lists(st.integers(1, 30), max_size=8),
    after=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    ahead=st.integers(0, 90),
)
def test_a_stream_goes_on_from_a_saved_file_bit_for_bit(lengths: Any, before: Any, after: Any, ahead: Any) -> None:
    def start(seed: int) -> tuple[Draws, Views, Stream]:
        plan, view = Draws(lengths, seed), view_of(Noise(), Mixup(0.3, "image"), ahead=ahead, seed=seed)
        return plan, view, Stream(plan, view)

    plan, view, stream = start(0)
    for count in before:
        stream.take(count)
    file = io.BytesIO()
    state = stream.state_dict()
    # a slice of a draw would carry all of its memory into the file
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors(state))
    torch.save([state, plan.random.state_dict(), view.random.state_dict()], file)
    asked = plan.asked
    on = [stream.take(count) for count in after]

    plan, view, stream = start(1)
    plan.lengths = itertools.islice(itertools.cycle(lengths), asked, None)
    file.seek(0)
    for part, state in zip((stream, plan.random, view.random), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    for one, other in zip(on, [stream.take(count) for count in after], strict=True):
        for name, value in vars(one).items():
            assert (value is None and getattr(other, name) is None) or torch.equal(value, getattr(other, name)), name


# ---- its time


def test_the_stopwatch_counts_gathering_and_every_step_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def taking(seconds: float) -> Callable[[Tensor], Tensor]:
        def change(images: Tensor) -> Tensor:
            nonlocal now
            now += seconds
            return images

        return change

    view = view_of(EachImage(taking(1.0)), Step(taking(0.25)), ahead=20)
    plan = Draws([40])

    def slow_plan() -> Tensor:
        nonlocal now
        now += 100
        return plan()

    stream = Stream(slow_plan, view)
    for _ in range(4):
        stream.take(10)
        now += 10
    assert view.stopwatch.seconds() == 2 * 1.0 + 4 * 0.25


# ---- the part of an image that the model sees


class Whole:
    """A first step that takes whole images."""

    takes_whole = image_wise = True

    def __call__(self, batch: Batch, random: Random) -> Batch:
        assert batch.images.shape[2:] == (7, 7)
        batch.images = batch.images[:, :, :4, :4]
        return batch


def test_the_model_sees_the_middle_unless_the_first_step_takes_another_part() -> None:
    images = torch.arange(49, dtype=torch.uint8).view(1, 1, 7, 7).repeat(3, 1, 1, 1)
    labels = torch.zeros(3, dtype=torch.int64)
    data = Data(images, labels, images, labels, [0.5], [0.25], flip=False, padding=0, classes=2, crop=4)
    index, seen = torch.arange(2), []

    def view(*steps: Any) -> Views:
        return Views(data, steps, Random.seeded(0, "aug", CPU))

    def look(batch: Batch, random: Random) -> Batch:
        seen.append(batch.images.clone())
        return batch

    middle = images[:2, :, 2:6, 2:6]  # as torchvision's CenterCrop: round(1.5) is 2
    assert torch.equal(view(look)(index).images, middle)
    assert torch.equal(seen[0], middle)
    assert torch.equal(view(Whole(), look)(index).images, images[:2, :, :4, :4])
    assert torch.equal(CenterCrop(4)(images[:2]), middle)
    normalize = Normalize(data, CPU)
    torch.testing.assert_close(normalize(view().plain(index).images), (middle / 255 - 0.5) / 0.25)
    torch.testing.assert_close(normalize(middle), (middle / 255 - 0.5) / 0.25)
