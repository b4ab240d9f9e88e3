"""What augmentations do to the pixels, and whether labels and shares say the truth about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy.stats import beta as beta_distribution
from scipy.stats import chisquare, ks_2samp, kstest
from torch import Tensor
from torchvision.transforms import RandAugment as TorchvisionRandAugment
from torchvision.transforms import RandomErasing as TorchvisionRandomErasing
from torchvision.transforms import RandomResizedCrop, TrivialAugmentWide
from torchvision.transforms.autoaugment import InterpolationMode, _apply_op
from torchvision.transforms.functional import resized_crop

from budgetrun.aug import _operations, augmix, randaugment, trivialaugment
from budgetrun.aug.augmix import AugMix
from budgetrun.aug.crop import Crop
from budgetrun.aug.cutmix import CutMix
from budgetrun.aug.cutout import Cutout
from budgetrun.aug.flip import Flip
from budgetrun.aug.mixup import Mixup
from budgetrun.aug.randaugment import RandAugment
from budgetrun.aug.random_erasing import RandomErasing
from budgetrun.aug.resized_crop import ResizedCrop
from budgetrun.aug.ricap import RICAP
from budgetrun.aug.trivialaugment import TrivialAugment
from budgetrun.contracts import Batch, Random
from budgetrun.loss.cross_entropy import CrossEntropy

CPU = torch.device("cpu")
PLAUSIBLE = 1e-3  # a fixed seed either passes always or never; a wrong distribution is far below


def seeded(seed: int = 0) -> Random:
    return Random.seeded(seed, "aug", CPU)


def plain(images: Tensor) -> Batch:
    index = torch.arange(len(images))
    return Batch(images, index[:, None], index[:, None] % 10, torch.ones(len(images), 1), drawn=index)


def assert_sources_are_described(mixed: Batch, batch: Batch) -> None:
    """Labels belong to the sources, every column is a permutation of the batch, and the drawn examples stay."""
    assert torch.equal(mixed.label, 3 * ((mixed.index - 1000) // 7) % 5)
    for column in mixed.index.T:
        assert sorted(column.tolist()) == batch.drawn.tolist()
    assert torch.equal(mixed.drawn, batch.drawn)
    assert mixed.share.dtype == torch.float32
    torch.testing.assert_close(mixed.share.sum(1), torch.ones(len(batch)))
    assert mixed.share.min() >= 0


# ---- crop and flip


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_crop_is_a_window_of_the_padded_image_at_a_uniform_place_of_each_image_s_own(
    coded_batch: Callable[..., Batch], padding: int
) -> None:
    corners = []
    for seed in range(8):
        batch = coded_batch(250, 6, 8)
        original = np.pad(batch.images.numpy() + 1, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
        batch.images = batch.images + 1  # so that only padding is 0
        cropped = Crop(padding)(batch, seeded(seed)).images.numpy()
        for i in range(250):
            assert cropped[i, 0].max() == i + 1
            y, x = np.argwhere(cropped[i, 0])[0]
            top, left = cropped[i, 1, y, x] - 1 - y + padding, cropped[i, 2, y, x] - 1 - x + padding
            np.testing.assert_array_equal(cropped[i], original[i, :, top : top + 6, left : left + 8])
            corners.append(top * (2 * padding + 1) + left)
    counts = np.bincount(corners, minlength=(2 * padding + 1) ** 2)
    assert len(counts) == (2 * padding + 1) ** 2
    assert chisquare(counts).pvalue > PLAUSIBLE or padding == 0


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others_alone(coded_batch: Callable[..., Batch]) -> None:
    flipped = 0
    for seed in range(8):
        batch = coded_batch(250, 4, 5)
        images = batch.images.clone()
        after = Flip(allowed=True)(batch, seeded(seed)).images
        same = (after == images).flatten(1).all(1)
        mirrored = (after == torch.from_numpy(images.numpy()[..., ::-1].copy())).flatten(1).all(1)
        assert (same ^ mirrored).all()
        flipped += int(mirrored.sum())
    assert 900 < flipped < 1100  # 4.5 standard deviations of 2000 coin flips


def test_flip_does_nothing_where_mirrored_images_change_their_meaning(coded_batch: Callable[..., Batch]) -> None:
    batch = coded_batch(250, 4, 5)
    images = batch.images.clone()
    assert torch.equal(Flip(allowed=False)(batch, seeded()).images, images)


# ---- resized crop


def test_a_part_is_resized_as_torchvision_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    side, generator = 40, torch.Generator().manual_seed(0)
    images = torch.randint(256, (60, 3, side, side), generator=generator, dtype=torch.uint8)
    images[::2] = (
        images[::2].float().unflatten(3, (10, 4)).mean(4).repeat_interleave(4, 3).to(torch.uint8)
    )  # smooth too
    height, width = torch.randint(1, side + 1, (2, 60), generator=generator)
    height[:2] = width[:2] = side
    top, left = (torch.rand(2, 60, generator=generator) * (side + 1 - torch.stack([height, width]))).long()
    for size in (24, side, 60):  # smaller, as large, larger
        step = ResizedCrop(size, 0.08, 4 / 3)
        parts = tuple(values.float() for values in (top, left, height, width))
        monkeypatch.setattr(ResizedCrop, "parts", lambda *_, parts=parts: parts)
        found = step(plain(images.clone()), seeded()).images
        assert found.dtype == torch.uint8
        expected = torch.stack(
            [
                resized_crop(image, int(t), int(lf), int(h), int(w), [size, size], antialias=True)
                for image, t, lf, h, w in zip(images, top, left, height, width, strict=True)
            ]
        )
        assert (found.int() - expected.int()).abs().max() <= 1


def test_parts_have_torchvision_s_sizes_and_places() -> None:
    side, count = 50, 4000
    top, left, height, width = ResizedCrop(None, 0.08, 4 / 3).parts(count, side, seeded().device)
    torch.manual_seed(0)
    draws = [RandomResizedCrop.get_params(torch.empty(1, side, side), (0.08, 1), (3 / 4, 4 / 3)) for _ in range(count)]
    theirs = np.array(draws).T
    for ours, other in zip((top, left, height, width), theirs, strict=True):
        assert ks_2samp(ours.numpy(), other).pvalue > PLAUSIBLE
    area, other = (height * width).numpy(), theirs[2] * theirs[3]
    assert ks_2samp(area, other).pvalue > PLAUSIBLE
    assert ((top >= 0) & (left >= 0) & (top + height <= side) & (left + width <= side)).all()
    whole = ResizedCrop(None, 1, 1).parts(10, side, seeded().device)
    assert [values.unique().tolist() for values in whole] == [[0], [0], [side], [side]]


def test_after_ten_tries_that_do_not_fit_the_part_is_the_whole_image() -> None:
    _, _, height, width = ResizedCrop(None, 0.99, 1000.0).parts(500, 30, seeded().device)
    assert ((height == 30) & (width == 30)).float().mean() > 0.8


# ---- mixup


@pytest.mark.parametrize("draw", ["batch", "image"])
def test_mixup_is_the_mean_of_two_images_weighted_by_their_shares(coded_batch: Callable[..., Batch], draw: str) -> None:
    batch = coded_batch(100, 6, 8)
    mixed = Mixup(alpha=0.3, draw=draw)(batch, seeded())
    assert_sources_are_described(mixed, batch)
    assert torch.equal(mixed.index[:, 0], batch.index[:, 0])
    pixels = batch.images.double()
    for i in range(100):
        first, second = ((mixed.index[i] - 1000) // 7).tolist()
        expected = float(mixed.share[i, 0]) * pixels[first] + float(mixed.share[i, 1]) * pixels[second]
        torch.testing.assert_close(mixed.images[i].double(), expected, atol=1e-3, rtol=0)
    assert len(set(mixed.share[:, 0].tolist())) == (1 if draw == "batch" else 100)


@pytest.mark.parametrize("draw", ["batch", "image"])
def test_mixup_s_shares_follow_the_beta_distribution_and_are_not_folded(
    coded_batch: Callable[..., Batch], draw: str
) -> None:
    random, mixup = seeded(), Mixup(alpha=0.3, draw=draw)
    if draw == "image":
        shares = torch.cat([mixup(coded_batch(250, 1, 1), random).share[:, 0] for _ in range(8)])
    else:
        shares = torch.stack([mixup(coded_batch(2, 1, 1), random).share[0, 0] for _ in range(2000)])
    assert len(shares) == 2000
    assert kstest(shares.double().numpy(), beta_distribution(0.3, 0.3).cdf).pvalue > PLAUSIBLE


def test_mixup_s_partners_change_from_batch_to_batch(coded_batch: Callable[..., Batch]) -> None:
    random = seeded()
    batch = coded_batch(50, 1, 1)
    partners = [tuple(Mixup(alpha=0.3, draw="batch")(batch, random).index[:, 1].tolist()) for _ in range(5)]
    assert len(set(partners)) == 5


# ---- CutMix


@pytest.mark.parametrize("draw", ["batch", "image"])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_cutmix_pastes_a_rectangle_in_place_and_shares_are_the_visible_areas(
    coded_batch: Callable[..., Batch], draw: str, alpha: float
) -> None:
    random, shares = seeded(), set()
    for _ in range(8):
        batch = coded_batch(60, 7, 10)
        mixed = CutMix(alpha=alpha, draw=draw, probability=1.0)(batch, random)
        assert_sources_are_described(mixed, batch)
        assert torch.equal(mixed.index[:, 0], batch.index[:, 0])
        assert torch.equal(mixed.images[:, 1:], batch.images[:, 1:])  # every pixel stays at its place
        for i in range(60):
            partner = int(mixed.index[i, 1] - 1000) // 7
            if partner == i:
                assert torch.equal(mixed.images[i], batch.images[i])
                continue
            pasted = (mixed.images[i, 0] == partner).numpy()
            assert (pasted | (mixed.images[i, 0] == i).numpy()).all()
            np.testing.assert_array_equal(pasted, np.outer(pasted.any(1), pasted.any(0)))
            for side in (pasted.any(1), pasted.any(0)):  # without holes
                assert np.abs(np.diff(side.astype(int))).sum() <= 2
                assert pasted.sum() == 0 or np.ptp(np.flatnonzero(side)) + 1 == side.sum()
            assert float(mixed.share[i, 1]) == pytest.approx(pasted.sum() / 70, abs=1e-6)
        if draw == "batch":
            assert len(set(mixed.share[:, 1].tolist())) == 1
        shares |= set(mixed.share[:, 1].tolist())
    assert len(shares) > 5


def test_cutmix_s_boxes_have_the_published_sizes_and_places(coded_batch: Callable[..., Batch]) -> None:
    """Against a loop over algorithm A1: side sqrt(1 - lambda), a uniform centre, and a cut at the border."""
    size, generator = 16, np.random.default_rng(5)
    areas, coverage = [], np.zeros(size)
    for _ in range(8000):
        side = int(size * np.sqrt(1 - generator.beta(1, 1)))
        cy, cx = generator.integers(size, size=2)
        half = side // 2  # the published code's boxes have even sides
        ys = [y for y in range(cy - half, cy + half) if 0 <= y < size]
        xs = [x for x in range(cx - half, cx + half) if 0 <= x < size]
        areas.append(len(ys) * len(xs) / size**2)
        coverage[ys] += len(xs) / size / 8000
    random, shares, ours = seeded(), [], np.zeros(size)
    for _ in range(16):
        mixed = CutMix(alpha=1.0, draw="image", probability=1.0)(coded_batch(250, size, size), random)
        own = mixed.images[:, 0] == torch.arange(250)[:, None, None]
        others = mixed.index[:, 0] != mixed.index[:, 1]
        shares += mixed.share[:, 1].tolist()
        ours += (~own[others]).double().mean((0, 2)).numpy() / 16
    assert ks_2samp(areas, shares).pvalue > PLAUSIBLE
    np.testing.assert_allclose(ours, coverage, atol=0.03)  # 4 standard errors of 4000 boxes
    assert coverage[size // 2] > 1.3 * coverage[0]  # boxes at the border are cut, so it is covered less


def test_cutmix_mixes_as_many_batches_as_its_probability_says(coded_batch: Callable[..., Batch]) -> None:
    random = seeded()
    batch = coded_batch(4, 16, 16)
    unmixed = CutMix(alpha=1.0, draw="image", probability=0.0)(batch, random)
    assert torch.equal(unmixed.images, batch.images)
    assert torch.equal(unmixed.share, torch.tensor([[1.0, 0.0]]).expand(4, 2))
    half = CutMix(alpha=1.0, draw="image", probability=0.5)
    mixed = sum(bool((half(batch, random).share[:, 1] > 0).any()) for _ in range(400))
    assert 155 < mixed < 245  # 4.5 standard deviations


# ---- RICAP


def quadrants(mixed: Batch, i: int, height: int, width: int) -> Any:
    """The four regions (rows, columns) of image i as its shares imply them."""
    a, b, c, _ = mixed.share[i].double().tolist()
    x, y = round((a + c) * width), round((a + b) * height)
    return [
        (slice(0, y), slice(0, x)),
        (slice(0, y), slice(x, width)),
        (slice(y, height), slice(0, x)),
        (slice(y, height), slice(x, width)),
    ]


@pytest.mark.parametrize("draw", ["batch", "image"])
@pytest.mark.parametrize(("height", "width"), [(6, 9), (8, 8)])
def test_ricap_s_quadrants_are_whole_crops_of_the_named_sources_and_the_shares_their_areas(
    coded_batch: Callable[..., Batch], draw: str, height: int, width: int
) -> None:
    random, points = seeded(), set()
    for _ in range(8):
        batch = coded_batch(60, height, width)
        mixed = RICAP(beta=0.3, draw=draw)(batch, random)
        assert_sources_are_described(mixed, batch)
        layouts = set()
        for i in range(60):
            layout = []
            for k, (rows, columns) in enumerate(quadrants(mixed, i, height, width)):
                patch = mixed.images[i, :, rows, columns].long()
                area = patch.shape[1] * patch.shape[2]
                assert float(mixed.share[i, k]) == pytest.approx(area / (height * width), abs=1e-6)
                layout.append((rows.start, columns.start, *patch.shape))
                if area:
                    source = int(mixed.index[i, k] - 1000) // 7
                    y, x = int(patch[1, 0, 0]), int(patch[2, 0, 0])
                    crop = batch.images[source, :, y : y + patch.shape[1], x : x + patch.shape[2]]
                    assert torch.equal(patch, crop.long())
                    layout.append((y, x))
            layouts.add(tuple(layout))
        assert (len(layouts) == 1) == (draw == "batch")
        points |= layouts
    assert len(points) > 5


def test_ricap_takes_its_four_sources_from_permutations_of_their_own(coded_batch: Callable[..., Batch]) -> None:
    mixed = RICAP(beta=0.3, draw="batch")(coded_batch(250, 4, 4), seeded())
    for k in range(4):
        assert (mixed.index[:, k] == mixed.drawn).float().mean() < 0.05
        for other in range(k):
            assert (mixed.index[:, k] == mixed.index[:, other]).float().mean() < 0.05


def test_ricap_s_point_and_places_have_the_published_distributions(coded_batch: Callable[..., Batch]) -> None:
    """The point is round(size x Beta(0.3, 0.3)) on both axes, a crop's place is uniform where it fits."""
    height, width, random = 5, 8, seeded()
    xs, ys, lefts, tops = [], [], [], []
    for _ in range(20):
        mixed = RICAP(beta=0.3, draw="image")(coded_batch(250, height, width), random)
        for i in range(250):
            rows, columns = quadrants(mixed, i, height, width)[3]
            xs.append(columns.start)
            ys.append(rows.start)
            patch = mixed.images[i, :, rows, columns]
            if patch.numel() and columns.start == 4:
                lefts.append(int(patch[2, 0, 0]))
            if patch.numel() and rows.start == 2:
                tops.append(int(patch[1, 0, 0]))
    for points, size in ((xs, width), (ys, height)):
        edges = beta_distribution(0.3, 0.3).cdf((np.arange(size + 2) - 0.5) / size)
        assert chisquare(np.bincount(points, minlength=size + 1), np.diff(edges) * 5000).pvalue > PLAUSIBLE
    assert len(lefts) > 100
    assert chisquare(np.bincount(lefts, minlength=5)).pvalue > PLAUSIBLE  # 4 columns fit at 0 .. 4
    assert len(tops) > 100
    assert chisquare(np.bincount(tops, minlength=3)).pvalue > PLAUSIBLE  # 3 rows fit at 0 .. 2


