"""A run's id: the same experiment always has it, another never does; and what is found by it is what it claims."""

from __future__ import annotations

import json
import pkgutil
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import before_update, checked, composed, here, human_file, refused
from states import assert_ends_alike, interrupt

from budgetrun import migrate, status
from budgetrun.config import experiment
from budgetrun.contracts import UserError
from budgetrun.identity import identity, run_id

SHORT = "epochs=0.1 evaluations=1"


def id_of(line: str) -> str:
    return checked(*line.split()).run_id


PINNED = {
    "": "digits-cnn-uniform-standard-b1-s0-83e4d6d0",
    "sampler=is budget=0.3 aug=ricap": "digits-cnn-is-ricap-b0.3-s0-0d4983a9",
    "sampler=is sampler.replacement=false budget=0.3 aug=ricap": "digits-cnn-is-ricap-b0.3-s0-0b0578eb",  # before 0.3
    "dataset=fashion_mnist sampler=p_sgd budget=0.3": "fashion_mnist-cnn-p_sgd-standard-b0.3-s0-2ca65a0c",
    "dataset=cifar10 sampler=sb budget=0.5 budget_unit=flops": "cifar10-resnet18-sb-standard-b0.5-flops-s0-ce77d4c7",
    "sampler=rho sampler.file=o/a-s0-04919010/scores.csv": "digits-cnn-rho-standard-b1-s0-8a19b891",
    "sampler=subset sampler.file=o/a-s0-04919010/scores.csv sampler.keep=0.3": (
        "digits-cnn-subset-standard-b1-s0-9589f72c"  # from before there were rules and quotas
    ),
    "dataset=cifar10 noise=cifar10n": "cifar10-resnet18-uniform-standard-cifar10n-b1-s0-e25770bc",
    "aug=[randaugment,ricap] schedule=cosine": "digits-cnn-uniform-randaugment+ricap-b1-s0-f2d98201",
    "dataset=stl10 sampler=hard_batches seed=7": "stl10-resnet18_imagenet-hard_batches-b1-s7-c8b51591",
    "scores=forgetting loss=focal optimizer=adamw": "digits-cnn-uniform-standard-forgetting-b1-s0-f533b57d",
    "sampler=proxy image_size=16 validation=0.1": "digits-cnn-proxy-standard-b1-s0-4e489352",
}


@pytest.mark.parametrize("line", PINNED)
def test_the_ids_are_those_of_every_version_and_machine(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGETRUN_DATA", "/elsewhere")
    assert id_of(line) == PINNED[line]


# ---- classes, versions and values


OWN = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from budgetrun.contracts import UserError


@dataclass
class Lines:
    width: int
    file: str | None = None
    temperature: float = 1.0
    place: str = ""

    neutral: ClassVar = {"temperature": 1.0}
    elsewhere: ClassVar = ("place",)

    def build(self, channels, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, classes))
