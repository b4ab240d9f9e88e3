"""Data sets in their true formats: small archives that the tests write, and really download from a local server."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import pickle
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import here, refused, values_of
from PIL import Image
from torchvision import datasets

from budgetrun.contracts import Data, Dataset, UserError

NAMES = ["cifar10", "cifar100", "svhn", "fashion_mnist", "stl10"]
SIZES = (40, 20)  # train, test


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@dataclass
class Published:
    """A small data set as its site would offer it: archives by path below data_dir, and what is in them."""

    files: dict[str, bytes] = field(default_factory=dict)
    images: list[np.ndarray] = field(default_factory=list)  # train, test: uint8 [N, C, H, W]
    labels: list[np.ndarray] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    sends: Callable[[bytes], bytes] = bytes  # what arrives of a file from a bad server


def patched_cifar(made: Published, classes: int, url: str, patch: pytest.MonkeyPatch) -> None:
    kind: Any = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    key = "labels" if classes == 10 else "fine_labels"
    rows = [i.reshape(len(i), -1) for i in made.images]  # channels, then rows, then columns, as published
    if classes == 10:
        parts = [
            (f"data_batch_{k + 1}", rows[0][8 * k : 8 * k + 8], made.labels[0][8 * k : 8 * k + 8]) for k in range(5)
        ]
        parts += [("test_batch", rows[1], made.labels[1])]
        meta = ("batches.meta", {"label_names": [f"class {c}" for c in range(10)]})
    else:
        parts = [("train", rows[0], made.labels[0]), ("test", rows[1], made.labels[1])]
        meta = ("meta", {"fine_label_names": [f"class {c}" for c in range(100)]})
    contents = {name: pickle.dumps({"data": d, key: [int(x) for x in y]}) for name, d, y in parts}
    contents[meta[0]] = pickle.dumps(meta[1])
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    made.files = {kind.filename: archive.getvalue()}
    test_name = "test_batch" if classes == 10 else "test"
    patch.setattr(kind, "url", f"{url}/{kind.filename}")
    patch.setattr(kind, "tgz_md5", md5(archive.getvalue()))
    patch.setattr(kind, "train_list", [[n, md5(c)] for n, c in contents.items() if n not in (test_name, meta[0])])
    patch.setattr(kind, "test_list", [[test_name, md5(contents[test_name])]])
    patch.setattr(kind, "meta", {**kind.meta, "md5": md5(contents[meta[0]])})


def patched_svhn(made: Published, url: str, patch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    split_list = dict(datasets.SVHN.split_list)
    for part, images, labels in zip(("train", "test"), made.images, made.labels, strict=True):
        file = io.BytesIO()
        ten = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]  # the published files call the digit 0 10
        savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": ten})
        name = f"{part}_32x32.mat"
        made.files[name] = file.getvalue()
        split_list[part] = [f"{url}/{name}", name, md5(file.getvalue())]
    patch.setattr(datasets.SVHN, "split_list", split_list)


def patched_fashion_mnist(made: Published, url: str, patch: pytest.MonkeyPatch) -> None:
    from budgetrun.dataset import fashion_mnist

    unpacked, resources = {}, []
    for part, images, labels in zip(("train", "t10k"), made.images, made.labels, strict=True):
        header = b"\x00\x00\x08\x03" + np.array([len(images), 28, 28], ">i4").tobytes()
        label_header = b"\x00\x00\x08\x01" + np.array([len(labels)], ">i4").tobytes()
        for name, raw in (
            (f"{part}-images-idx3-ubyte.gz", header + images.tobytes()),
            (f"{part}-labels-idx1-ubyte.gz", label_header + labels.astype(np.uint8).tobytes()),
        ):
            unpacked[name] = md5(raw)
            made.files[f"FashionMNIST/raw/{name}"] = gzip.compress(raw)
            resources.append((name, md5(made.files[f"FashionMNIST/raw/{name}"])))
    patch.setattr(fashion_mnist, "UNPACKED", unpacked)
    patch.setattr(datasets.FashionMNIST, "resources", resources)
    patch.setattr(datasets.FashionMNIST, "mirrors", [f"{url}/"])


def patched_stl10(made: Published, url: str, patch: pytest.MonkeyPatch) -> None:
    contents = {"unlabeled_X.bin": bytes(7 * 3 * 96 * 96), "class_names.txt": b"airplane\n"}
    for part, images, labels in zip(("train", "test"), made.images, made.labels, strict=True):
        contents[f"{part}_X.bin"] = images.swapaxes(2, 3).tobytes()  # as published: columns before rows
        contents[f"{part}_y.bin"] = (labels + 1).astype(np.uint8).tobytes()  # and classes from 1
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"{datasets.STL10.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    made.files = {datasets.STL10.filename: archive.getvalue()}
    patch.setattr(datasets.STL10, "url", f"{url}/{datasets.STL10.filename}")
    patch.setattr(datasets.STL10, "tgz_md5", md5(archive.getvalue()))
    for attribute in ("train_list", "test_list"):
        names = [name for name, _ in getattr(datasets.STL10, attribute)]
        patch.setattr(datasets.STL10, attribute, [[name, md5(contents[name])] for name in names])


@contextlib.contextmanager
def serving(made: Published) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            made.requests[name] += 1
            content = next(c for path, c in made.files.items() if path.endswith(name))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(made.sends(content))

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def published(name: str, url: str, patch: pytest.MonkeyPatch, made: Published) -> Published:
    random = np.random.default_rng(0)
    classes = 100 if name == "cifar100" else 10
    shape = {"fashion_mnist": (1, 28, 28), "stl10": (3, 96, 96)}.get(name, (3, 32, 32))
    made.images = [random.integers(0, 256, (n, *shape), dtype=np.uint8) for n in SIZES]
    made.labels = [np.concatenate([[0, classes - 1], random.integers(0, classes, n - 2)]) for n in SIZES]
    if name == "svhn":
        patched_svhn(made, url, patch)
    elif name == "fashion_mnist":
        patched_fashion_mnist(made, url, patch)
    elif name == "stl10":
        patched_stl10(made, url, patch)
    else:
        patched_cifar(made, classes, url, patch)
    return made


@pytest.fixture
def online(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Published]]:
    made = Published()
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    with serving(made) as url:
        yield request.param, published(request.param, url, monkeypatch, made)


@pytest.fixture
def offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Published]:
    # port 9, discard: nothing listens there
    return request.param, published(request.param, "http://127.0.0.1:9", monkeypatch, Published())


every_online = pytest.mark.parametrize("online", NAMES, indirect=True)
every_offline = pytest.mark.parametrize("offline", NAMES, indirect=True)


def load(name: str, folder: Path) -> Data:
    from budgetrun.config import build

    values = values_of("dataset", name)
    if "system" in values:
        values["system"] = str(folder / "no system package")
    return build(values, "dataset.", Dataset).load(str(folder))  # type: ignore[no-any-return]


def assert_arrives(data: Data, made: Published) -> None:
    assert data.images.dtype == data.test_images.dtype == torch.uint8
    assert data.labels.dtype == data.test_labels.dtype == torch.int64
    assert np.array_equal(data.images.numpy(), made.images[0])
    assert np.array_equal(data.test_images.numpy(), made.images[1])
    assert data.labels.tolist() == made.labels[0].tolist()
    assert data.test_labels.tolist() == made.labels[1].tolist()


def put(made: Published, folder: Path, change: Callable[[bytes], bytes] = bytes) -> dict[Path, bytes]:
    there = {folder / name: change(content) for name, content in made.files.items()}
    for path, content in there.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return there


def leftovers(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.is_file() and p.name != ".download.lock"]


@every_online
def test_pixels_and_labels_arrive_exactly_as_published_and_are_downloaded_once(
    online: tuple[str, Published], tmp_path: Path
) -> None:
    name, made = online
    assert_arrives(load(name, tmp_path / "data"), made)
    first = made.requests.copy()
    assert set(first) == {Path(f).name for f in made.files}
    assert_arrives(load(name, tmp_path / "data"), made)
    assert made.requests == first
    assert not (tmp_path / "data" / ".download").exists()


@every_online
def test_jobs_at_the_same_time_download_once(online: tuple[str, Published], tmp_path: Path) -> None:
    name, made = online
    with ThreadPoolExecutor(4) as pool:
        for data in pool.map(lambda _: load_part(name, tmp_path), range(4)):
            assert_arrives(data, made)
    assert max(made.requests.values()) <= 2  # a HEAD to find the size may come before the GET


def load_part(name: str, folder: Path) -> Data:
    from budgetrun.dataset.cifar import CIFAR
    from budgetrun.dataset.fashion_mnist import FashionMNIST
    from budgetrun.dataset.stl10 import STL10
    from budgetrun.dataset.svhn import SVHN

    values: dict[str, Any] = {"mean": [0.5], "std": [0.5], "flip": True, "padding": 4}
    if name.startswith("cifar"):
        return CIFAR(int(name.removeprefix("cifar")), **values).load(str(folder))
    if name == "fashion_mnist":
        return FashionMNIST(**values, system="none").load(str(folder))
    return {"svhn": SVHN, "stl10": STL10}[name](**values).load(str(folder))


@every_online
@pytest.mark.parametrize("fault", ["truncated", "changed", "empty"])
def test_a_download_that_goes_wrong_leaves_nothing_behind_and_the_next_one_succeeds(
    online: tuple[str, Published], fault: str, tmp_path: Path
) -> None:
    name, made = online
    faults: dict[str, Callable[[bytes], bytes]] = {
        "truncated": lambda c: c[: len(c) // 2],
        "changed": lambda c: c[:100] + bytes([c[100] ^ 1]) + c[101:],
        "empty": lambda c: b"",
    }
    made.sends = faults[fault]
    with pytest.raises(UserError, match=str(tmp_path)):
        load(name, tmp_path)
    assert not leftovers(tmp_path)
    made.sends = bytes
    assert_arrives(load(name, tmp_path), made)


@every_online
def test_what_a_killed_download_left_is_not_taken_for_data(online: tuple[str, Published], tmp_path: Path) -> None:
    name, made = online
    put(made, tmp_path / ".download", lambda c: c[: len(c) // 2])
    assert_arrives(load(name, tmp_path), made)
    assert not (tmp_path / ".download").exists()


@every_online
def test_a_truncated_archive_is_named_refused_and_kept(online: tuple[str, Published], tmp_path: Path) -> None:
    name, made = online
    there = put(made, tmp_path, lambda c: c[: len(c) // 2])
    with pytest.raises(UserError, match=r"(?s)broken|half-downloaded") as raised:
        load(name, tmp_path)
    assert any(str(path) in str(raised.value) for path in there)
    assert {path: path.read_bytes() for path in there} == there
    assert not made.requests


@pytest.mark.parametrize("online", ["svhn", "fashion_mnist"], indirect=True)
def test_a_truncated_file_is_refused_and_kept_though_others_are_missing(
    online: tuple[str, Published], tmp_path: Path
) -> None:
    name, made = online
    there = put(made, tmp_path, lambda c: c[: len(c) // 2])
    *others, last = there
    for path in others:
        path.unlink()
    with contextlib.suppress(UserError):  # downloading the others is fine as long as this one is neither lost nor used
        load(name, tmp_path)
    assert last.read_bytes() == there[last]


@pytest.mark.parametrize("online", ["fashion_mnist"], indirect=True)
def test_a_good_file_packed_in_another_way_is_not_overwritten(online: tuple[str, Published], tmp_path: Path) -> None:
    name, made = online
    there = put(made, tmp_path, lambda c: gzip.compress(gzip.decompress(c), 1, mtime=7))
    *kept, missing = there
    missing.unlink()
    contents = {path: path.read_bytes() for path in kept}
    assert_arrives(load(name, tmp_path), made)
    assert {path: path.read_bytes() for path in kept} == contents


@every_offline
def test_offline_the_message_names_where_to_put_the_files(offline: tuple[str, Published], tmp_path: Path) -> None:
    name, made = offline
    line = f"dataset={name} data_dir=here/data epochs=1" + (" dataset.system=none" if name == "fashion_mnist" else "")
    done = here(line, tmp_path)
    refused(done, *(str(Path("here/data") / path) for path in made.files))
    assert not leftovers(tmp_path / "here")


@every_offline
def test_archives_put_by_hand_are_used_offline_and_kept(offline: tuple[str, Published], tmp_path: Path) -> None:
    name, made = offline
    there = put(made, tmp_path)
    assert_arrives(load(name, tmp_path), made)
    assert {path: path.read_bytes() for path in there} == there


@every_offline
def test_a_run_trains_on_every_data_set_by_its_own_recipe(offline: tuple[str, Published], tmp_path: Path) -> None:
    name, made = offline
    put(made, tmp_path / "data")
    # the recipe's model is kept; one update is enough
    line = f"dataset={name} epochs=1 batch_size=20 budget=0.5 evaluations=1 aug=ricap sampler=is"
    done = here(line + (" dataset.system=none" if name == "fashion_mnist" else ""), tmp_path)
    assert done.code == 0, done.err
    assert done.result["updates"] == 1
    models = {"fashion_mnist": "cnn", "stl10": "resnet18_imagenet"}
    assert done.result["names"]["model"] == models.get(name, "resnet18")


@pytest.mark.parametrize("offline", ["cifar10"], indirect=True)
def test_a_truncated_archive_stops_the_command_in_one_sentence(offline: tuple[str, Published], tmp_path: Path) -> None:
    name, made = offline
    (path,) = put(made, tmp_path / "data", lambda c: c[:1000])
    refused(here(f"dataset={name} epochs=1", tmp_path), "data/cifar-10-python.tar.gz", "1000 bytes")
    assert path.stat().st_size == 1000
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize("online", ["stl10"], indirect=True)
def test_only_the_labelled_part_of_stl10_is_kept(online: tuple[str, Published], tmp_path: Path) -> None:
    load("stl10", tmp_path)
    names = ["test_X.bin", "test_y.bin", "train_X.bin", "train_y.bin"]
    assert sorted(leftovers(tmp_path)) == [str(tmp_path / "stl10_binary" / name) for name in names]


@pytest.mark.parametrize("offline", ["stl10"], indirect=True)
def test_the_unpacked_files_of_stl10_are_enough_and_a_truncated_one_is_named(
    offline: tuple[str, Published], tmp_path: Path
) -> None:
    name, made = offline
    put(made, tmp_path)
    load(name, tmp_path)
    (tmp_path / "stl10_binary.tar.gz").unlink()
    assert_arrives(load(name, tmp_path), made)
    path = tmp_path / "stl10_binary" / "test_X.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"test_X\.bin is broken"):
        load(name, tmp_path)


def test_a_system_package_is_found_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from budgetrun.dataset.fashion_mnist import FashionMNIST

    made = published("fashion_mnist", "http://127.0.0.1:9", monkeypatch, Published())
    for path, content in made.files.items():
        (tmp_path / Path(path).name).write_bytes(content)
    data = FashionMNIST([0.5], [0.5], True, 2, str(tmp_path)).load(str(tmp_path / "data"))
    assert_arrives(data, made)
    assert not (tmp_path / "data").exists()


def test_digits_are_split_80_to_20_within_every_class_with_nothing_lost_or_shared(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    data = load("digits", tmp_path)
    digits = load_digits()
    whole = np.round(digits.images * 255 / 16).astype(np.uint8)
    both = torch.cat([data.images, data.test_images])[:, 0].numpy()
    labels = torch.cat([data.labels, data.test_labels]).numpy()
    pairs = Counter((image.tobytes(), int(label)) for image, label in zip(both, labels, strict=True))
    assert pairs == Counter((image.tobytes(), int(label)) for image, label in zip(whole, digits.target, strict=True))
    for c in range(10):
        total = int((labels == c).sum())
        assert int((data.test_labels == c).sum()) == round(0.2 * total)
    assert torch.equal(load("digits", tmp_path).images, data.images)
    pixels = data.images.double() / 255
    assert data.mean == pytest.approx([pixels.mean().item()], abs=1e-3)
    assert data.std == pytest.approx([pixels.std().item()], abs=1e-3)
    assert not data.flip
    assert not list(tmp_path.iterdir())


# ---- ImageNet, put there by hand


def tar_of(contents: dict[str, bytes], mode: Any = "w") -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive.getvalue()


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (500, 375), (value, value, value)).save(file, "JPEG")
    return file.getvalue()


WORDNET = ["n03", "n01", "n02"]  # in the order of ILSVRC's own numbers, which count from 1


def archives_of_imagenet(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Three classes of two training and one or two validation images, whose grey is 10 times their number."""
    from scipy.io import savemat
    from torchvision.datasets import imagenet

    kinds = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")]
    rows = [(number + 1, wnid, f"word {wnid}, other", "", 0) for number, wnid in enumerate(WORDNET)]
    synsets = np.array([*rows, (4, "n00", "all", "", 3)], dtype=kinds)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = [2, 1, 3, 2]
    devkit = {"data/meta.mat": meta.getvalue()}
    devkit["data/ILSVRC2012_validation_ground_truth.txt"] = "".join(f"{number}\n" for number in truth).encode()
    train = {
        f"{wnid}.tar": tar_of({f"{wnid}_{k}.JPEG": jpeg(10 * (2 * number + k)) for k in range(2)})
        for number, wnid in enumerate(WORDNET)
    }
    val = {f"ILSVRC2012_val_{k + 1:08}.JPEG": jpeg(100 + 10 * k) for k in range(len(truth))}
    contents = {
        "devkit": tar_of({f"ILSVRC2012_devkit_t12/{name}": content for name, content in devkit.items()}, "w:gz"),
        "train": tar_of(train),
        "val": tar_of(val),
    }
    root.mkdir(parents=True)
    for part, content in contents.items():
        name = imagenet.ARCHIVE_META[part][0]
        (root / name).write_bytes(content)
        patch.setitem(imagenet.ARCHIVE_META, part, (name, md5(content)))