# ---- the loss of mixed images


@pytest.mark.parametrize("sources", [1, 2, 4])
def test_the_loss_of_shares_is_the_cross_entropy_with_probability_targets(sources: int) -> None:
    generator = torch.Generator().manual_seed(sources)
    logits = 5 * torch.randn(200, 6, generator=generator)
    label = torch.randint(6, (200, sources), generator=generator)
    share = torch.rand(200, sources, generator=generator)
    share = share / share.sum(1, keepdim=True)
    target = torch.zeros(200, 6)
    for i in range(200):
        for k in range(sources):
            target[i, label[i, k]] += share[i, k]
    batch = Batch(torch.zeros(200, 1, 1, 1), label, label, share, drawn=label[:, 0])
    torch.testing.assert_close(CrossEntropy(0.0)(logits, batch), F.cross_entropy(logits, target, reduction="none"))


# ---- RandAugment: the tables


def test_the_operations_of_arazo_at_magnitude_4_are_those_of_the_facts() -> None:
    table = {name: (value, signed) for name, value, signed in randaugment.arazo2021(4, 32, 32)}
    expected = {
        "rotate": (4.0, True),
        "shear_x": (0.04, True),
        "shear_y": (0.04, True),
        "translate_x": (40 / 3, True),
        "translate_y": (40 / 3, True),
        "cutout": (16 / 3, False),
        "color": (0.34, False),
        "contrast": (0.34, False),
        "brightness": (0.34, False),
        "sharpness": (0.34, False),
        "solarize_add": (44 / 3, False),
        "solarize": (1024 / 30, False),
        "posterize": (1, False),
    }
    for name, (value, signed) in expected.items():
        # a shift is rounded to whole pixels in the end, and may be whole from the start
        tolerance = 0.5 if name.startswith("translate") else 1e-9
        assert table[name] == (pytest.approx(value, abs=tolerance), signed), name
    assert set(table) - set(expected) == {"autocontrast", "equalize", "invert"}
    assert len(randaugment.arazo2021(4, 32, 32)) == 16


