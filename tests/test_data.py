"""What happens to a data set between its files and the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from budgetrun.config import Experiment
from budgetrun.contracts import Data, UserError
from budgetrun.train import run
from budgetrun.training.budget import model_flops
from budgetrun.training.data import Normalize, fingerprint, hold_out, prepare, resized, shared


def small_data(labels: list[int], classes: int = 4) -> Data:
    """Images of 2x2 pixels that hold the example's number (below 65,536)."""
    number = torch.arange(len(labels))
    pixels = torch.stack([number % 256, number // 256, number % 7, number % 11], dim=1).to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    return Data(
        images=pixels.view(-1, 1, 2, 2),
        labels=torch.tensor(labels),
        test_images=torch.randint(256, (5, 1, 2, 2), generator=generator, dtype=torch.uint8),
        test_labels=torch.tensor([0, 1, 2, 3, 0]),
        mean=[0.5],
        std=[0.25],
        flip=False,
        padding=0,
        classes=classes,
    )


def numbers(images: torch.Tensor) -> list[int]:
    return (images[:, 0, 0, 0].long() + 256 * images[:, 0, 0, 1].long()).tolist()


# ---- the validation set


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=4, max_size=300),
    part=st.floats(0.01, 0.95),
)
def test_the_held_out_part_is_exact_in_every_class_and_every_example_is_in_one_part_only(
    labels: Any, part: Any
) -> None:
    data = small_data(labels)
    expected = [round(part * labels.count(c)) for c in range(4)]
    if sum(expected) == 0:
        with pytest.raises(UserError, match="holds out no example"):
            hold_out(data, part)
        return
    split = hold_out(data, part)
    assert torch.bincount(split.val_labels, minlength=4).tolist() == expected
    train, held = numbers(split.images), numbers(split.val_images)
    assert sorted(train + held) == list(range(len(labels)))
    assert split.labels.tolist() == [labels[i] for i in train]
    assert split.val_labels.tolist() == [labels[i] for i in held]
    assert train == sorted(train)  # in the order of the data set
    assert torch.equal(split.test_images, data.test_images)


def test_the_held_out_examples_are_a_random_part_and_not_the_first_of_each_class() -> None:
    split = hold_out(small_data([0, 1, 2, 3] * 100), 0.25)
    held = torch.tensor(numbers(split.val_images)).float()
    assert len(held) == 100
    assert 160 < held.mean() < 240  # 199.5 with a standard error of 10
    assert held.max() > 350


def test_every_seed_holds_out_the_same_examples(experiment_for: Callable[..., Experiment]) -> None:
    first, _ = prepare(experiment_for("validation=0.1", "seed=0"))
    second, _ = prepare(experiment_for("validation=0.1", "seed=1"))
    whole, _ = prepare(experiment_for())
    assert torch.equal(first.val_images, second.val_images)
    assert len(first.labels) + len(first.val_labels) == len(whole.labels)
    for c in range(10):
        assert int((first.val_labels == c).sum()) == round(0.1 * int((whole.labels == c).sum()))


def test_a_batch_larger_than_the_data_gives_one_sentence(experiment_for: Callable[..., Experiment]) -> None:
    with pytest.raises(UserError, match=r"batch_size=2000 is more than the 14\d\d training examples"):
        prepare(experiment_for("batch_size=2000"))


# ---- training on the held-out part


def test_train_on_validation_swaps_the_parts_after_the_noise_and_keeps_the_fingerprint(
    experiment_for: Callable[..., Experiment],
) -> None:
    line = ("validation=0.3", "noise=symmetric", "seed=3")
    usual, of_usual = prepare(experiment_for(*line))
    swapped, of_swapped = prepare(experiment_for(*line, "train_on=validation"))
    assert of_swapped == of_usual
    for part, other in (("", "val_"), ("val_", "")):
        for what in ("images", "labels"):
            assert torch.equal(getattr(swapped, part + what), getattr(usual, other + what))
    assert len(swapped.labels) < len(swapped.val_labels)
    assert usual.corrupted.any()
    assert swapped.corrupted is None  # what is trained on is clean