"""


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's own model in `mine_lines`."""
    (tmp_path / "mine_lines.py").write_text(OWN)
    (tmp_path / "other_lines.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def of_lines(module: str = "mine_lines", **values: Any) -> str:
    """The id of an experiment with that model."""
    found = checked()
    return run_id(found.names, found.resolved | {"model": {"_target_": f"{module}.Lines", "width": 3, **values}})


def test_our_modules_are_not_part_of_the_identity_and_those_of_others_are(lines: Path) -> None:
    assert "budgetrun" not in json.dumps(identity(checked().names, checked().resolved))
    assert of_lines("mine_lines") != of_lines("other_lines")


def test_a_neutral_value_is_the_experiment_before_there_was_such_a_field(lines: Path) -> None:
    assert of_lines(temperature=1.0) == of_lines()
    assert of_lines(temperature=2.0) != of_lines()
    assert of_lines(place="here") == of_lines(place="there") == of_lines()
    assert id_of("image_size=null train_on=training noise=none scores=none") == id_of("")
    # a data set or a recipe may have another default, which is not neutral
    assert "image_size" in identity(checked("dataset=stl10").names, checked("dataset=stl10").resolved)


def test_a_higher_version_of_a_component_is_another_experiment(lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mine_lines import Lines  # type: ignore[import-not-found]

    before = of_lines()
    monkeypatch.setattr(Lines, "version", 1, raising=False)
    assert of_lines() == before
    monkeypatch.setattr(Lines, "version", 2)
    assert of_lines() != before


def test_a_new_group_whose_option_does_nothing_renames_nothing() -> None:
    found = checked()
    what = identity(found.names, found.resolved)
    assert "noise" not in what
    assert "scores" not in what
    assert set(what) > {"dataset", "model", "sampler", "aug", "loss", "optimizer", "schedule"}


@pytest.mark.parametrize("one", ["lr=0.30000000000000004", "lr=0.3000000000000001", "lr=3e-1", "lr=.3"])
def test_numbers_have_twelve_digits(one: str) -> None:
    found = checked(one)
    assert found.settings.lr == found.resolved["lr"] == 0.3
    assert found.run_id == id_of("lr=0.3")
    assert id_of("lr=0.3000000001") != found.run_id
    assert checked("dataset.mean=[0.30000000000000004]").resolved["dataset"]["mean"] == [0.3]


# ---- files


def test_a_file_counts_by_its_content_and_not_by_its_place(lines: Path) -> None:
    for name, content in (("a.pt", b"one"), ("b.pt", b"one"), ("c.pt", b"two")):
        (lines / name).write_bytes(content)
    assert of_lines(file="a.pt") == of_lines(file="b.pt") == of_lines(file=str(lines / "a.pt"))
    assert of_lines(file="a.pt") != of_lines(file="c.pt")
    before = of_lines(file="a.pt")
    (lines / "a.pt").write_bytes(b"two")
    assert of_lines(file="a.pt") == of_lines(file="c.pt") != before
    assert of_lines(file="nowhere.pt") != of_lines(file="elsewhere.pt"), "words are words"
    assert of_lines(file="a\0b"), "also those that can be no path"
    assert of_lines(file="x" * 5000)


def test_several_files_count_by_the_content_of_each(lines: Path) -> None:
    (lines / "a.csv").write_text("1")
    (lines / "b.csv").write_text("2")
    assert of_lines(file="*.csv") == of_lines(file="a.csv,b.csv") != of_lines(file="a.csv")
    before = of_lines(file="*.csv")
    (lines / "b.csv").write_text("3")
    assert of_lines(file="*.csv") != before


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("list[str]", "[w.pt]"),
        ("dict[str, str]", "{first: w.pt}"),
        ("dict[str, list[str]]", "{first: [w.pt]}"),
        ("Path", "w.pt"),
        ("str", "~/w.pt"),
    ],
)
def test_a_file_counts_in_whatever_kind_of_value_it_is_named(
    kind: str, value: str, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a component's own values. Formerly, only plain strings were looked at, and a stale result was taken."""
    name = f"kind_{re.sub(r'[^a-z]', '', kind + value)}"
    (lines / f"{name}.py").write_text(
        OWN.replace("file: str | None = None", f"weights: {kind}")
        .replace("    width: int\n", "")
        .replace("import torch", "from pathlib import Path\nimport torch", 1)
    )
    (lines / "mine" / "model").mkdir(parents=True)
    (lines / "mine" / "model" / "own.yaml").write_text(f"# ours\n_target_: {name}.Lines\nweights: {value}\n")
    monkeypatch.setenv("HOME", str(lines))
    for content in (b"one", b"two"):
        (lines / "w.pt").write_bytes(content)
        done = here(f"--config-dir mine model=own {SHORT}", lines)
        assert done.code == 0, done.err
        assert "not run again" not in done.out
    assert len(list(lines.glob("outputs/*/result.json"))) == 2


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('elsewhere: ClassVar = ("place")', ["elsewhere", "a tuple"]),
        ('elsewhere: ClassVar = ("palce",)', ["elsewhere", "palce", "not one of its fields"]),
        ('neutral: ClassVar = {"temprature": 1.0}', ["neutral", "temprature", "not one of its fields"]),
        ('neutral: ClassVar = ["temperature"]', ["neutral", "a dictionary"]),
        ('version: ClassVar = "2"', ["version", "a whole number"]),
        ("values: bytes = b'1'", ["values", "bytes", "a configuration cannot hold"]),
    ],
)
def test_what_a_class_says_of_its_identity_is_read_as_meant_or_refused(
    said: str, words: list[str], lines: Path
) -> None:
    name = f"said_{abs(hash(said))}"
    attribute = said.partition(":")[0]
    others = "\n".join(line for line in OWN.splitlines() if not line.startswith(f"    {attribute}: "))
    own = others.replace('place: str = ""\n', f'place: str = ""\n    {said}\n')
    (lines / f"{name}.py").write_text(own)
    (lines / "mine" / "model").mkdir(parents=True)
    (lines / "mine" / "model" / "own.yaml").write_text(f"# ours\n_target_: {name}.Lines\nwidth: 3\n")
    refused(here(f"--config-dir mine model=own {SHORT}", lines), f"{name}.Lines", *words)