@given(magnitude=st.floats(0, 30), size=st.integers(8, 96))
def test_arazo_s_values_grow_in_a_straight_line_and_ignore_the_size_of_the_image(magnitude: Any, size: Any) -> None:
    low, high, here = (
        {name: value for name, value, _ in randaugment.arazo2021(m, size, size)} for m in (0, 30, magnitude)
    )
    for name in set(here) - {"posterize"}:
        tolerance = 0.5 if name.startswith("translate") else 1e-9
        assert here[name] == pytest.approx(low[name] + magnitude / 30 * (high[name] - low[name]), abs=tolerance)
    assert here["posterize"] == max(1, int(4 * magnitude / 30))
    assert (low["color"], high["color"], high["translate_x"], high["cutout"]) == pytest.approx((0.1, 1.9, 100, 40))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 28)])
def test_the_other_table_is_torchvision_s_at_every_magnitude(height: int, width: int) -> None:
    theirs = TorchvisionRandAugment()._augmentation_space(31, (height, width))
    for magnitude in range(31):
        ours = {
            name.replace("_", ""): (v, signed) for name, v, signed in randaugment.torchvision(magnitude, height, width)
        }
        assert list(ours) == [name.lower() for name in theirs]
        for name, (values, signed) in theirs.items():
            value = float(values[magnitude]) if values.ndim else 0.0
            assert ours[name.lower()] == (pytest.approx(value, rel=1e-5, abs=1e-5), signed), (name, magnitude)


