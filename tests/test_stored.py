"""Images that stay in a file or in the host's memory: they are used like a tensor, and change no result."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import checked, here, refused
from hypothesis import given
from hypothesis import strategies as st
from test_images import folder, pictures, repaint

from budgetrun.contracts import UserError
from budgetrun.dataset import _images, _store
from budgetrun.stored import Stored, on_disk
from budgetrun.train import run
from budgetrun.training.data import fingerprint, hold_out

PIXELS = torch.randint(256, (50, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def in_file(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return on_disk(PIXELS, tmp_path_factory.mktemp("images"))


@given(st.permutations(range(50)), st.lists(st.integers(0, 29), max_size=40), st.lists(st.integers(1, 17), min_size=1))
def test_whatever_is_asked_for_is_what_a_tensor_gives(
    in_file: Stored, order: list[int], asked: list[int], counts: list[int]
) -> None:
    rows, index = torch.tensor(order[:30]), torch.tensor(asked, dtype=torch.int64)
    tensor, images = PIXELS[rows], in_file.at(torch.tensor(order)).at(torch.arange(30))
    assert images.shape == tensor.shape
    assert torch.equal(images.clone(), tensor)
    assert torch.equal(images.index_select(0, index), tensor[index])
    assert torch.equal(images[index], tensor[index])
    assert torch.equal(images[tensor[:, 0, 0, 0] > 99], tensor[tensor[:, 0, 0, 0] > 99])
    assert torch.equal(images[3:20:2], tensor[3:20:2])
    assert torch.equal(images[-1], tensor[-1])
    assert all(map(torch.equal, images.split(counts[0]), tensor.split(counts[0])))
    reader, begin = images.reader(index), 0
    for count in counts:  # of any size, as at the end of an epoch
        assert torch.equal(reader.take(count), tensor[index[begin : begin + count]])
        begin += count


def test_large_batches_are_read_by_several_threads(tmp_path: Path) -> None:
    pixels = torch.randint(256, (3000, 3, 16, 16), dtype=torch.uint8)
    index = torch.randperm(3000)[:2999]
    assert torch.equal(on_disk(pixels, tmp_path).index_select(0, index), pixels[index])


LINES = [
    "sampler=uniform validation=0.1",
    "sampler=p_sgd aug=ricap noise=gaussian_pixels noise.rate=0.2",
    "sampler=is sampler.pool=3 sampler.threshold=1 noise=instance noise.rate=0.2",
    "sampler=glister validation=0.1",
    "sampler=sb scores=el2n",
    "sampler=vr noise=gaussian_pixels noise.fresh=true",
]


@pytest.mark.parametrize("line", LINES)
def test_a_run_is_the_same_wherever_its_images_live(line: str, tmp_path: Path) -> None:
    def of(place: str) -> dict[str, Any]:
        common = f"{line} model.width=2 epochs=2 evaluations=2 data_on={place}"
        return run(checked(*common.split(), f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path / place}"))

    on_device, on_the_disk = of("device"), of("disk")
    kept = ("run_id", "train_loss", "test_loss", "updates", "examples_forward", "dataset_fingerprint")
    assert {key: on_device[key] for key in kept} == {key: on_the_disk[key] for key in kept}
    assert not list((tmp_path / "data").iterdir()), "the file has no name"


def test_a_folder_of_images_is_read_from_its_file_and_a_resumed_run_too(tmp_path: Path) -> None:
    pictures(tmp_path / "data" / "image_folder")
    line = "dataset=image_folder dataset.size=8 model=cnn model.width=2 epochs=6 batch_size=4 evaluations=2"
    in_memory = here(f"{line} data_on=device output_dir=outputs/memory", tmp_path)
    done = here(line, tmp_path)
    assert "on the disk" in done.out
    assert "on the disk" not in in_memory.out
    assert done.code == in_memory.code == 0, done.err
    losses = [json.loads(p.read_text())["test_loss"] for p in (tmp_path / "outputs").rglob("result.json")]
    assert len(losses) == 2
    assert len(set(losses)) == 1


# ---- the file is made once, part by part


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image was decoded; five are decoded together."""
    count: Counter[str] = Counter()
    really = _images.decode

    def decode(root: Path, names: list[str], *others: Any) -> Any:
        count.update(Path(name).name for name in names)
        return really(root, names, *others)

    monkeypatch.setattr(_images, "decode", decode)
    monkeypatch.setattr(_images, "TOGETHER", 5)
    return count


