"""Label noise: how many labels change, which, and to what."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from budgetrun.__main__ import CONF
from budgetrun.contracts import Data, Random, UserError
from budgetrun.data import prepare
from budgetrun.noise.symmetric import Symmetric

CPU = torch.device("cpu")
PLAUSIBLE = 1e-3  # a fixed seed either passes always or never; a wrong distribution is far below


def noise(seed: int) -> Random:
    return Random.seeded(seed, "noise", CPU)


def data_of(labels: list[int] | torch.Tensor, classes: int, images: torch.Tensor | None = None) -> Data:
    """Training examples with these labels, and images of random pixels where none are given."""
    labels = torch.as_tensor(labels)
    generator = torch.Generator().manual_seed(0)
    if images is None:
        images = torch.randint(256, (len(labels), 3, 4, 5), generator=generator, dtype=torch.uint8)
    return Data(
        images=images, labels=labels, test_images=images[:2].clone(), test_labels=labels[:2].clone(),
        mean=[0.5] * 3, std=[0.25] * 3, flip=False, padding=0, classes=classes,
    )  # fmt: skip


@settings(deadline=None)
@given(
    rate=st.floats(0, 0.99),
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    seed=st.integers(0, 2**40),
)
def test_exactly_the_rate_of_the_labels_changes_and_never_to_the_true_class(rate, labels, seed):
    data = data_of(labels, 5)
    noisy = Symmetric(rate).apply(data, noise(seed))
    assert int(noisy.corrupted.sum()) == round(rate * len(labels))
    assert torch.equal(noisy.labels != data.labels, noisy.corrupted)
    assert noisy.labels.min() >= 0
    assert noisy.labels.max() < 5
    assert data.labels.tolist() == labels  # the clean labels are left alone


def test_a_corrupted_label_is_uniform_over_the_other_classes():
    clean = data_of(torch.arange(40_000) % 5, 5)
    noisy = Symmetric(0.5).apply(clean, noise(0))
    pairs = Counter(zip(clean.labels[noisy.corrupted].tolist(), noisy.labels[noisy.corrupted].tolist(), strict=True))
    assert chisquare([pairs[pair] for pair in itertools.permutations(range(5), 2)]).pvalue > PLAUSIBLE


def test_every_example_is_corrupted_as_often_as_another():
    times = np.zeros(10)
    for seed in range(1500):
        times += Symmetric(0.3).apply(data_of([0] * 10, 3), noise(seed)).corrupted.numpy()
    # the counts of one run sum to 3, so their variance is 9/10 of independent ones'
    assert chisquare(times).pvalue > PLAUSIBLE


def test_two_classes_are_swapped():
    clean = data_of([0, 1] * 50, 2)
    noisy = Symmetric(0.4).apply(clean, noise(3))
    assert torch.equal(noisy.labels[noisy.corrupted], 1 - clean.labels[noisy.corrupted])


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_outside_of_its_range_is_refused(rate):
    with pytest.raises(ValueError, match="must be in"):
        Symmetric(rate)


def test_the_corrupted_examples_depend_on_the_seed_and_on_nothing_else(experiment_for):
    def corrupted(*overrides: str) -> torch.Tensor:
        data, _ = prepare(experiment_for("noise=symmetric", *overrides))
        return torch.stack([data.corrupted.long(), data.labels])

    reference = corrupted("seed=3")
    assert int(reference[0].sum()) == round(0.25 * reference.shape[1])
    for sampler in sorted(file.stem for file in (CONF / "sampler").glob("*.yaml")):
        assert torch.equal(corrupted("seed=3", f"sampler={sampler}", "budget=0.3", "aug=ricap"), reference), sampler
    assert torch.equal(corrupted("seed=3", "batch_size=10", "epochs=2", "model.width=4"), reference)
    assert not torch.equal(corrupted("seed=4")[0], reference[0])


def test_test_and_validation_labels_stay_clean_and_images_are_not_touched(experiment_for):
    clean, print_of_clean = prepare(experiment_for("validation=0.2"))
    noisy, print_of_noisy = prepare(experiment_for("validation=0.2", "noise=symmetric", "noise.rate=0.9"))
    for name in ("images", "test_images", "test_labels", "val_images", "val_labels"):
        assert torch.equal(getattr(clean, name), getattr(noisy, name)), name
    assert torch.equal(clean.labels != noisy.labels, noisy.corrupted)
    assert clean.corrupted is None
    assert print_of_clean == print_of_noisy


def test_noise_takes_nothing_from_the_randomness_of_the_sampler():
    """Streams of different purposes are independent: what one draws does not move another."""
    sampler = Random.seeded(0, "sampler", CPU)
    Symmetric(0.5).apply(data_of([0] * 100, 10), noise(0))
    assert torch.equal(
        torch.rand(5, generator=sampler.device),
        torch.rand(5, generator=Random.seeded(0, "sampler", CPU).device),
    )


def test_more_noise_than_examples_is_a_sentence(experiment_for):
    with pytest.raises(UserError, match=r"noise\.rate=1\.5"):
        experiment_for("noise=symmetric", "noise.rate=1.5")