# ---- RandAugment: the operations


def pictures(channels: int, size: int = 32) -> Tensor:
    """Smooth pictures and pure noise, uint8."""
    generator = torch.Generator().manual_seed(channels)
    coarse = 255 * torch.rand(3, channels, 6, 6, generator=generator)
    smooth = F.interpolate(coarse, (size, size), mode="bilinear").to(torch.uint8)
    noise = torch.randint(256, (3, channels, size, size), generator=generator, dtype=torch.uint8)
    return torch.cat([smooth, noise])


def to_pil(image: Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def from_pil(image: Image.Image) -> Tensor:
    array = np.array(image)
    return torch.from_numpy(array[:, :, None] if array.ndim == 2 else array).permute(2, 0, 1)


def published(name: str, image: Image.Image, value: float) -> Image.Image:
    """The operation as the code behind Arazo et al. 2021 states it, on PIL images."""
    affine = Image.Transform.AFFINE
    match name:
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "invert":
            return ImageOps.invert(image)
        case "rotate":
            return image.rotate(value)
        case "posterize":
            return ImageOps.posterize(image, max(1, int(value)))
        case "solarize":
            return ImageOps.solarize(image, value)
        case "solarize_add":
            added = np.clip(np.array(image).astype(int) + value, 0, 255).astype(np.uint8)
            return ImageOps.solarize(Image.fromarray(added), 128)
        case "color":
            return ImageEnhance.Color(image).enhance(value)
        case "contrast":
            return ImageEnhance.Contrast(image).enhance(value)
        case "brightness":
            return ImageEnhance.Brightness(image).enhance(value)
        case "sharpness":
            return ImageEnhance.Sharpness(image).enhance(value)
        case "shear_x":
            return image.transform(image.size, affine, (1, value, 0, 0, 1, 0))
        case "shear_y":
            return image.transform(image.size, affine, (1, 0, 0, value, 1, 0))
        case "translate_x":
            return image.transform(image.size, affine, (1, 0, value, 0, 1, 0))
        case "translate_y":
            return image.transform(image.size, affine, (1, 0, 0, 0, 1, value))
    raise AssertionError(name)


ARAZO = [(name, signed) for name, _, signed in randaugment.arazo2021(4, 32, 32) if name != "cutout"]
# rotations and shears round a pixel halfway between two to either: one pixel in 64 at a shear of 0.04;
# where PIL computes colours in whole numbers and torchvision in fractions, they differ by at most one step
ROUNDED = {"rotate": 1 / 256, "shear_x": 1 / 48, "shear_y": 1 / 48}
ONE_STEP = {"autocontrast", "color", "contrast", "brightness", "sharpness"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "signed"), ARAZO)
def test_an_operation_changes_pixels_as_pil_does_for_arazo(name: str, signed: bool, channels: int) -> None:
    """The sign of the angle or the shift is free, as it is drawn at random: only the pair has to be PIL's pair."""
    images = pictures(channels)
    for magnitude in (0, 1, 4, 5, 9, 14, 21, 29, 30):
        value = next(v for n, v, _ in randaugment.arazo2021(magnitude, 32, 32) if n == name)
        signs = (1, -1) if signed else (1,)
        ours = [_operations.apply(name, images, sign * value, value, seeded()).int() for sign in signs]
        theirs = [
            torch.stack([from_pil(published(name, to_pil(image), sign * value)) for image in images]).int()
            for sign in signs
        ]
        orders = [theirs, theirs[::-1]]
        differences = [
            torch.stack([(a - b).abs() for a, b in zip(ours, order, strict=True)]).double() for order in orders
        ]
        difference = min(differences, key=lambda d: float(d.sum()))
        limit = 1 if name in ONE_STEP else 0
        wrong = float((difference > limit).double().mean())
        assert wrong <= ROUNDED.get(name, 0), f"at magnitude {magnitude}"


