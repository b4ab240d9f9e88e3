"""Noise: how many examples are corrupted, which, and to what; everything else stays clean."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import NOISES, SAMPLERS, here, human_file, needed
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest, truncnorm
from torch import Tensor

from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Context, Data, Random, UserError
from budgetrun.noise.asymmetric import Asymmetric
from budgetrun.noise.gaussian_pixels import GaussianPixels
from budgetrun.noise.human import Human
from budgetrun.noise.instance import Instance
from budgetrun.noise.shuffle_pixels import ShufflePixels
from budgetrun.noise.symmetric import Symmetric
from budgetrun.train import run
from budgetrun.training.data import hold_out, prepare

CPU = torch.device("cpu")
PLAUSIBLE = 1e-3  # a fixed seed either passes always or never; a wrong distribution is far below

AT_A_RATE: dict[str, Callable[[float], Any]] = {
    "symmetric": lambda rate: Symmetric(rate, over="others"),
    "asymmetric": lambda rate: Asymmetric(rate, map="pairs"),
    "instance": Instance,
    "shuffle_pixels": ShufflePixels,
    "gaussian_pixels": lambda rate: GaussianPixels(rate, fresh=False),
    "fresh gaussian_pixels": lambda rate: GaussianPixels(rate, fresh=True),
}
BY_COMMAND = [
    "symmetric",
    "symmetric noise.over=all",
    "asymmetric",
    "instance",
    "shuffle_pixels",
    "gaussian_pixels",
    "gaussian_pixels noise.fresh=true",
]


def noise(seed: int) -> Random:
    return Random.seeded(seed, "noise", CPU)


def data_of(labels: list[int] | Tensor, classes: int, images: Tensor | None = None) -> Data:
    """Training examples with these labels, and images of random pixels if none are given."""
    labels = torch.as_tensor(labels)
    generator = torch.Generator().manual_seed(0)
    if images is None:
        images = torch.randint(256, (len(labels), 3, 4, 5), generator=generator, dtype=torch.uint8)
    return Data(
        images=images,
        labels=labels,
        test_images=images[:2].clone(),
        test_labels=labels[:2].clone(),
        mean=[0.5] * 3,
        std=[0.25] * 3,
        flip=False,
        padding=0,
        classes=classes,
    )


def flips(clean: Data, noisy: Data) -> Counter[tuple[int, int]]:
    """How often each (true label, wrong label) occurs in the data."""
    wrong = clean.labels != noisy.labels
    return Counter(zip(clean.labels[wrong].tolist(), noisy.labels[wrong].tolist(), strict=True))


# ---- what every noise promises


@pytest.mark.parametrize("kind", AT_A_RATE)
@settings(deadline=None, max_examples=50)
@given(
    rate=st.floats(0, 0.99),
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    seed=st.integers(0, 2**40),
)
def test_exactly_the_rate_of_the_examples_is_corrupted_and_the_others_are_as_they_were(
    kind: str, rate: Any, labels: Any, seed: Any
) -> None:
    data = data_of(labels, 5)
    before = [tensor.clone() for tensor in (data.images, data.labels)]
    noisy = AT_A_RATE[kind](rate).apply(data, noise(seed))
    of_class = [labels.count(c) for c in range(5)] if kind == "asymmetric" else [len(labels)]
    assert noisy.corrupted.dtype == torch.bool
    assert int(noisy.corrupted.sum()) == sum(round(rate * n) for n in of_class)
    if "pixels" in kind:
        assert torch.equal(noisy.labels, data.labels)
        assert torch.equal(noisy.images[~noisy.corrupted], data.images[~noisy.corrupted])
        assert (noisy.images.dtype, noisy.images.shape) == (data.images.dtype, data.images.shape)
    else:
        assert torch.equal(noisy.labels != data.labels, noisy.corrupted)  # no corrupted label is the true one
        assert noisy.labels.min() >= 0
        assert noisy.labels.max() < 5
        assert torch.equal(noisy.images, data.images)
    assert (noisy.each_access is not None) == kind.startswith("fresh")
    for tensor, was in zip((data.images, data.labels), before, strict=True):
        assert torch.equal(tensor, was), "the clean data were changed"


@pytest.mark.parametrize("kind", AT_A_RATE)
def test_every_example_is_corrupted_as_often_as_another(kind: str) -> None:
    times, data = np.zeros(10), data_of([0] * 10, 3)
    for seed in range(1500):
        times += AT_A_RATE[kind](0.3).apply(data, noise(seed)).corrupted.numpy()
    assert times.sum() == 4500
    # the counts of one run sum to 3, so their variance is 9/10 of independent ones'
    assert chisquare(times).pvalue > PLAUSIBLE


@pytest.mark.parametrize("kind", AT_A_RATE)
@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_outside_of_its_range_is_refused(kind: str, rate: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        AT_A_RATE[kind](rate)


@pytest.mark.parametrize("chosen", BY_COMMAND)
def test_what_is_corrupted_depends_on_the_seed_and_on_nothing_else(
    chosen: str, full: bool, experiment_for: Callable[..., Experiment], tmp_path: Path
) -> None:
    def corrupted(*overrides: str) -> list[Tensor]:
        data, _ = prepare(experiment_for(*f"noise={chosen}".split(), *overrides))
        return [data.corrupted, data.labels, data.images]

    reference, other = corrupted("seed=3"), corrupted("seed=4")
    # a sampler that needs held-out examples trains on others
    samplers = [sampler for sampler in SAMPLERS if "validation" not in needed(sampler, tmp_path)]
    for sampler in samplers if full else samplers[:2]:
        chosen_by = f"sampler={sampler}", *needed(sampler, tmp_path).split()
        again = corrupted("seed=3", *chosen_by, "budget=0.3", "aug=ricap", "epochs=2", "model.width=4")
        assert all(map(torch.equal, again, reference)), sampler
    assert not torch.equal(other[0], reference[0])


@pytest.mark.parametrize("chosen", BY_COMMAND)
def test_test_and_validation_data_stay_clean_and_the_fingerprint_is_theirs(
    chosen: str, experiment_for: Callable[..., Experiment]
) -> None:
    clean, print_of_clean = prepare(experiment_for("validation=0.2"))
    noisy, print_of_noisy = prepare(experiment_for(*f"noise={chosen}".split(), "noise.rate=0.9", "validation=0.2"))
    for name in ("test_images", "test_labels", "val_images", "val_labels"):
        assert torch.equal(getattr(clean, name), getattr(noisy, name)), name
    assert clean.corrupted is None
    assert 0.75 * len(clean.labels) < noisy.corrupted.sum() < 0.95 * len(clean.labels)
    assert print_of_clean == print_of_noisy


def test_noise_takes_nothing_from_the_randomness_of_the_sampler() -> None:
    """Streams of different purposes are independent: what one draws does not move another."""
    sampler = Random.seeded(0, "sampler", CPU)
    for make in AT_A_RATE.values():
        make(0.5).apply(data_of([0] * 100, 10), noise(0))
    assert torch.equal(
        torch.rand(5, generator=sampler.device),
        torch.rand(5, generator=Random.seeded(0, "sampler", CPU).device),
    )


def test_more_noise_than_examples_gives_one_sentence(experiment_for: Callable[..., Experiment]) -> None:
    with pytest.raises(UserError, match=r"noise\.rate=1\.5"):
        experiment_for("noise=symmetric", "noise.rate=1.5")


@pytest.mark.parametrize("chosen", NOISES)
def test_every_noise_trains_and_says_how_many_examples_it_corrupted(
    chosen: str, tmp_path: Path, people: Path, experiment_for: Callable[..., Experiment]
) -> None:
    clean = prepare(experiment_for())[0].labels.numpy()
    done = here(f"noise={chosen} epochs=0.1 data_dir={people}", tmp_path)
    assert done.code == 0, done.err
    assert done.err == ""
    assert done.result["updates"] == 2
    assert done.result["names"]["noise"] == chosen
    expected = {"none": 0, "asymmetric": sum(round(0.25 * int((clean == c).sum())) for c in range(10))}
    assert done.result["n_corrupted"] == expected.get(chosen, 360)


# ---- symmetric


def test_a_corrupted_label_is_uniform_over_the_other_classes() -> None:
    clean = data_of(torch.arange(40_000) % 5, 5)
    pairs = flips(clean, Symmetric(0.5, over="others").apply(clean, noise(0)))
    assert chisquare([pairs[pair] for pair in itertools.permutations(range(5), 2)]).pvalue > PLAUSIBLE


def test_a_label_drawn_over_all_classes_is_the_true_one_as_often_as_any_other() -> None:
    clean = data_of(torch.arange(40_000) % 5, 5)
    noisy = Symmetric(0.5, over="all").apply(clean, noise(0))
    pairs = flips(clean, noisy)
    # 20,000 labels are drawn, 800 for each pair of a true and a new one; the true ones are those not seen to change
    changed = [pairs[pair] for pair in itertools.permutations(range(5), 2)]
    assert int(noisy.corrupted.sum()) == sum(changed)
    assert chisquare([*changed, 20_000 - sum(changed)], [800] * 20 + [4000]).pvalue > PLAUSIBLE


def test_exactly_the_rate_is_drawn_over_all_classes_too() -> None:
    many = 10**12  # classes: a draw of the true one is out of the question
    for rate, expected in ((0.0, 0), (0.1, 100), (0.3337, 334), (0.99, 990)):
        noisy = Symmetric(rate, over="all").apply(data_of(torch.arange(1000), many), noise(1))
        assert int(noisy.corrupted.sum()) == expected


def test_two_classes_are_swapped() -> None:
    clean = data_of([0, 1] * 50, 2)
    noisy = Symmetric(0.4, over="others").apply(clean, noise(3))
    assert torch.equal(noisy.labels[noisy.corrupted], 1 - clean.labels[noisy.corrupted])


# ---- asymmetric

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# the superclass of every CIFAR-100 class, from the data set's own coarse labels
COARSE = [
    4,
    1,
    14,
    8,
    0,
    6,
    7,
    7,
    18,
    3,
    3,
    14,
    9,
    18,
    7,
    11,
    3,
    9,
    7,
    11,
    6,
    11,
    5,
    10,
    7,
    6,
    13,
    15,
    3,
    15,
    0,
    11,
    1,
    10,
    12,
    14,
    16,
    9,
    11,
    5,
    5,
    19,
    8,
    8,
    15,
    13,
    14,
    17,
    18,
    10,
    16,
    4,
    17,
    4,
    2,
    0,
    17,
    4,
    18,
    17,
    10,
    3,
    2,
    12,
    12,
    16,
    12,
    1,
    9,
    19,
    2,
    10,
    0,
    1,
    16,
    12,
    9,
    13,
    15,
    13,
    16,
    19,
    2,
    4,
    6,
    19,
    5,
    5,
    8,
    19,
    18,
    1,
    2,
    15,
    6,
    0,
    17,
    8,
    14,
    13,
]


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.45])
def test_pair_flips_go_to_the_next_class_and_from_the_last_to_the_first(rate: float) -> None:
    labels = torch.tensor([0] * 100 + [1] * 37 + [2] * 250)
    pairs = flips(data_of(labels, 3), Asymmetric(rate, map="pairs").apply(data_of(labels, 3), noise(0)))
    assert pairs == {(0, 1): round(rate * 100), (1, 2): round(rate * 37), (2, 0): round(rate * 250)}


def test_the_map_of_cifar10_is_the_standard_one_and_half_of_the_rate_is_wrong() -> None:
    clean = data_of(torch.arange(5000) % 10, 10)
    noisy = Asymmetric(0.4, map="cifar10").apply(clean, noise(0))
    named = {(CIFAR10_NAMES[a], CIFAR10_NAMES[b]): count for (a, b), count in flips(clean, noisy).items()}
    assert named == {
        ("truck", "automobile"): 200,
        ("bird", "airplane"): 200,
        ("deer", "horse"): 200,
        ("cat", "dog"): 200,
        ("dog", "cat"): 200,
    }
    assert int(noisy.corrupted.sum()) == 1000


def test_the_map_of_cifar100_goes_round_every_superclass() -> None:
    clean = data_of(torch.arange(1000) % 100, 100)
    pairs = flips(clean, Asymmetric(0.3, map="cifar100").apply(clean, noise(0)))
    expected = {}
    for superclass in range(20):
        five = [c for c in range(100) if COARSE[c] == superclass]
        assert len(five) == 5
        expected |= dict.fromkeys(zip(five, five[1:] + five[:1], strict=True), 3)
    assert pairs == expected


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 100), ("cifar100", 10), ("cifar10", 4)])
def test_a_map_for_another_number_of_classes_is_refused_in_a_sentence(name: str, classes: int) -> None:
    with pytest.raises(UserError, match=rf"noise\.map={name} is for .* this data set has {classes};"):
        Asymmetric(0.3, map=name).apply(data_of([0, 1, 2, 3], classes), noise(0))


# ---- instance


def test_an_example_s_own_rate_has_the_truncated_normal_distribution() -> None:
    for rate in (0.02, 0.25, 0.5, 0.97):
        rates = Instance(rate).rates(20_000, np.random.Generator(np.random.PCG64(0)))
        expected = truncnorm((0 - rate) / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
        assert kstest(rates, expected.cdf).pvalue > PLAUSIBLE
        assert rates.min() > 0
        assert rates.max() < 1


def test_an_example_is_flipped_about_as_often_as_its_own_rate_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Instance, "rates", lambda self, n, host: np.repeat([0.1, 0.4], n // 2))
    flipped = Instance(0.25).apply(data_of([0] * 20_000, 4), noise(0)).corrupted
    assert int(flipped.sum()) == 5000
    # 10,000 coins of 0.1 are heads 1000 times, with a standard deviation of 30
    assert abs(int(flipped[:10_000].sum()) - 1000) < 120


def transitions(make: Callable[[float], Any]) -> dict[tuple[int, int], set[int]]:
    """What the flipped examples of a (class, picture) became: 5 classes, 8 pictures of a bar, 100 copies."""
    pictures = (255 * torch.eye(8)).to(torch.uint8).repeat_interleave(100, 1).view(8, 1, 8, 100)
    pairs = list(itertools.product(range(5), range(8)))
    labels, which = torch.tensor(pairs * 100).T
    clean = data_of(labels, 5, pictures[which])
    noisy = make(0.25).apply(clean, noise(0))
    return {(c, k): set(noisy.labels[noisy.corrupted & (labels == c) & (which == k)].tolist()) for c, k in pairs}


def test_equal_images_of_a_class_are_mistaken_for_the_same_class_and_different_ones_are_not() -> None:
    became = transitions(Instance)
    assert all(len(targets) == 1 for targets in became.values())
    for c in range(5):  # it is not the class alone that decides
        assert len(set.union(*(became[c, k] for k in range(8)))) > 1
    for k in range(8):  # nor the picture alone
        assert len(set.union(*(became[c, k] for c in range(5)))) > 1
    # the same test fails if labels are flipped without looking at the image
    assert all(len(targets) == 4 for targets in transitions(AT_A_RATE["symmetric"]).values())


def test_black_images_say_nothing_and_are_mistaken_for_every_other_class_alike() -> None:
    clean = data_of(torch.arange(20_000) % 5, 5, torch.zeros(20_000, 1, 2, 2, dtype=torch.uint8))
    pairs = flips(clean, Instance(0.5).apply(clean, noise(0)))
    assert chisquare([pairs[pair] for pair in itertools.permutations(range(5), 2)]).pvalue > PLAUSIBLE


def test_the_new_label_follows_the_softmax_of_the_pixels_times_the_matrix_of_the_class() -> None:
    """Pixels of 0, 1 and 2, whose softmax is not an argmax, against probabilities worked out one example at a time."""
    n, classes, rate = 60_000, 4, 0.5
    images = torch.randint(3, (n, 1, 1, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    clean = data_of(torch.arange(n) % classes, classes, images)
    noisy = Instance(rate).apply(clean, noise(7))
    host = noise(7).host
    host.random(2 * n)  # who is flipped
    matrices = host.standard_normal((classes, 2, classes))
    seen: dict[tuple[int, ...], np.ndarray] = {}
    for i in torch.nonzero(noisy.corrupted)[:, 0].tolist():
        key = (int(clean.labels[i]), *images[i].flatten().tolist())
        seen.setdefault(key, np.zeros(classes))[int(noisy.labels[i])] += 1
    assert len(seen) == 4 * 9
    observed, expected = [], []
    for (c, a, b), counts in seen.items():
        score = np.exp(a * matrices[c, 0] + b * matrices[c, 1])
        score[c] = 0
        others = np.arange(classes) != c
        observed.append(counts[others])
        expected.append((counts.sum() * score / score.sum())[others])
    observed, expected = np.concatenate(observed), np.concatenate(expected)
    enough = expected > 5
    assert enough.sum() > 80
    scaled = expected[enough] * observed[enough].sum() / expected[enough].sum()
    assert chisquare(observed[enough], scaled).pvalue > PLAUSIBLE


# ---- shuffled pixels


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (1, 6)])
def test_one_permutation_of_the_places_is_recovered_from_every_corrupted_image_and_channel(
    height: int, width: int
) -> None:
    places = torch.arange(height * width, dtype=torch.uint8).view(height, width)
    images = torch.stack([places, places + 100, places + 150]).expand(40, 3, height, width)  # all share one memory
    noisy = ShufflePixels(0.5).apply(data_of([0] * 40, 2, images), noise(2))
    shuffled = noisy.images[noisy.corrupted] - torch.tensor([0, 100, 150], dtype=torch.uint8)[:, None, None]
    orders = {tuple(order) for order in shuffled.flatten(0, 1).flatten(1).tolist()}
    assert len(orders) == 1
    (order,) = orders
    assert sorted(order) == list(range(height * width))
    assert order != tuple(range(height * width))


def test_images_in_any_memory_layout_keep_their_pixels() -> None:
    last = torch.randint(256, (30, 6, 4, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    images = last.permute(0, 3, 1, 2)  # as photographs are stored
    noisy = ShufflePixels(0.9).apply(data_of([0] * 30, 2, images), noise(0))
    assert not torch.equal(noisy.images, images)
    assert torch.equal(noisy.images.flatten(2).sort(2).values, images.flatten(2).sort(2).values)


def test_every_permutation_is_drawn_equally_often() -> None:
    image = torch.arange(3, dtype=torch.uint8).view(1, 1, 1, 3).expand(2, 1, 1, 3)
    orders = Counter()
    for seed in range(6000):
        noisy = ShufflePixels(0.5).apply(data_of([0, 0], 2, image), noise(seed))
        orders[tuple(noisy.images[noisy.corrupted].flatten().tolist())] += 1
    assert chisquare([orders[order] for order in itertools.permutations(range(3))]).pvalue > PLAUSIBLE


# ---- Gaussian pixels


def grey_levels() -> Tensor:
    """200 images [200, 3, 16, 16]: mean 90 to 150 and deviation 10 to 30, channels 20 apart."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.linspace(90, 150, 200)[:, None, None, None] + torch.tensor([-20, 0, 20])[:, None, None]
    spread = torch.linspace(10, 30, 200).flip(0)[:, None, None, None]
    return (mean + spread * torch.randn(200, 3, 16, 16, generator=generator)).round().clamp(0, 255).to(torch.uint8)


