"""Sweeps: each combination once, resumable, and no process left behind."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from edgefd.core.errors import RunError, Stopped, UserError
from edgefd.core.files import writing
from edgefd.data.datasets import find_dataset
from edgefd.report.compare import HEADER, compare, load_runs, to_csv, to_markdown
from edgefd.report.compare import cells as table_cells
from edgefd.runs.read import is_complete
from edgefd.simulation import run_cells
from edgefd.simulation.run import simulate_config
from edgefd.simulation.run_cells import Cell
from edgefd.simulation.sweep import load_sweep, run_sweep
from tests.support.commands import command, env
from tests.support.run_results import StopAfter, results

SWEEP = """
base:
  data:  {name: mnist_mini, limit: 200}
  model: {name: mlp}
  train: {rounds: 1}
grid:
  method: [{name: edgefd, n_clusters: 2}, {name: fedmd}]
  train.rounds: [1]
  partition.name: [iid]
  seed: [0, 1]
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return load_sweep(path)


def test_a_grid_runs_every_combination(cells: list[Cell]) -> None:
    assert [(c.config.method_name, c.config.seed) for c in cells] == [
        ("edgefd", 0),
        ("edgefd", 1),
        ("fedmd", 0),
        ("fedmd", 1),
    ]
    assert cells[0].config.method_config.n_clusters == 2
    assert {c.config.partition.name for c in cells} == {"iid"}
    assert cells[0].name.startswith("edgefd-mnist_mini-iid-s0-")


def test_base_settings_hold_for_every_name_in_any_order_of_the_grid(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "base: {data: {name: mnist_mini, limit: 600}, partition: {n_clients: 5}, model: {name: mlp}}\n"
        "grid: {method.quantile: [0.5, 0.9], method.name: [edgefd], partition.name: [iid, weak], data.name: [digits]}"
    )
    cells = load_sweep(path)
    assert {c.config.data.limit for c in cells} == {600}
    assert {c.config.partition.n_clients for c in cells} == {5}  # type: ignore[union-attr]
    assert {c.config.method_config.quantile for c in cells} == {0.5, 0.9}


def test_each_case_is_combined_with_every_combination_of_the_grid(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "base: {data: {limit: 600}, partition: {n_clients: 5}, model: {name: mlp}}\n"
        "cases: [{method.name: fedmd}, {method.name: edgefd, defence: {name: top_k, k: 2}}]\ngrid: {seed: [0, 1]}"
    )
    runs = [(c.config.method_name, c.config.defence.name, c.config.seed) for c in load_sweep(path)]
    assert runs == [("fedmd", "none", 0), ("fedmd", "none", 1), ("edgefd", "top_k", 0), ("edgefd", "top_k", 1)]
    assert {c.config.seed for c in load_sweep(path, ["seed=3"])} == {3}
    with pytest.raises(UserError, match="the cases set defence: change them in the file"):
        load_sweep(path, ["defence.k=1"])


def test_overrides_change_the_grid_or_the_base(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    (cell,) = load_sweep(path, ["seed=7", "method=[{name: fedmd}]", "partition.n_clients=3"])
    assert (cell.config.seed, cell.config.method_name) == (7, "fedmd")
    assert cell.config.partition.n_clients == 3  # type: ignore[union-attr]
    assert {c.config.train.rounds for c in load_sweep(path, ["train.rounds=[1, 2]"])} == {1, 2}
    (same,) = [c for c in load_sweep(path) if (c.config.method_name, c.config.seed) == ("fedmd", 0)]
    assert same == next(iter(load_sweep(path, ["method=[{name: fedmd}]", "seed=[0]"]))), (
        "the same run must have the same folder"
    )
    for override, message in {
        "method.name=fedmd": "the grid sets method: override method instead",
        "partition={name: iid}": "the grid sets partition.name",
        "sed=[0]": "unknown key, did you mean 'seed'",
        "seed": "must look like section.key=value",
    }.items():
        with pytest.raises(UserError, match=message):
            load_sweep(path, [override])


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "simulations/sweeps").glob("*.yaml"), *(ROOT / "simulations/paper").glob("*.yaml")]),
    ids=lambda p: p.name,
)
def test_shipped_sweeps_parse(path: Path) -> None:
    data = yaml.safe_load(path.read_text())["base"]["data"]
    if data["name"] != "mnist_mini" and find_dataset(data["name"]) is None:
        pytest.skip(f"{data['name']} is not in EDGEFD_DATA")
    raw_images = [f"data.{key}=null" for key in data if key.startswith("extractor")]  # features of all take minutes
    assert len(load_sweep(path, raw_images)) > 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: {}", "must hold base"),
        ("grid: {seed: [0]}\nseeds: 3", "must hold base"),
        ("grid: {seed: 0}", "grid.seed must be a list"),
        ("cases: {seed: 0}", "cases must be a list of settings"),
        ("cases: [seed]", "cases must be a list of settings"),
        ("cases: [{1: 2}]", "grid.1 must be the name of a key"),
        ("grid: {seed: []}", "grid.seed must be a list"),
        ("grid: {seed: [0, 0]}", "same run twice"),
        ("grid: {sed: [0]}", "sed: unknown key, did you mean 'seed'"),
        ("grid: {seed.x: [0]}\nbase: {seed: 1}", "seed is not a section"),
        ("grid: {1: [0]}", "grid.1 must be the name of a key"),
        ("grid: {seed: [0, 2024-01-01]}", "2024-01-01 has more than one meaning"),
        ("grid: {seed: [0]}\nbase: {data: {name: 2024-01-01}}", "2024-01-01 has more than one meaning"),
        ("grid: {data.name: [mnist_mini, gone.npz]}", "there is no file gone.npz"),
        ("grid: {model.name: [mlp, cnm]}", "unknown model 'cnm'"),
        ("grid: {seed: [0]}\nbase: {proxy: {source: public, path: gone.npz}}", "cannot read gone.npz"),
    ],
)
def test_malformed_sweeps_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_sweep(path)