def test_imagenet_s_archives_are_unpacked_once_and_its_images_are_the_middles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "imagenet"
    archives_of_imagenet(root, monkeypatch)
    data = load("imagenet", tmp_path)
    assert data.images.shape == (6, 3, 256, 256)
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]  # by name: n01, n02, n03
    assert (data.images.clone()[:, 0, 0, 0].int() - torch.tensor([20, 30, 40, 50, 0, 10])).abs().max() <= 1
    assert data.test_labels.tolist() == [0, 0, 1, 2]
    assert (data.test_images.clone()[:, 2, 99, 9].int() - torch.tensor([100, 130, 120, 110])).abs().max() <= 1
    assert data.crop == 224
    for name in root.glob("*.tar*"):
        name.unlink()
    assert torch.equal(load("imagenet", tmp_path).images.clone(), data.images.clone())


@pytest.mark.parametrize("missing", ["folder", "devkit", "train", "val", "broken"])
def test_imagenet_without_its_archives_says_what_to_put_where(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data" / "imagenet"
    if missing != "folder":
        archives_of_imagenet(root, monkeypatch)
        (path,) = root.glob("*img_train*" if missing == "broken" else f"*{missing}*")
        path.write_bytes(b"no archive") if missing == "broken" else path.unlink()
    words = ["data/imagenet", "put train/ and val/", "ILSVRC2012_img_train.tar"]
    refused(here("dataset=imagenet", tmp_path), *words)
    assert not (root / ("val" if missing in ("devkit", "val") else "train")).exists()


def test_unpacking_imagenet_that_is_interrupted_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import imagenet

    archives_of_imagenet(tmp_path / "imagenet", monkeypatch)
    really = imagenet.extract_archive

    def interrupted(path: str, to: str, **options: Any) -> None:
        really(path, to, **options)
        if path.endswith("n02.tar"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(imagenet, "extract_archive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load("imagenet", tmp_path)
    assert not (tmp_path / "imagenet" / "train").exists()
    assert len(load("imagenet", tmp_path).labels) == 6


@pytest.mark.parametrize("suffix", ["", ".npz"])
def test_imagenet_in_64_pixels_is_copied_once(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from budgetrun.dataset import imagenet64

    random = np.random.default_rng(0)
    root = tmp_path / "imagenet64"
    root.mkdir()
    pixels, labels = [], []
    for number, name in enumerate((*imagenet64.TRAIN, imagenet64.TEST)):
        pixels.append(random.integers(0, 256, (3 + number % 2, 3 * 64 * 64), dtype=np.uint8))
        labels.append(random.integers(1, 1001, len(pixels[-1])))
        content: dict[str, Any] = {"data": pixels[-1], "labels": labels[-1].tolist(), "mean": np.zeros(12288)}
        if suffix:
            np.savez(root / name, data=content["data"], labels=labels[-1])
        else:
            (root / name).write_bytes(pickle.dumps(content, protocol=2))
    data = load("imagenet64", tmp_path)
    expected = np.concatenate(pixels[:-1]).reshape(-1, 3, 64, 64)
    assert np.array_equal(data.images.clone().numpy(), expected)
    assert np.array_equal(data.test_images.clone().numpy(), pixels[-1].reshape(-1, 3, 64, 64))
    assert data.labels.tolist() == (np.concatenate(labels[:-1]) - 1).tolist()
    assert data.test_labels.tolist() == (labels[-1] - 1).tolist()
    assert data.mean == pytest.approx((expected.astype(np.float64) / 255).mean((0, 2, 3)).tolist())

    def nothing(_: Path) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(imagenet64, "read", nothing)
    assert load("imagenet64", tmp_path).labels.tolist() == data.labels.tolist()


class Harm:
    def __reduce__(self) -> Any:
        return print, ("harm",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no train_data_batch_2", "val_data"]),
        (b"garbage", ["train_data_batch_2 is broken"]),
        (pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [1, 2]}), ["[2, 5]", "of 2 labels"]),
        (pickle.dumps({"data": np.zeros((2, 12288), np.uint8), "labels": [0, 1]}), ["labels are not in 1 .. 1000"]),
        (pickle.dumps({"data": Harm(), "labels": [0, 1]}), ["builtins.print"]),
    ],
    ids=["missing", "garbage", "shape", "labels", "program"],
)
def test_files_that_are_not_of_imagenet64_are_refused(
    content: bytes | None, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data" / "imagenet64"
    root.mkdir(parents=True)
    good = pickle.dumps({"data": np.zeros((1, 12288), np.uint8), "labels": [1]})
    for name in (*(f"train_data_batch_{number}" for number in range(1, 11)), "val_data"):
        (root / name).write_bytes(good)
    path = root / "train_data_batch_2"
    path.unlink() if content is None else path.write_bytes(content)
    refused(here("dataset=imagenet64 batch_size=1", tmp_path), *words)
    assert "harm" not in capsys.readouterr().out
