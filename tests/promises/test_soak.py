"""A sweep that is killed twice, or with --full fifty times, ends as a quiet one, bit for bit.

Without --full it is one of joblib's; test_sweeps.py kills another one, of the basic launcher.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli import here, started
from states import assert_as_quiet, counts, times

from budgetrun.folder.run import FINISHED


def sweep_of(kills: int) -> tuple[str, int]:
    """A command line and how many runs it has: enough to be killed this often."""
    seeds = max(1, kills // 8)
    line = f"-m sampler=uniform,is,sb aug=none,ricap seed=range({seeds})"
    return f"{line} epochs=2 budget=0.5 checkpoint_every=0.05", 6 * seeds


@pytest.fixture(scope="module")
def quiet(kills: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quiet")
    done = here(sweep_of(kills)[0], folder)
    assert done.code == 0, done.err
    return folder / "outputs"


@pytest.mark.parametrize("launcher", [pytest.param("basic", marks=pytest.mark.full), "joblib hydra.launcher.n_jobs=2"])
def test_a_sweep_that_is_killed_at_random_moments_ends_as_a_quiet_one(
    launcher: str, quiet: Path, kills: int, tmp_path: Path
) -> None:
    (line, count), chance, outputs = sweep_of(kills), random.Random(0), tmp_path / "outputs"
    finished: dict[Path, int] = {}
    for _ in range(kills):
        with started(f"{line} hydra/launcher={launcher}", tmp_path, first=os.setsid) as sweep:
            while sweep.poll() is None and not set(times(outputs)) - set(finished):
                time.sleep(0.01)  # until it has finished one more run
            try:
                sweep.wait(chance.uniform(0, 1))
            except subprocess.TimeoutExpired:
                os.killpg(sweep.pid, signal.SIGKILL)  # and all of its workers
        now = times(outputs)
        assert finished.items() <= now.items(), "what is finished stays as it is"
        finished = now
    assert len(finished) > 0
    done = here(line, tmp_path)
    assert done.code == 0, done.err
    assert counts(outputs) == {FINISHED: count}
    assert_as_quiet(outputs, quiet, finished)