@pytest.mark.slow
def test_a_stopped_sweep_runs_only_what_is_missing(cells: list[Cell], tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcomes: list[tuple[str, str]] = []
    run_sweep(cells, out, 2, lambda c, o: outcomes.append((c.name, o)))
    assert sorted(name for name, _ in outcomes) == sorted(c.name for c in cells)
    assert all("accuracy" in o for _, o in outcomes)
    first = (out / cells[0].name / "summary.json").read_text()

    shutil.rmtree(out / cells[1].name)
    stopped = json.loads((out / cells[2].name / "summary.json").read_text()) | {"complete": False}
    (out / cells[2].name / "summary.json").write_text(json.dumps(stopped))
    outcomes.clear()
    folders = run_sweep(cells, out, 2, lambda c, o: outcomes.append((c.name, o)))
    again = {name for name, o in outcomes if o != "complete already"}
    assert again == {cells[1].name, cells[2].name}
    assert (out / cells[0].name / "summary.json").read_text() == first
    assert all(is_complete(f) for f in folders)

    groups = compare(load_runs([out]))
    assert [(g.method, g.runs) for g in sorted(groups, key=lambda g: g.method)] == [("edgefd", 2), ("fedmd", 2)]
    edgefd = next(g for g in groups if g.method == "edgefd")
    assert edgefd.settings == ""  # only method and seed differ
    values = [json.loads((out / c.name / "summary.json").read_text())["accuracy_mean"] for c in cells[:2]]
    assert edgefd.mean == pytest.approx(np.mean(values))
    rows = [table_cells(group) for group in groups]
    assert to_csv(HEADER, rows).count("\n") == 3
    assert to_markdown(HEADER, rows).count("\n") == 4


@pytest.mark.slow
def test_a_run_of_a_killed_sweep_continues_after_its_checkpoint(cells: list[Cell], tmp_path: Path) -> None:
    cell = cells[0]
    run_sweep([cell], tmp_path / "whole", 1, lambda *_: None)

    with pytest.raises(Stopped):
        simulate_config(cell.config, tmp_path / "again" / cell.name, callbacks=[StopAfter(1)])
    first = (tmp_path / "again" / cell.name / "metrics.jsonl").read_text()
    run_sweep([cell], tmp_path / "again", 1, lambda *_: None)
    assert (tmp_path / "again" / cell.name / "metrics.jsonl").read_text().startswith(first)  # the same seconds
    assert results(tmp_path / "again") == results(tmp_path / "whole")


def test_a_failing_run_does_not_stop_the_other_runs(cells: list[Cell], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / cells[0].name).write_text("a file where the run folder should be")
    outcomes: list[str] = []
    with pytest.raises(RunError, match=f"1 of 2 runs failed: {cells[0].name}"):
        run_sweep(cells[:2], out, 1, lambda c, o: outcomes.append(f"{c.name} {o}"))
    assert any("failed: " in line for line in outcomes)
    assert is_complete(out / cells[1].name)


def full_disk(*_: object, **__: object) -> None:
    with writing(Path("summary.json")):
        raise OSError(errno.ENOSPC, "No space left on device")


def no_memory(*_: object, **__: object) -> None:
    raise MemoryError


def refused(*_: object, **__: object) -> None:
    raise UserError("method.budget=9 is too large")


def diverged(*_: object, **__: object) -> None:
    raise RunError("client 0: the training diverged")


@pytest.mark.parametrize(
    ("run", "of_machine"), [(full_disk, True), (no_memory, True), (refused, False), (diverged, False)]
)
def test_errors_of_the_machine_are_told_from_errors_of_the_settings(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., None], of_machine: bool
) -> None:
    monkeypatch.setattr(run_cells, "simulate_config", run)
    failure = run_cells.run_cell(cells[0], tmp_path / "run")
    assert isinstance(failure, run_cells.Failure)
    assert failure.of_machine is of_machine
    assert "\n" not in failure.message


