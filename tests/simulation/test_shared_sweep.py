"""Sweeps that run at the same time in one folder: each run once, none lost, also if one of them is killed."""

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgefd.core.errors import Stopped
from edgefd.core.leases import lease
from edgefd.runs.read import is_complete
from edgefd.simulation import run_cells
from edgefd.simulation.run_cells import Elsewhere
from edgefd.simulation.sweep import load_sweep, run_sweep
from tests.support.commands import command, env

SWEEP = """
base:
  data:  {name: mnist_mini, limit: 200}
  model: {name: mlp}
  train: {rounds: 2}
  run:   {checkpoint_every: 1}
grid:
  method: [{name: edgefd, n_clusters: 2}, {name: fedmd}]
  seed: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
"""
N = 24


class Sweep:
    """A sweep in a process of its own, whose lines are read while it runs."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            command("sweep", "sweep.yaml", "--out", "out", "--jobs", "1"),
            cwd=folder,
            env=env({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def outcomes(self) -> dict[str, str]:
        """Return the outcome of each run by name."""
        found = (re.match(r"\d+/24 (\S+): (.*)", line) for line in self.lines)
        return {match[1]: match[2] for match in found if match}

    def own(self) -> set[str]:
        """Return the names of the runs that this sweep completed itself."""
        return {name for name, outcome in self.outcomes().items() if re.fullmatch(r"accuracy \S+ in \d+ s", outcome)}

    def wait(self) -> None:
        """Wait for the end of the sweep, and check that it succeeded."""
        self.process.wait(300)
        self._reader.join(20)
        assert self.process.returncode == 0, "".join(self.lines)

    def kill(self) -> None:
        """End it by kill -9."""
        self.process.kill()
        self.process.wait(20)
        self._reader.join(20)


@contextmanager
def two_sweeps(folder: Path) -> Iterator[tuple[Sweep, Sweep]]:
    (folder / "sweep.yaml").write_text(SWEEP)
    sweeps = Sweep(folder), Sweep(folder)
    try:
        yield sweeps
    finally:
        for sweep in sweeps:
            sweep.kill()


def completed(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if is_complete(path)}


@pytest.mark.slow
def test_two_sweeps_share_the_runs(tmp_path: Path) -> None:
    with two_sweeps(tmp_path) as (first, second):
        first.wait()
        second.wait()
    assert len(first.outcomes()) == len(second.outcomes()) == N
    assert first.own() | second.own() == completed(tmp_path / "out")
    assert len(first.own()) + len(second.own()) == N  # no run was done twice
    assert first.own()
    assert second.own()
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_sweep_completes_the_runs_of_a_killed_one(tmp_path: Path) -> None:
    with two_sweeps(tmp_path) as (first, second):
        deadline = time.monotonic() + 120
        while len(first.own()) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        first.kill()
        second.wait()
    assert len(completed(tmp_path / "out")) == N
    assert len(first.own()) + len(second.own()) in (N - 1, N)  # the killed one may not have printed its last run
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_nothing_of_a_run_that_another_process_has_at_work_is_changed(tmp_path: Path) -> None:
    (cell,) = load_sweep({"base": {"data": {"name": "mnist_mini", "limit": 200}}, "grid": {"seed": [0]}})
    folder = tmp_path / "out" / cell.name
    with lease(folder.parent, folder.name, lambda: None):
        folder.mkdir()
        (folder / "config.yaml").write_text("begun, without a round")
        outcome = run_cells.run_cell(cell, folder)
    assert isinstance(outcome, Elsewhere)
    assert "process" in str(outcome.holder)
    assert (folder / "config.yaml").exists()


def test_a_stopped_sweep_removes_no_folder_in_which_another_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = load_sweep({"base": {"data": {"name": "mnist_mini", "limit": 200}}, "grid": {"seed": [0]}})
    out = tmp_path / "new" / "out"

    def stopped(*_: object) -> Iterator[None]:
        (out / "of-another" / "checkpoint").mkdir(parents=True)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("edgefd.simulation.sweep.run_all", stopped)
    with pytest.raises(Stopped):
        run_sweep(cells, out, 1, lambda *_: None)
    assert (out / "of-another" / "checkpoint").exists()


def test_a_run_that_another_process_completes_is_reported_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = load_sweep({"base": {"data": {"name": "mnist_mini", "limit": 200}}, "grid": {"seed": [0]}})
    summary = tmp_path / cells[0].name / "summary.json"
    outcomes: list[str] = []

    def completed_elsewhere(*_: object) -> Iterator[tuple[run_cells.Cell, Elsewhere]]:
        yield cells[0], Elsewhere(None)

    monkeypatch.setattr("edgefd.simulation.sweep.run_all", completed_elsewhere)
    monkeypatch.setattr("edgefd.simulation.sweep.outcome", lambda folder: f"accuracy of {folder.name}")
    assert run_sweep(cells, tmp_path, 1, lambda _, o: outcomes.append(o)) == [summary.parent]
    assert outcomes == [f"accuracy of {cells[0].name}, by another process"]