@pytest.mark.parametrize("magnitude", [1, 9, 30])
def test_an_operation_changes_pixels_as_torchvision_does_for_its_own_table(magnitude: int) -> None:
    """torchvision's transform applies one operation to a whole batch, so each of its operations is known by name."""
    titles = {name.lower(): name for name in TorchvisionRandAugment()._augmentation_space(31, (32, 32))}
    images = pictures(3)
    for name, value, signed in randaugment.torchvision(magnitude, 32, 32):
        for sign in (1, -1) if signed else (1,):
            if name == "identity":
                continue
            title = titles[name.replace("_", "")]
            ours = _operations.apply(name, images, sign * value, 1 + sign * value, seeded())
            # rotate turns in the opposite direction from affine's angle
            turn = -1 if name == "rotate" else 1
            theirs = _apply_op(images, title, turn * sign * value, InterpolationMode.NEAREST, fill=None)
            difference = (ours.int() - theirs.int()).abs()
            limit = 1 if name in ONE_STEP else 0
            wrong = float((difference > limit).double().mean())
            assert wrong <= ROUNDED.get(name, 0), (name, sign)


@pytest.mark.parametrize("magnitude", [3, 4, 15])
def test_cutout_draws_pil_s_grey_rectangle_at_a_uniform_place(magnitude: int) -> None:
    side = next(v for n, v, _ in randaugment.arazo2021(magnitude, 32, 32) if n == "cutout")
    images = torch.zeros(3000, 3, 32, 32, dtype=torch.uint8)
    cut = _operations.apply("cutout", images, side, side, seeded())
    grey = (cut == torch.tensor([125, 123, 114])[:, None, None]).all(1)
    assert torch.equal(grey, (cut != 0).any(1))
    corners = np.array([np.argwhere(g)[0] for g in grey.numpy()])
    for (top, left), image in zip(corners[:300], cut, strict=False):
        canvas = Image.new("RGB", (32, 32))
        box = (left, top, min(32, left + side), min(32, top + side))
        ImageDraw.Draw(canvas).rectangle([float(v) for v in box], (125, 123, 114))
        assert torch.equal(image, from_pil(canvas))
    # the corner is int(max(0, U(0, 32) - side / 2))
    edges = np.clip(np.arange(1, 34) + side / 2, None, 32)
    chances = np.diff(edges, prepend=0)[: int(np.ceil(32 - side / 2))] / 32
    for axis in (0, 1):
        assert chisquare(np.bincount(corners[:, axis], minlength=len(chances)), 3000 * chances).pvalue > PLAUSIBLE


def outcomes(ranges: str, picture: Tensor, magnitude: int) -> dict[tuple[str, int], Tensor]:
    """What becomes of one picture under each operation and sign."""
    height, width = picture.shape[1:]
    table = randaugment.RANGES[ranges](magnitude, height, width)
    found = {}
    for name, value, signed in table:
        for sign in (1, -1) if signed else (1,):
            factor = value if ranges == "arazo2021" else 1 + sign * value
            if name not in ("cutout", "identity"):
                found[name, sign] = _operations.apply(name, picture[None], sign * value, factor, seeded())[0]
    return found


@pytest.mark.parametrize("ranges", ["arazo2021", "torchvision"])
def test_every_image_gets_an_operation_and_a_sign_of_its_own_all_equally_often(ranges: str) -> None:
    picture = pictures(3)[0]
    images = picture.expand(4000, 3, 32, 32).contiguous()
    after = RandAugment(operations=1, magnitude=9, ranges=ranges)(plain(images), seeded()).images
    results, rest, counts = outcomes(ranges, picture, 9), torch.ones(4000, dtype=torch.bool), {}
    assert len({image.numpy().tobytes() for image in results.values()}) == len(results)
    for key, image in results.items():
        same = (after == image).flatten(1).all(1)
        counts[key] = int(same.sum())
        rest &= ~same
    if ranges == "torchvision":
        assert torch.equal(after[rest], images[rest])
    names = {name for name, _ in results}
    per_name = [sum(counts.get((name, sign), 0) for sign in (1, -1)) for name in names] + [int(rest.sum())]
    assert len(per_name) == (16 if ranges == "arazo2021" else 14)
    assert chisquare(per_name).pvalue > PLAUSIBLE
    for name in names:
        if (name, -1) in counts:
            assert chisquare([counts[name, 1], counts[name, -1]]).pvalue > PLAUSIBLE