def viewed(data: Data, seed: int) -> Tensor:
    """The training images as they are in a view of all examples."""
    if data.each_access is None:
        return data.images
    index = torch.arange(len(data.labels))
    batch = Batch(data.images, index[:, None], data.labels[:, None], torch.ones(len(index), 1), drawn=index)
    return data.each_access(batch, Random.seeded(seed, "aug", CPU)).images


@pytest.mark.parametrize("fresh", [False, True])
def test_redrawn_pixels_are_normal_with_the_mean_and_deviation_of_their_image_over_all_channels(fresh: bool) -> None:
    images = grey_levels()
    noisy = GaussianPixels(0.5, fresh).apply(data_of([0] * 200, 2, images), noise(0))
    chosen = noisy.corrupted
    pixels, noise_pixels = images[chosen].double().flatten(1), viewed(noisy, 0)[chosen].double().flatten(1)
    mean, std = pixels.mean(1), pixels.std(1)
    # 768 pixels per image: standard errors of the mean and of the deviation are std / sqrt(768) and std / sqrt(1536)
    assert (((noise_pixels.mean(1) - mean) / std).abs() < 4.5 / 768**0.5).all()
    assert ((noise_pixels.std(1) / std - 1).abs() < 4.5 / 1536**0.5).all()
    standard = ((noise_pixels - mean[:, None]) / std[:, None]).view(100, 3, 256)
    # a rounded pixel is spread over its grey level again, to be compared with a continuous distribution
    spread = torch.rand(standard.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    smooth = standard + spread / std[:, None, None]
    assert kstest(smooth[::5].flatten().numpy(), "norm").pvalue > PLAUSIBLE
    for channel in range(3):  # in the clean images, 20 grey levels lie between the channels' means
        assert abs(float(standard[:, channel].mean())) < 4.5 / 25_600**0.5
    together = np.corrcoef(standard.permute(1, 0, 2).flatten(1).numpy())
    assert np.abs(together[np.triu_indices(3, 1)]).max() < 4.5 / 25_600**0.5  # every channel has noise of its own
    assert np.abs(np.corrcoef(standard[:, 0].numpy())[np.triu_indices(100, 1)]).max() < 6 / 256**0.5  # every image too


def test_noise_out_of_the_range_of_pixels_is_clipped() -> None:
    images = torch.zeros(100, 3, 8, 8, dtype=torch.uint8)
    images[:, :, ::2] = 255  # mean 127.5, deviation 127.8: 16% below 0, and as much above 255
    noisy = GaussianPixels(0.5, fresh=False).apply(data_of([0] * 100, 2, images), noise(0))
    pixels = noisy.images[noisy.corrupted].flatten()
    for end in (0, 255):
        assert float((pixels == end).float().mean()) == pytest.approx(0.16, abs=0.02)
    assert len(pixels.unique()) == 256


def test_an_image_of_one_pixel_has_no_deviation() -> None:
    image = torch.full((4, 1, 1, 1), 77, dtype=torch.uint8)
    data = Data(image, torch.zeros(4).long(), image, image, [0.5], [0.5], flip=False, padding=0, classes=2)
    assert torch.equal(GaussianPixels(0.5, fresh=False).apply(data, noise(0)).images, image)


def test_fresh_noise_is_for_the_chosen_examples_in_whatever_order_they_are_viewed() -> None:
    data = GaussianPixels(0.4, fresh=True).apply(data_of([0] * 60, 2), noise(0))
    index = torch.randperm(60, generator=torch.Generator().manual_seed(3))[:25]
    batch = Batch(data.images[index], index[:, None], data.labels[index, None], torch.ones(25, 1), drawn=index)
    changed = (data.each_access(batch, noise(1)).images != data.images[index]).flatten(1).any(1)
    assert torch.equal(changed, data.corrupted[index])
    assert 0 < int(changed.sum()) < 25


@dataclasses.dataclass
class TwoViews:
    """A sampler that views the same examples twice and looks at the second view."""

    seen: list[Tensor]

    def start(self, context: Context) -> None:
        self.context = context

    def draw(self) -> Batch:
        index = torch.arange(self.context.batch_size)
        first, second = self.context.view(index), self.context.view(index)
        self.context.look(second)
        self.seen += [first.images, second.images]
        return second

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize("fresh", [False, True])
def test_in_training_frozen_noise_stays_and_fresh_noise_is_new_at_every_view(
    fresh: bool, experiment_for: Callable[..., Experiment]
) -> None:
    line = ["noise=gaussian_pixels", f"noise.fresh={fresh}", "noise.rate=0.5", "aug=none", "epochs=0.1"]
    experiment = dataclasses.replace(experiment_for(*line), sampler=TwoViews([]))
    assert run(experiment)["updates"] == 2
    clean, _ = prepare(experiment_for())
    noisy, _ = prepare(experiment)
    first, *others = experiment.sampler.seen
    corrupted = noisy.corrupted[: len(first)]
    assert 10 < int(corrupted.sum()) < 54
    assert torch.equal(first[~corrupted], clean.images[:64][~corrupted])
    assert (first[corrupted] != clean.images[:64][corrupted]).flatten(1).any(1).all()
    assert len(others) == 3
    for other in others:
        assert torch.equal(other[~corrupted], first[~corrupted])
        assert torch.equal(other, first) != fresh
        assert (other[corrupted] != first[corrupted]).flatten(1).any(1).all() == fresh


def test_augmentations_are_handed_fresh_noise_as_uint8_images(experiment_for: Callable[..., Experiment]) -> None:
    handed = []

    def step(batch: Batch, random: Random) -> Batch:
        handed.append((batch.drawn, batch.images))
        return batch

    line = ["noise=gaussian_pixels", "noise.fresh=true", "noise.rate=0.5", "epochs=0.1"]
    experiment = experiment_for(*line)
    experiment = dataclasses.replace(experiment, aug=[step], resolved=experiment.resolved | {"aug": {"own": {}}})
    run(experiment)
    del handed[0]  # two made-up images, by which it is checked
    clean, _ = prepare(experiment_for())
    noisy, _ = prepare(experiment)
    assert len(handed) == 2
    for drawn, images in handed:
        assert images.dtype == torch.uint8  # RandAugment accepts nothing else
        changed = (images != clean.images[drawn]).flatten(1).any(1)
        assert torch.equal(changed, noisy.corrupted[drawn])


# ---- human labels


def published(clean: Tensor, seed: int = 0) -> dict[str, np.ndarray]:
    """Labels as CIFAR-10N has them: int64 NumPy arrays by name."""
    host = np.random.Generator(np.random.PCG64(seed))
    worse = np.where(host.random(len(clean)) < 0.4, host.integers(0, 10, len(clean)), clean.numpy())
    aggre = np.where(host.random(len(clean)) < 0.1, host.integers(0, 10, len(clean)), clean.numpy())
    return {"clean_label": clean.numpy(), "worse_label": worse, "aggre_label": aggre}


@pytest.mark.parametrize("numpy_core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("labels", ["worse_label", "aggre_label"])
def test_the_labels_that_people_gave_replace_the_clean_ones(labels: str, numpy_core: str, tmp_path: Path) -> None:
    data = data_of(torch.arange(500) % 10, 10)
    given_labels = published(data.labels)
    file = human_file(tmp_path / "CIFAR-10_human.pt", given_labels, numpy_core)
    noisy = Human(str(file), labels).apply(data, noise(0))
    assert noisy.labels.tolist() == given_labels[labels].tolist()
    assert noisy.labels.dtype == torch.int64
    assert noisy.corrupted.tolist() == (given_labels[labels] != given_labels["clean_label"]).tolist()
    assert int(noisy.corrupted.sum()) > 20
    assert torch.equal(Human(str(file), labels).apply(data, noise(1)).labels, noisy.labels)  # the same for every seed


@settings(deadline=None, max_examples=30)
@given(labels=st.lists(st.integers(0, 9), min_size=20, max_size=80), part=st.floats(0.1, 0.8))
def test_each_example_gets_its_own_label_when_a_part_is_held_out(
    labels: Any, part: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = data_of(labels, 10)
    whole.images[:, 0, 0, 0] = torch.arange(len(labels))  # the example's number
    given_labels = published(whole.labels)
    file = human_file(tmp_path_factory.mktemp("human") / "CIFAR-10_human.pt", given_labels)
    try:
        split = hold_out(whole, part)
    except UserError:  # no class is large enough
        return
    noisy = Human(str(file), "worse_label").apply(split, noise(0))
    numbers = noisy.images[:, 0, 0, 0].long()
    assert noisy.labels.tolist() == given_labels["worse_label"][numbers].tolist()
    assert torch.equal(noisy.val_labels, split.val_labels)


def test_a_file_of_cifar100_is_read_with_its_lists_of_coarse_labels(tmp_path: Path) -> None:
    data = data_of(torch.arange(500) % 100, 100)
    fine = (data.labels.numpy() + np.arange(500) % 3) % 100
    coarse = [COARSE[c] for c in fine]
    content = {"clean_label": data.labels.numpy(), "noisy_label": fine, "noisy_coarse_label": coarse}
    file = human_file(tmp_path / "CIFAR-100_human.pt", content)
    noisy = Human(str(file), "noisy_label").apply(data, noise(0))
    assert noisy.labels.tolist() == fine.tolist()
    with pytest.raises(UserError, match=r"has no worse_label, only clean_label, noisy_label.*set noise\.labels"):
        Human(str(file), "worse_label").apply(data, noise(0))
    with pytest.raises(ValueError, match=r"labels=noisy_coarse_label is not one of"):
        Human(str(file), "noisy_coarse_label")


@pytest.mark.parametrize("change", ["one label", "shorter", "longer", "held out"])
def test_a_file_for_another_data_set_is_refused_in_a_sentence(change: str, tmp_path: Path) -> None:
    data = data_of(torch.arange(500) % 10, 10)
    clean = data.labels.clone()
    if change == "one label":
        clean[123] += 1
    content = published({"shorter": clean[:-10], "longer": torch.cat([clean, clean[:10]])}.get(change, clean))
    if change == "held out":  # the right examples, but the file is of the kept part alone
        data = hold_out(data, 0.2)
        content = published(data.labels)
    file = human_file(tmp_path / "CIFAR-10_human.pt", content)
    with pytest.raises(UserError, match=r"noise\.file=.*human\.pt is for another data set: .* 500 training labels"):
        Human(str(file), "worse_label").apply(data, noise(0))


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("raise AssertionError('the code of the file was run')",))


@pytest.mark.parametrize("content", ["text", "empty", "half", "folder", "code", "tensor"])
def test_a_file_of_something_else_is_refused_in_a_sentence_and_no_code_in_it_is_run(
    content: str, tmp_path: Path
) -> None:
    path, data = tmp_path / "CIFAR-10_human.pt", data_of(torch.arange(500) % 10, 10)
    if content == "text":
        path.write_text("<html>404</html>")
    elif content == "empty":
        path.touch()
    elif content == "half":
        whole = human_file(path, published(data.labels)).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "folder":
        path.mkdir()
    elif content == "code":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"clean_label": Evil()}, protocol=2))
            archive.writestr("archive/version", "3\n")
    else:
        torch.save(data.labels, path)
    with pytest.raises(UserError, match=r"noise\.file=.*human\.pt is broken.*get it from https://github\.com/"):
        Human(str(path), "worse_label").apply(data, noise(0))


def test_a_missing_file_gives_one_sentence_that_says_where_to_get_it_and_where_to_put_it(tmp_path: Path) -> None:
    path = tmp_path / "CIFAR-10_human.pt"
    with pytest.raises(UserError, match=rf"noise\.file={path} is not there; get it from https://github\.com/"):
        Human(str(path), "worse_label").apply(data_of([0, 1], 10), noise(0))


def test_the_file_s_place_is_not_part_of_the_experiment_but_the_choice_of_labels_is(
    experiment_for: Callable[..., Experiment],
) -> None:
    reference = experiment_for("noise=cifar10n").run_id
    assert experiment_for("noise=cifar10n", "data_dir=elsewhere").run_id == reference
    assert experiment_for("noise=cifar10n", "noise.file=/a/b/CIFAR-10_human.pt").run_id == reference
    assert experiment_for("noise=cifar10n", "noise.file=/a/b/mine.pt").run_id != reference
    assert experiment_for("noise=cifar10n", "noise.labels=aggre_label").run_id != reference
    assert experiment_for("noise=cifar10n").resolved["noise"]["file"] == "data/CIFAR-10_human.pt"
