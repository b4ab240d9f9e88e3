"""budgetrun from Python: the same runs, ids, tables and sentences as on the command line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from cli import here
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from tables import aggregate, write

import budgetrun

LINE = ("epochs=1", "budget=0.3", "evaluations=1")


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_that_of_the_command_line(cwd: Path) -> None:
    """The same folder and the same numbers; the command finds the run of the function finished."""
    result = budgetrun.run("sampler=p_sgd", *LINE)
    assert budgetrun.compose("sampler=p_sgd", *LINE).run_id == result["run_id"]
    assert json.loads((cwd / "outputs" / result["run_id"] / "result.json").read_text()) == result
    done = here(f"sampler=p_sgd {' '.join(LINE)} output_dir=outputs", cwd)
    assert "already finished" in done.out, done.out
    assert here(f"sampler=p_sgd {' '.join(LINE)} output_dir=again", cwd).result["test_loss"] == result["test_loss"]
    assert budgetrun.run("sampler=p_sgd", *LINE) == result


def test_a_sweep_returns_its_runs_alone_and_compare_is_the_table_of_the_command(cwd: Path) -> None:
    budgetrun.run("seed=5", *LINE)
    runs = budgetrun.sweep("sampler=uniform,infobatch", "seed=0,1", *LINE)
    assert sorted(zip(runs["sampler"], runs["seed"], strict=True)) == [
        *(("infobatch", 0), ("infobatch", 1), ("uniform", 0), ("uniform", 1)),
    ]
    assert len(budgetrun.frame()) == 5
    assert set(budgetrun.frame("outputs")["run_id"]) > set(runs["run_id"])
    assert runs["run_id"][0] in {path.name for path in (cwd / "outputs").iterdir()}
    table = budgetrun.compare(rows=["sampler"], metric="test_error", where="budget=0.3")
    typed = ("--rows", "sampler", "--baseline", "sampler=uniform", "--metric", "test_error", "--format", "csv")
    text = aggregate("outputs", *typed, cwd=cwd).out
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(table.to_csv(index=False))), pd.read_csv(io.StringIO(text)))
    assert table.set_index("sampler").loc["infobatch", "pairs"] == 2


def test_options_of_a_folder_of_ones_own_count(cwd: Path) -> None:
    (cwd / "conf" / "model").mkdir(parents=True)
    (cwd / "conf" / "model" / "narrow.yaml").write_text(
        "# a narrow network\n_target_: budgetrun.model.cnn.CNN\nwidth: 2\n"
    )
    chosen = budgetrun.compose("model=narrow", config_dir=cwd / "conf")
    assert (chosen.names["model"], chosen.resolved["model"]["width"]) == ("narrow", 2)
    runs = budgetrun.sweep("model=narrow", "seed=0", *LINE, config_dir="conf")
    assert list(runs["model"]) == ["narrow"]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sampler=is_"], "sampler=is_ is not an option of sampler; did you mean sampler=is?"),
        (["lr=fast"], "lr=fast is not a number"),
        (["sampler"], "sampler cannot be read as key=value"),
        (["grid=smoke"], "grid= makes a sweep of many runs; call budgetrun.sweep"),
        (["budget=0.1,0.2"], "-m runs each, and so does budgetrun.sweep"),
    ],
)
def test_a_mistake_is_the_sentence_of_the_command(overrides: list[str], sentence: str, cwd: Path) -> None:
    with pytest.raises(budgetrun.UserError) as raised:
        budgetrun.run(*overrides)
    assert sentence in str(raised.value)
    assert not list(cwd.iterdir())


def test_a_sweep_that_cannot_run_starts_nothing_and_hydra_is_as_before(cwd: Path) -> None:
    before = HydraConfig.instance().cfg, GlobalHydra.instance().hydra
    with pytest.raises(budgetrun.UserError, match="no job was started, because this one cannot run: budget=7"):
        budgetrun.sweep("budget=0.1,7", *LINE[2:])
    write(cwd / "runs")
    with pytest.raises(budgetrun.UserError, match="leaves no run"):
        budgetrun.compare("runs", baseline="sampler=foo")
    assert (HydraConfig.instance().cfg, GlobalHydra.instance().hydra) == before


def test_the_package_is_imported_without_torch_pandas_or_hydra() -> None:
    code = "import sys, budgetrun; print({'torch', 'pandas', 'hydra', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    with pytest.raises(AttributeError, match="has no attribute 'sweeps'"):
        _ = budgetrun.sweeps  # type: ignore[attr-defined]