def test_two_operations_follow_one_another(coded_batch: Callable[..., Batch]) -> None:
    """With 14 x 14 pairs of torchvision's operations, every outcome is one operation after another."""
    picture = pictures(3)[1]
    images = picture.expand(60, 3, 32, 32).contiguous()
    after = RandAugment(operations=2, magnitude=9, ranges="torchvision")(plain(images), seeded(2)).images
    once = [picture, *outcomes("torchvision", picture, 9).values()]
    twice = {
        image.numpy().tobytes() for first in once for image in [first, *outcomes("torchvision", first, 9).values()]
    }
    assert all(image.numpy().tobytes() in twice for image in after)
    assert len({image.numpy().tobytes() for image in after}) > 30


def test_randaugment_without_operations_changes_nothing_and_never_changes_labels() -> None:
    images = pictures(3)
    batch = RandAugment(operations=0, magnitude=4, ranges="arazo2021")(plain(images.clone()), seeded())
    assert torch.equal(batch.images, images)
    batch = RandAugment(operations=2, magnitude=4, ranges="arazo2021")(plain(images.clone()), seeded())
    assert torch.equal(batch.label, plain(images).label)
    assert torch.equal(batch.share, torch.ones(6, 1))
    assert batch.images.dtype == torch.uint8


def test_every_magnitude_can_be_used_with_every_operation() -> None:
    images = pictures(1, size=8)
    for ranges in ("arazo2021", "torchvision"):
        for magnitude in (0, 15, 30):
            batch = plain(images.repeat(40, 1, 1, 1))
            changed = RandAugment(operations=2, magnitude=magnitude, ranges=ranges)(batch, seeded()).images
            assert changed.shape == (240, 1, 8, 8)
            assert not torch.equal(changed, images.repeat(40, 1, 1, 1))


# ---- cutout and random erasing


def test_cutout_hides_a_square_around_a_uniform_pixel_in_the_colour_of_the_mean() -> None:
    images = torch.full((4000, 3, 16, 24), 200, dtype=torch.uint8)
    cut = Cutout(side=0.5, fill=[0.2, 0.4, 0.1])(plain(images), seeded()).images
    hidden = (cut != 200).any(1)
    # 0.2 x 255 = 51, 0.4 x 255 = 102, 0.1 x 255 = 25.5, and half goes to the even number
    assert torch.equal(cut, torch.where(hidden[:, None], torch.tensor([51, 102, 26])[:, None, None], 200).byte())
    for axis, side in ((1, 16), (2, 24)):
        seen = hidden.any(3 - axis)
        first, length = seen.int().argmax(1).numpy(), seen.sum(1).numpy()
        # half a side of 8 pixels around the centres 0 to side - 1: five of these cut the square at the first pixel
        centre = np.where(first > 0, first + 4, length - 4)
        np.testing.assert_array_equal(length, np.minimum(side, centre + 4) - np.maximum(0, centre - 4))
        assert chisquare(np.bincount(centre, minlength=side)).pvalue > PLAUSIBLE
    assert torch.equal(hidden.flatten(1).sum(1), hidden.any(1).sum(1) * hidden.any(2).sum(1))  # rectangles


def erased(step: RandomErasing, images: Tensor) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """The images after the step, and the top, left, height and width [n, 4] of the boxes of those that have one."""
    after = step(plain(images), seeded()).images
    hidden = (after != images).any(1)
    some = hidden.flatten(1).any(1)
    down, across = hidden[some].any(2), hidden[some].any(1)
    lengths = down.sum(1), across.sum(1)
    assert torch.equal(hidden[some].flatten(1).sum(1), lengths[0] * lengths[1])
    return after, torch.stack([down.int().argmax(1), across.int().argmax(1), *lengths], 1).numpy()


def test_random_erasing_has_torchvision_s_sizes_and_places() -> None:
    images, count = torch.full((4000, 1, 30, 20), 200, dtype=torch.uint8), 2000
    _, ours = erased(RandomErasing(probability=0.5, area=[0.1, 0.7], ratio=4.0, fill=[0.0]), images)
    torch.manual_seed(0)
    empty = torch.empty(1, 30, 20)
    draws = [TorchvisionRandomErasing.get_params(empty, (0.1, 0.7), (1 / 4, 4), [0.0])[:4] for _ in range(count)]
    theirs = np.array([draw for draw in draws if draw[2:] != (30, 20)])  # else none of ten fits
    for axis in range(4):
        assert ks_2samp(ours[:, axis], theirs[:, axis]).pvalue > PLAUSIBLE
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > PLAUSIBLE
    # half of the images, and all of whose boxes fit: 4.5 standard deviations of coin flips
    assert abs(len(ours) - count * len(theirs) / count) < 145