def test_train_on_validation_needs_a_held_out_part_of_at_least_a_batch(
    experiment_for: Callable[..., Experiment],
) -> None:
    with pytest.raises(UserError, match="train_on=validation needs a held-out part"):
        experiment_for("train_on=validation")
    with pytest.raises(UserError, match=r"train_on=test must be one of"):
        experiment_for("train_on=test", "validation=0.1")
    with pytest.raises(UserError, match=r"batch_size=64 is more than the 3\d training examples that validation=0.02"):
        prepare(experiment_for("train_on=validation", "validation=0.02"))


# ---- the fingerprint


@settings(deadline=None, max_examples=50)
@given(choice=st.data())
def test_the_fingerprint_changes_with_any_pixel_and_any_label(choice: Any) -> None:
    data = small_data([0, 1, 2, 3] * 5)
    name = choice.draw(st.sampled_from(["images", "labels", "test_images", "test_labels"]))
    tensor = getattr(data, name).clone()
    place = choice.draw(st.integers(0, tensor.numel() - 1))
    tensor.view(-1)[place] = (tensor.view(-1)[place].long() + choice.draw(st.integers(1, 3))) % (
        256 if "images" in name else 4
    )
    assert fingerprint(replace(data, **{name: tensor})) != fingerprint(data)


def test_the_fingerprint_changes_with_the_order_of_the_examples() -> None:
    data = small_data([0, 1] * 4)
    order = torch.tensor([2, 1, 0, 3, 4, 5, 6, 7])  # two examples of one class change places
    swapped = replace(data, images=data.images[order], labels=data.labels[order])
    assert torch.equal(swapped.labels, data.labels)
    assert fingerprint(swapped) != fingerprint(data)


def test_the_fingerprint_changes_with_the_shape_of_the_images() -> None:
    data = small_data([0, 1] * 4)
    flat = replace(data, images=data.images.view(-1, 1, 1, 4))
    assert fingerprint(flat) != fingerprint(data)


def test_the_fingerprint_changes_when_an_example_moves_from_training_to_test() -> None:
    data = small_data([0, 1] * 4)
    moved = replace(
        data,
        images=data.images[:-1],
        labels=data.labels[:-1],
        test_images=torch.cat([data.images[-1:], data.test_images]),
        test_labels=torch.cat([data.labels[-1:], data.test_labels]),
    )
    assert fingerprint(moved) != fingerprint(data)