def test_changed_weights_in_a_file_are_another_run(lines: Path) -> None:
    (lines / "mine" / "model").mkdir(parents=True)
    (lines / "mine" / "model" / "own.yaml").write_text("# ours\n_target_: mine_lines.Lines\nwidth: 3\nfile: w.pt\n")
    (lines / "w.pt").write_bytes(b"one")
    line = f"--config-dir mine model=own {SHORT}"
    assert here(line, lines).code == 0
    again = here(line, lines).out
    assert "not run again (force=true runs it again, as after an edit of " in again
    assert ".Lines: its code is not compared)" in again
    (lines / "w.pt").write_bytes(b"two")
    assert "not run again" not in here(line, lines).out
    assert len(list(lines.glob("outputs/*/result.json"))) == 2


def test_a_published_file_counts_as_what_was_published_there_or_not(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    noise = "dataset=cifar10 noise=cifar10n data_dir="
    absent = id_of(noise + str(tmp_path))
    assert id_of(noise + "anywhere") == absent
    human_file(there / "CIFAR-10_human.pt", {"clean_label": torch.zeros(3).numpy()})
    assert id_of(noise + str(there)) != absent, "it is another file of that name"
    real = checked("dataset=cifar10", "noise=cifar10n").noise
    assert real is not None
    assert re.fullmatch(r"[0-9a-f]{64}", real.published["CIFAR-10_human.pt"])  # type: ignore[attr-defined]


def test_a_file_that_a_run_makes_counts_by_that_run_before_it_is_there(tmp_path: Path) -> None:
    folder = f"outputs/{id_of(f'scores=el2n {SHORT}')}"
    line = f"sampler=subset sampler.keep=0.5 sampler.file={folder}/scores.csv {SHORT}"
    before = id_of(line)
    refused(here(line, tmp_path), f"{folder}/scores.csv does not exist", "which makes it")
    assert here(f"scores=el2n {SHORT}", tmp_path).code == 0
    done = here(line, tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "outputs" / before / "result.json").exists()
    assert id_of(line.replace("sampler.file=outputs", f"sampler.file={tmp_path}/outputs")) == before


def test_a_file_of_a_run_that_is_not_what_the_run_made_is_refused(tmp_path: Path) -> None:
    made = here(f"scores=el2n {SHORT}", tmp_path).folder
    scores = made / "scores.csv"
    line = f"sampler=subset sampler.keep=0.5 sampler.file={scores} {SHORT}"
    kept = scores.read_text()
    scores.write_text(kept.replace("\n5,", "\n5,1"))
    for command in (line, f"-m {line} seed=0,1"):
        refused(here(command, tmp_path), str(scores), "is not what its run made", "SHA256SUMS")
    (made / "SHA256SUMS").unlink()
    refused(here(line, tmp_path), str(scores), "not finished")
    # elsewhere it is a file of its own, and counts by its content
    shutil.copy(scores, tmp_path / "mine.csv")
    assert here(f"sampler=subset sampler.keep=0.5 sampler.file=mine.csv {SHORT}", tmp_path).code == 0


def test_a_run_s_file_through_a_link_is_that_run_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = here(f"scores=el2n {SHORT}", tmp_path).folder
    (tmp_path / "best").symlink_to(made)
    monkeypatch.chdir(tmp_path)
    line = f"sampler=subset sampler.file=%s/scores.csv {SHORT}"
    assert id_of(line % "best") == id_of(line % made) == id_of(line % f"outputs/{made.name}")
    (made / "scores.csv").write_text((made / "scores.csv").read_text().replace("\n5,", "\n5,1"))
    refused(here(line % "best", tmp_path), made.name, "is not what its run made")


def test_what_base_classes_say_of_their_identity_holds(lines: Path) -> None:
    (lines / "mine_more.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom mine_lines import Lines\n\n\n"
        "@dataclass\nclass More(Lines):\n    depth: int = 1\n    neutral: ClassVar = {'depth': 1}\n"
    )
    found = checked()

    def of_more(**values: Any) -> str:
        return run_id(found.names, found.resolved | {"model": {"_target_": "mine_more.More", "width": 3, **values}})

    assert of_more(depth=1, temperature=1.0, place="here") == of_more()
    assert of_more(depth=2) != of_more() != of_more(temperature=2.0)


# ---- names


def test_an_option_in_a_folder_has_a_run_of_one_folder(tmp_path: Path) -> None:
    sampler = tmp_path / "mine" / "sampler" / "mine"
    sampler.mkdir(parents=True)
    for name, text in (("wide", "pool: 5"), ("wide and-odd", "pool: 7")):
        (sampler / f"{name}.yaml").write_text(
            f"# ours\n# @package sampler\ndefaults: [/sampler/is@_here_, _self_]\n{text}\n"
        )
    done = here(f"--config-dir mine -m 'sampler=mine/wide,\"mine/wide and-odd\",is' {SHORT}", tmp_path)
    assert done.code == 0, done.err
    states = status.states(tmp_path / "outputs")
    assert len(states) == 3
    assert {state.word for state in states.values()} == {"finished"}
    assert all(name.startswith(("digits-cnn-mine_wide", "digits-cnn-is-")) for name in states)
    assert "sampler=mine/wide" in Path(next(tmp_path.glob("outputs/.sweeps/*.json"))).read_text()


def test_what_comes_from_a_library_is_told_apart_by_its_name() -> None:
    emnist = checked("dataset=torchvision", "dataset.name=EMNIST")
    assert emnist.run_id.startswith("torchvision_EMNIST-resnet18-uniform-standard-b1-s0-")


def test_a_name_is_not_invented() -> None:
    cfg, choices = composed()
    with pytest.raises(UserError, match="no chosen option"):
        experiment(cfg, {})
    with pytest.raises(UserError, match="sampler has values but no chosen option"):
        experiment(cfg, {**choices, "sampler": None})


def test_a_name_of_any_length_has_a_folder(tmp_path: Path) -> None:
    sampler = tmp_path / "mine" / "sampler"
    sampler.mkdir(parents=True)
    (sampler / f"{'long' * 50}.yaml").write_text("# ours\ndefaults: [is, _self_]\n")
    done = here(f"--config-dir mine sampler={'long' * 50} {SHORT}", tmp_path)
    assert done.code == 0, done.err
    assert len(done.folder.name) < 200


# ---- checkpoints


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """The folder of a run that was interrupted before its fifth update."""
    with before_update(5, "uniform", interrupt):
        done = here("epochs=0.5 evaluations=5 seed=1", tmp_path)
    assert done.code == 130
    return done.folder


@pytest.mark.parametrize("other", ["seed=2", "seed=1 sampler=uniform lr=0.05", "seed=1 evaluations=4"])
def test_a_checkpoint_of_another_run_is_refused(other: str, cut: Path, tmp_path: Path) -> None:
    line = f"epochs=0.5 evaluations=5 {other}"
    folder = tmp_path / "outputs" / id_of(line)
    folder.mkdir()
    shutil.copy(cut / "checkpoint.pt", folder)
    refused(here(line, tmp_path), f"{folder.name}/checkpoint.pt", cut.name, folder.name, "force=true")
    assert not (folder / "result.json").exists()
    assert (folder / "checkpoint.pt").read_bytes() == (cut / "checkpoint.pt").read_bytes()


def test_a_checkpoint_from_before_it_named_its_run_goes_on_with_a_remark(cut: Path, tmp_path: Path) -> None:
    state = torch.load(cut / "checkpoint.pt", weights_only=True)
    del state["run"]
    torch.save(state, cut / "checkpoint.pt")
    done = here("epochs=0.5 evaluations=5 seed=1", tmp_path)
    assert done.code == 0, done.err
    assert "does not name its run" in done.out
    assert "goes on from update 5" in done.out
    (tmp_path / "whole").mkdir()
    assert_ends_alike(here("epochs=0.5 evaluations=5 seed=1", tmp_path / "whole").folder, cut)


# ---- ids of earlier versions


@pytest.fixture
def earlier(tmp_path: Path) -> tuple[set[str], str]:
    """Two runs in outputs/ as an earlier version left them, with other hashes and no checksums. One of them reads what
    the other made. Returns their new names, and the command line of the second.
    """
    here(f"-m scores=el2n seed=0 {SHORT}", tmp_path)
    (made,) = (path.parent for path in tmp_path.glob("outputs/*/scores.csv"))
    line = f"sampler=subset sampler.keep=0.5 sampler.file={made}/scores.csv {SHORT}"
    here(line, tmp_path)
    now = {path.parent.name for path in tmp_path.glob("outputs/*/result.json")}
    old = {name: f"{name[:-8]}{number:08x}" for number, name in enumerate(sorted(now))}
    for name, before in old.items():
        folder = (tmp_path / "outputs" / name).rename(tmp_path / "outputs" / before)
        (folder / "SHA256SUMS").unlink()
    for path in (tmp_path / "outputs").rglob("*"):
        if path.suffix in (".json", ".csv", ".yaml") and path.is_file():
            text = path.read_text()
            for name, before in old.items():
                text = text.replace(name, before)
            path.write_text(text)
    assert status.states(tmp_path / "outputs").keys() == set(old.values())
    return now, line


def test_finished_earlier_runs_get_their_new_ids_with_all_that_names_them(
    earlier: tuple[set[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now, line = earlier
    assert migrate.main([str(tmp_path / "outputs")]) == 0
    assert capsys.readouterr().out == f"2 runs in {tmp_path / 'outputs'} have new ids\n"
    assert {path.parent.name for path in tmp_path.glob("outputs/*/result.json")} == now
    assert status.states(tmp_path / "outputs").keys() == now, "the plans of sweeps name them too"
    assert "not run again" in here(line, tmp_path).out
    assert migrate.main([str(tmp_path / "outputs")]) == 0
    assert capsys.readouterr().out == f"0 runs in {tmp_path / 'outputs'} have new ids\n"


def test_new_ids_that_were_interrupted_are_the_same_in_the_end(
    earlier: tuple[set[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, _ = earlier
    (tmp_path / "outputs" / ".sweeps" / "cut.json").write_text("{cut")
    really = migrate.rename

    def one(*arguments: Any) -> None:
        really(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(migrate, "rename", one)
    with pytest.raises(KeyboardInterrupt):
        migrate.main([str(tmp_path / "outputs")])
    assert len({path.parent.name for path in tmp_path.glob("outputs/*/result.json")} & now) == 1
    monkeypatch.setattr(migrate, "rename", really)
    new, left = migrate.migrate(tmp_path / "outputs")
    assert len(new) == 1
    assert left.keys() == {".sweeps/cut.json"}
    assert {path.parent.name for path in tmp_path.glob("outputs/*/result.json")} == now
    (tmp_path / "outputs" / ".sweeps" / "cut.json").unlink()
    assert status.states(tmp_path / "outputs").keys() == now


def test_an_earlier_run_whose_file_is_gone_keeps_its_name(
    earlier: tuple[set[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in tmp_path.glob("outputs/*/result.json"):
        path.write_text(re.sub(r'"file": "[^"]*"', '"file": "gone.csv"', path.read_text()))
    assert migrate.main([str(tmp_path / "outputs")]) == 1
    assert re.search(r"keeps its name: sampler.file: gone.csv cannot be read", capsys.readouterr().out)
    assert migrate.main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(("old", "now"), migrate.MOVED.items())
def test_a_class_that_has_moved_is_found(old: str, now: str) -> None:
    assert pkgutil.resolve_name(now).__name__ == old.rpartition(".")[2]
    assert migrate.with_new({"part": {"_target_": old}}, {}) == {"part": {"_target_": now}}


def test_an_earlier_run_that_cannot_be_identified_keeps_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here(SHORT, tmp_path).folder
    result = json.loads((folder / "result.json").read_text())
    result["config"]["model"]["_target_"] = "gone.Net"
    (folder / "result.json").write_text(json.dumps(result))
    before = (folder / "result.json").read_bytes()
    assert migrate.main([str(tmp_path / "outputs")]) == 1
    assert re.match(rf"{folder} keeps its name: .*gone", capsys.readouterr().out)
    assert (folder / "result.json").read_bytes() == before