def test_random_erasing_gives_every_pixel_a_value_of_its_own_or_changes_nothing() -> None:
    images = torch.full((500, 3, 32, 32), 7, dtype=torch.uint8)
    after, boxes = erased(RandomErasing(probability=1.0, area=[0.2, 0.4], ratio=1.0, fill=None), images)
    inside = np.concatenate(
        [
            after[i, :, top : top + tall, left : left + wide].flatten().numpy()
            for i, (top, left, tall, wide) in enumerate(boxes)
        ]
    )
    values = np.bincount(inside, minlength=256)
    assert chisquare(values).pvalue > PLAUSIBLE
    # a square of 0.2 to 0.4 of 1,024 pixels: sides of 14 to 20
    assert boxes[:, 2:].min() >= 14
    assert boxes[:, 2:].max() <= 20
    assert torch.equal(RandomErasing(0.0, [0.2, 0.4], 1.0, None)(plain(images.clone()), seeded()).images, images)
    whole = RandomErasing(1.0, [1.0, 1.0], 1.0, None)  # fits only where it is smaller than the image
    assert torch.equal(whole(plain(images.clone()), seeded()).images, images)


# ---- TrivialAugment


def test_trivialaugment_gives_each_image_torchvision_s_pixels_for_an_operation_and_a_strength_of_its_own() -> None:
    space = TrivialAugmentWide()._augmentation_space(31)
    images = pictures(3).repeat(100, 1, 1, 1)
    random = seeded(3).host
    choice, level, sign = (random.integers(many, size=600) for many in (14, 31, 2))
    after = TrivialAugment()(plain(images), seeded(3)).images
    assert after.dtype == torch.uint8
    titles = [*space]
    assert [*map(str.lower, titles)] == [name.replace("_", "") for name in trivialaugment.WIDE]
    pairs = set()
    for image, ours, name, at, negative in zip(images, after, np.array(titles)[choice], level, sign, strict=True):
        values, signed = space[name]
        # as float32, the 16th of 31 shifts up to 32 pixels is 15.999999, which torchvision cuts to 15 pixels
        value = round(float(values[at]), 5) if values.ndim else 0.0
        value = -value if signed and negative else value
        turn = -1 if name == "Rotate" else 1  # rotate turns in the opposite direction from affine's angle
        theirs = _apply_op(image, name, turn * value, InterpolationMode.NEAREST, None)
        limit = 1 if name.lower() in ONE_STEP else 0
        wrong = ((ours.int() - theirs.int()).abs() > limit).double().mean()
        assert wrong <= (1 / 48 if name in ("Rotate", "ShearX", "ShearY") else 0), (name, value)
        pairs.add((name, value))
    assert len(pairs) > 200


# ---- AugMix


def chained(image: Image.Image, name: str, level: float, sign: int) -> Image.Image:
    """An operation as AugMix's code for CIFAR states it, on PIL images; level: sampled, of 10."""
    size, bilinear, affine = image.size, Image.Resampling.BILINEAR, Image.Transform.AFFINE
    shift = sign * int(level * (size[0] / 3) / 10)
    factor = level * 1.8 / 10 + 0.1
    match name:
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "posterize":
            return ImageOps.posterize(image, 4 - int(level * 4 / 10))
        case "solarize":
            return ImageOps.solarize(image, 256 - int(level * 256 / 10))
        case "rotate":
            return image.rotate(-sign * int(level * 30 / 10), resample=bilinear)  # the other way round
        case "shear_x":
            return image.transform(size, affine, (1, sign * level * 0.3 / 10, 0, 0, 1, 0), resample=bilinear)
        case "shear_y":
            return image.transform(size, affine, (1, 0, 0, sign * level * 0.3 / 10, 1, 0), resample=bilinear)
        case "translate_x":
            return image.transform(size, affine, (1, 0, -shift, 0, 1, 0), resample=bilinear)
        case "translate_y":
            return image.transform(size, affine, (1, 0, 0, 0, 1, -shift), resample=bilinear)
        case "color":
            return ImageEnhance.Color(image).enhance(factor)
        case "contrast":
            return ImageEnhance.Contrast(image).enhance(factor)
        case "brightness":
            return ImageEnhance.Brightness(image).enhance(factor)
        case "sharpness":
            return ImageEnhance.Sharpness(image).enhance(factor)
    raise AssertionError(name)