def test_the_fingerprint_depends_on_values_and_not_on_how_they_lie_in_memory() -> None:
    data = small_data([0, 1, 2, 3] * 3)
    strided = torch.stack([data.images, data.images], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    assert fingerprint(replace(data, images=strided)) == fingerprint(data)
    assert fingerprint(small_data([0, 1, 2, 3] * 3)) == fingerprint(data)
    assert len(fingerprint(data)) == 16


def test_the_fingerprint_of_a_run_is_that_of_its_clean_data(experiment_for: Callable[..., Experiment]) -> None:
    experiment = experiment_for()
    data, of_run = prepare(experiment)
    assert of_run == fingerprint(data)
    assert prepare(experiment_for("noise=symmetric", "seed=5"))[1] == of_run
    assert prepare(experiment_for("validation=0.1"))[1] != of_run


# ---- the size of the images


@pytest.mark.parametrize(("shape", "size"), [((3, 32, 32), 128), ((3, 32, 32), 9), ((1, 28, 20), 14), ((3, 7, 7), 7)])
def test_images_are_resized_as_torchvision_s_resize_does(shape: tuple[int, int, int], size: int) -> None:
    channels = shape[0]
    images = torch.randint(256, (1030, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    theirs = transforms.Compose([transforms.Resize((size, size)), transforms.PILToTensor()])
    ours = resized(images, size)
    assert ours.dtype == torch.uint8
    for number in (0, 1, 999, 1000, 1029):  # it is done in parts of 1000
        array = images[number].permute(1, 2, 0).numpy()
        expected = theirs(Image.fromarray(array[:, :, 0] if channels == 1 else array))
        # random pixels differ by 85 on average; torch and Pillow round their weights differently
        assert int((ours[number].int() - expected.int()).abs().max()) <= 2


def test_a_run_trains_on_resized_images_under_the_fingerprint_of_the_data(
    experiment_for: Callable[..., Experiment],
) -> None:
    experiment = experiment_for("image_size=12", "validation=0.1", "epochs=1", "budget=0.1", "model.width=2")
    data, of_run = prepare(experiment)
    plain, of_plain = prepare(experiment_for("validation=0.1"))
    assert of_run == of_plain
    for name in ("images", "val_images", "test_images"):
        assert torch.equal(getattr(data, name), resized(getattr(plain, name), 12))
    for name in ("labels", "val_labels", "test_labels"):
        assert torch.equal(getattr(data, name), getattr(plain, name))
    result = run(experiment)
    _, update = model_flops(experiment.model.build(1, 10), torch.Size((1, 12, 12)))
    assert result["flops"] == result["examples_backward"] * update
    assert result["dataset_fingerprint"] == of_plain


# ---- pixels


@pytest.mark.parametrize(
    ("mean", "std"),
    [([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]), ([0.3061], [0.3768])],
    ids=["cifar", "digits"],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalize_is_torchvision_s_to_tensor_and_normalize(mean: list[float], std: list[float], dtype: Any) -> None:
    channels = len(mean)
    images = torch.randint(256, (20, channels, 7, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[0], images[1] = 0, 255
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    expected = torch.stack([theirs(Image.fromarray(a[:, :, 0] if channels == 1 else a)) for a in arrays])
    data = replace(small_data([0]), mean=mean, std=std)
    given_images = images.to(dtype)
    normalized = Normalize(data, torch.device("cpu"))(given_images)
    torch.testing.assert_close(normalized, expected, atol=2e-6, rtol=1e-5)
    assert torch.equal(given_images, images.to(dtype))  # the data set itself is not changed


def test_the_digits_are_normalised_by_their_own_mean_and_deviation(experiment_for: Callable[..., Experiment]) -> None:
    data, _ = prepare(experiment_for())
    normalized = Normalize(data, torch.device("cpu"))(data.images)
    assert float(normalized.mean()) == pytest.approx(0, abs=1e-3)
    assert float(normalized.std()) == pytest.approx(1, abs=1e-3)


# ---- one copy for the runs of a sweep


def test_runs_of_a_sweep_share_images_that_are_as_they_were_loaded(experiment_for: Callable[..., Experiment]) -> None:
    def prepared(*overrides: str, shares: bool = True) -> tuple[Data, str]:
        return prepare(replace(experiment_for("validation=0.2", *overrides), shares_data=shares))

    alone, own = (dict(vars(prepared(*line, shares=False)[0])) for line in ([], ["noise=symmetric", "noise.rate=0.5"]))
    first, of_clean = prepared()
    try:
        noisy, of_noisy = prepared("noise=symmetric", "noise.rate=0.5", "sampler=p_sgd")
        assert of_clean == of_noisy
        for found, expected in ((first, alone), (noisy, own)):
            for name, value in vars(found).items():
                same = (
                    torch.equal(value, expected[name]) if isinstance(value, torch.Tensor) else value == expected[name]
                )
                assert same, name
        for name in ("images", "val_images", "test_images"):
            assert getattr(first, name).data_ptr() == getattr(noisy, name).data_ptr(), "one copy"
        first.labels.zero_()  # a run's own
        first.mean, first.corrupted = [0.0], torch.ones(1)
        again = prepared()[0]
        assert again.images.data_ptr() == first.images.data_ptr()
        assert torch.equal(again.labels, alone["labels"])
        assert again.mean == alone["mean"]
        assert again.corrupted is None
        first.test_images.numpy()[0] += 1  # a fault of a user's part
        mended, of_mended = prepared()
        assert torch.equal(mended.test_images, alone["test_images"])
        assert of_mended == of_clean
        other, _ = prepared("validation=0.3")
        assert len(other.labels) < len(mended.labels)
        assert prepared()[0].images.data_ptr() != mended.images.data_ptr(), "only the last"
    finally:
        shared.forget()