def test_decoding_goes_on_where_it_was_interrupted_and_after_a_broken_image_was_removed(
    tmp_path: Path, decoded: Counter[str]
) -> None:
    root = pictures(tmp_path / "pictures")
    bad = root / "train" / "emu" / "emu99.jpg"  # in the third part
    bad.write_bytes(b"no image")
    for total in (15, 20):
        with pytest.raises(UserError, match=r"emu99\.jpg cannot be read as an image"):
            folder().load(str(tmp_path))
        assert sum(decoded.values()) == total
    bad.unlink()
    found = folder().load(str(tmp_path))
    assert sorted(decoded.values())[:10] == [1] * 10, "the first two parts are as they were"
    assert len(decoded) == 19
    (kept,) = (tmp_path / "decoded").glob("*.bin")
    assert not [path for path in kept.parent.iterdir() if path.suffix in (".partial", ".parts")]
    kept.unlink()
    anew = folder().load(str(tmp_path))
    assert torch.equal(found.images.clone(), anew.images.clone())
    assert torch.equal(found.test_images.clone(), anew.test_images.clone())


@pytest.mark.parametrize("harm", ["changed", "shorter", "torn", "other size"])
def test_what_an_interrupted_process_left_is_used_only_if_it_is_whole_and_of_these_images(
    harm: str, tmp_path: Path, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pictures(tmp_path / "pictures")
    really, parts = _store.on_the_disk, itertools.count()

    def interrupted(file: Any) -> None:
        really(file)
        if next(parts) == 3:  # twice a part: its pixels, and its line
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_store, "on_the_disk", interrupted)
        with pytest.raises(KeyboardInterrupt):
            folder().load(str(tmp_path))
    assert sum(decoded.values()) == 10
    (partial,) = (tmp_path / "decoded").glob("*.partial")
    journal, first = partial.with_suffix(".parts"), sorted((root / "train" / "cat").iterdir())[0]
    if harm == "changed":
        repaint(first)
    elif harm == "shorter":
        partial.write_bytes(partial.read_bytes()[:-1])
    elif harm == "torn":
        journal.write_text(journal.read_text()[:-5])
    else:
        journal.write_text(journal.read_text().replace("768", "192", 1))
    found = folder().load(str(tmp_path))
    assert decoded[first.name] == (1 if harm == "torn" else 2)
    for path in (tmp_path / "decoded").iterdir():
        path.unlink()
    assert torch.equal(found.images.clone(), folder().load(str(tmp_path)).images.clone())


def test_a_disk_without_room_is_said_before_anything_is_decoded(
    tmp_path: Path, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "data" / "image_folder")
    monkeypatch.setattr(_store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5000}))
    refused(
        here("dataset=image_folder", tmp_path), "do not fit into data/decoded", "54 KiB", "4.88 KiB", "dataset.size"
    )
    assert not decoded


# ---- what was worked out is kept beside it


def test_a_later_start_reads_no_pixel_and_another_label_or_split_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pictures(tmp_path / "pictures")

    def prints() -> list[Any]:
        data = folder().load(str(tmp_path))
        return [
            data.mean,
            data.std,
            fingerprint(data),
            fingerprint(hold_out(data, 0.25)),
            fingerprint(hold_out(data, 0.5)),
        ]

    first = prints()
    assert len({*first[2:]}) == 3
    whole = folder().load(str(tmp_path))
    whole.facts = None
    assert fingerprint(whole) == first[2]

    def nothing(*_: Any) -> Any:
        raise AssertionError("pixels were read")

    with monkeypatch.context() as patch:
        patch.setattr(_images, "mean_and_std", nothing)
        patch.setattr(Stored, "split", nothing)
        assert prints() == first
        relabelled = folder().load(str(tmp_path))
        relabelled.labels = relabelled.labels.flip(0)
        with pytest.raises(AssertionError, match="pixels were read"):
            fingerprint(relabelled)
    repaint(next((root / "train" / "cat").glob("*.bmp")))
    changed = prints()
    assert all(one != other for one, other in zip(changed, first, strict=True))
    (facts,) = (tmp_path / "decoded").glob("*.json")
    for damaged in ("", "{", "[]", '{"key": 1}'):
        facts.write_text(damaged)
        assert prints() == changed


def test_a_data_set_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "pictures")
    first = folder().load(str(tmp_path))
    (facts,) = (tmp_path / "decoded").glob("*.json")
    facts.unlink()

    def refuses(*_: Any) -> None:
        raise UserError("the file system is read-only")

    monkeypatch.setattr(_store, "write_text", refuses)
    assert folder().load(str(tmp_path)).mean == first.mean