@pytest.mark.parametrize("every", [False, True], ids=["theirs", "all"])
@pytest.mark.parametrize("severity", [3.0, 10.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_operation_of_augmix_changes_pixels_as_in_its_code(every: bool, severity: float, channels: int) -> None:
    """One chain of one operation without any of the image itself: alpha is so large that m is 1/2 of it."""
    images = pictures(channels).repeat(40, 1, 1, 1)
    step = AugMix(severity, width=1, depth=1, alpha=1e6, all_operations=every, consistency=0.0)
    after = step(plain(images), seeded(2)).images
    names = [*augmix.OPERATIONS, *(_operations.ENHANCED if every else ())]
    random = seeded(2).host  # the draws are made in this order
    choice, level = random.integers(len(names), size=240), random.uniform(0.1, severity, 240)
    sign, m = random.choice([-1, 1], size=240), random.beta(1e6, 1e6, 240)
    assert {*choice} == {*range(len(names))}
    for i, image in enumerate(images):
        name = names[choice[i]]
        chain = from_pil(chained(to_pil(image), name, level[i], sign[i])).double()
        expected = (1 - m[i]) * image.double() + m[i] * chain
        # colours computed in whole numbers by PIL differ by one step, of which half is mixed in
        assert ((after[i] - expected).abs() <= 0.51).double().mean() > 0.998, (name, level[i])


def test_augmix_mixes_chains_of_one_to_three_operations_by_dirichlet_and_beta_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An operation that adds one to every pixel, so that the mixture counts: x + m sum_i w_i depth_i."""
    monkeypatch.setattr(
        augmix,
        "of_each",
        lambda names, choice, values, images, random, mode: (
            images + (torch.from_numpy(choice != len(names) - 1)[:, None, None, None]).byte()
        ),
    )
    images = torch.full((4000, 1, 2, 2), 5, dtype=torch.uint8)
    mixed = AugMix(3.0, 1, None, 1.0, False, 0.0)(plain(images), seeded()).images
    assert torch.equal(mixed.amin((1, 2, 3)), mixed.amax((1, 2, 3)))
    # one chain of 1, 2 or 3 operations, m uniform: P(m depth <= t) is the mean of min(1, t / depth)
    above = (mixed[:, 0, 0, 0] - 5).double().numpy()
    assert kstest(above, lambda t: sum(np.clip(t / depth, 0, 1) for depth in (1, 2, 3)) / 3).pvalue > PLAUSIBLE
    # three chains, each of 1 to 3 operations: m is 1/2 and the mean depth is 2, whatever the weights
    mixed = AugMix(3.0, 3, None, 1.0, False, 0.0)(plain(images), seeded()).images[:, 0, 0, 0] - 5
    assert mixed.mean() == pytest.approx(1, abs=0.04)  # 4 standard errors
    # variance: E[m^2] E[d^2] - 1, with E[m^2] = 1/3; d the weighted depth, of variance 2/3 E[sum w^2] = 2/3 x 1/2
    assert mixed.var() == pytest.approx((4 + 1 / 3) / 3 - 1, abs=0.04)
    fixed = AugMix(3.0, 3, 4, 1e6, False, 0.0)(plain(images), seeded()).images
    torch.testing.assert_close(fixed, torch.full_like(fixed, 5 + 4 / 2), atol=0.02, rtol=0)  # m is 1/2


def test_augmix_gives_two_further_views_beside_the_image_itself_for_its_consistency_loss() -> None:
    images = pictures(3).repeat(20, 1, 1, 1)
    batch = AugMix(3.0, 3, None, 1.0, False, 12.0)(plain(images.clone()), seeded())
    assert torch.equal(batch.images, images)
    assert batch.others is not None
    assert batch.others.shape == (120, 2, 3, 32, 32)
    assert batch.passed == 360
    views = batch.views()
    assert torch.equal(views[:120], images.float())
    assert torch.equal(views[120:240], batch.others[:, 0])
    assert torch.equal(views[240:], batch.others[:, 1])
    different = (batch.others[:, 0] != batch.others[:, 1]).flatten(1).any(1)
    assert different.float().mean() > 0.95
    # a view is of its own image: nearer to it than to the next one
    near, far = ((batch.others - of[:, None]).abs().mean((1, 2, 3, 4)) for of in (images.float(), images.roll(1, 0)))
    assert (near < far).float().mean() > 0.95
    part = batch[torch.tensor([3, 1])]
    assert part.others is not None
    assert torch.equal(part.others, batch.others[[3, 1]])


# ---- all of them


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 9), height=st.integers(1, 9), width=st.integers(1, 9))
@pytest.mark.parametrize(
    "mixing",
    [
        Mixup(0.3, "batch"),
        Mixup(0.3, "image"),
        CutMix(1.0, "batch", 1.0),
        CutMix(1.0, "image", 1.0),
        RICAP(0.3, "batch"),
        RICAP(0.3, "image"),
    ],
)
def test_every_pixel_and_share_comes_from_the_named_sources_at_any_size(
    coded_batch: Callable[..., Batch], mixing: CutMix | Mixup | RICAP, seed: Any, count: Any, height: Any, width: Any
) -> None:
    """The mean number of the sources' rows over the pixels is their mean by share: true for areas and for mixtures."""
    batch = coded_batch(count, height, width)
    mixed = mixing(batch, seeded(seed))
    assert_sources_are_described(mixed, batch)
    rows = ((mixed.index - 1000) // 7).float()
    torch.testing.assert_close(
        mixed.images[:, 0].float().mean((1, 2)), (rows * mixed.share).sum(1), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("ranges", ["arazo2021", "torchvision"])
def test_randaugment_of_mixtures_is_that_of_their_nearest_whole_pixels(ranges: str) -> None:
    mixed = Mixup(0.3, "image")(plain(pictures(3).repeat(8, 1, 1, 1)), seeded())
    whole = replace(mixed, images=mixed.images.round().to(torch.uint8))
    step = RandAugment(3, 9, ranges)
    after = step(mixed, seeded(1)).images
    assert after.dtype == torch.uint8
    assert torch.equal(after, step(whole, seeded(1)).images)


@pytest.mark.parametrize(
    "step",
    [
        Crop(2),
        Flip(True),
        ResizedCrop(None, 0.08, 4 / 3),
        Mixup(0.3, "image"),
        CutMix(1.0, "image", 0.7),
        RICAP(0.3, "image"),
        RandAugment(2, 9, "arazo2021"),
        RandAugment(2, 9, "torchvision"),
        Cutout(0.5, [0.5, 0.5, 0.5]),
        RandomErasing(0.7, [0.02, 0.4], 3.3, None),
        TrivialAugment(),
        AugMix(3.0, 3, None, 1.0, True, 0.0),
    ],
    ids=lambda step: type(step).__name__ + getattr(step, "ranges", ""),
)
def test_the_same_seed_gives_the_same_images_and_another_seed_others(step: Any) -> None:
    def images(seed: int) -> Tensor:
        return step(plain(pictures(3).repeat(4, 1, 1, 1)), seeded(seed)).images

    assert torch.equal(images(1), images(1))
    assert not torch.equal(images(1), images(2))