FOREIGN = """
from edgefd.federation.method import Method

def transform(federation):
    raise LookupError("lost\\nin two lines")

METHOD = Method(name="foreign", summary="raises an error", transform=transform)
"""


@pytest.mark.slow
def test_any_exception_of_a_run_is_reported_as_its_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_method.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.replace("{name: edgefd, n_clusters: 2}", "{name: 'foreign_method:METHOD'}"))
    outcomes: list[str] = []
    with pytest.raises(RunError, match="2 of 4 runs failed"):
        run_sweep(load_sweep(path), tmp_path / "out", 2, lambda _, o: outcomes.append(o))
    assert outcomes.count("failed: LookupError: lost in two lines") == 2
    assert sum("accuracy" in o for o in outcomes) == 2


def test_changed_data_make_another_run(tmp_path: Path) -> None:
    sweep, data, proxy = (tmp_path / name for name in ("sweep.yaml", "d.npz", "p.npz"))
    sweep.write_text(
        f"base: {{data: {{name: {data}}}, model: {{name: mlp}}, proxy: {{source: public, path: {proxy}}}}}\n"
        "grid: {seed: [0]}"
    )

    def name(sample: float, shared: float) -> str:
        x, y = np.full((20, 3), sample, np.float32), np.arange(20) % 2
        np.savez(data, x_train=x, y_train=y, x_test=x, y_test=y)
        np.savez(proxy, x=np.full((5, 3), shared, np.float32), y=y[:5])
        return load_sweep(sweep)[0].name

    first = name(1, 1)
    assert name(1, 1) == first
    assert len({first, name(2, 1), name(1, 2)}) == 3


@pytest.fixture
def long_sweep(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a sweep of short and endless runs in its own session; yield it when an endless run is running.

    The second value is the first line of its output.
    """
    text = SWEEP.replace("train.rounds: [1]", "train.rounds: [1, 100000]").replace("seed: [0, 1]", "seed: [0]")
    (tmp_path / "sweep.yaml").write_text(text)
    process = subprocess.Popen(
        command("sweep", "sweep.yaml", "--out", "out", "--jobs", "2"),
        cwd=tmp_path,
        env=env({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        assert first.startswith("1/4 ")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not any(m.read_text().count("\n") > 3 for m in metrics(tmp_path)):
            time.sleep(0.05)
        yield process, first
    finally:
        if alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def session_ended(process: subprocess.Popen[str]) -> bool:
    deadline = time.monotonic() + 20
    while (left := alive(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)  # the helper process of multiprocessing ends after its parent
    return not left


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_and_keeps_finished_runs(
    long_sweep: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, first = long_sweep
    os.killpg(process.pid, signal.SIGINT)  # like a terminal: to all processes of the command
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.startswith("stopped; finished runs are kept in out")
    assert stderr.count("\n") == 1
    assert is_complete(tmp_path / "out" / first.split()[1].rstrip(":"))
    assert session_ended(process)


@pytest.mark.slow
def test_the_runs_of_a_killed_sweep_end_too(long_sweep: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = long_sweep
    assert len(alive(process.pid)) > 1
    process.kill()
    process.wait(20)
    assert session_ended(process)


def alive(session: int) -> list[str]:
    output = subprocess.run(["ps", "-A", "-o", "pid=,sess=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in output.splitlines()]
    return [pid for pid, of, stat in rows if of == str(session) and not stat.startswith("Z")]


def metrics(folder: Path) -> list[Path]:
    return list(folder.rglob("metrics.jsonl"))
