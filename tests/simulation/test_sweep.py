"""Sweeps and comparisons: every combination once, resumable, and the statistics by hand."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from edgefd.core.errors import RunError, UserError
from edgefd.data.datasets import find_dataset
from edgefd.report.compare import compare, interval, load_runs, to_csv, to_markdown
from edgefd.report.paper_table import to_wide
from edgefd.simulation.sweep import Cell, is_complete, load_sweep, run_sweep
from tests.support.commands import command, env

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


def test_the_grid_is_every_combination(cells: list[Cell]) -> None:
    assert [(c.config.method_name, c.config.seed) for c in cells] == [
        ("edgefd", 0),
        ("edgefd", 1),
        ("fedmd", 0),
        ("fedmd", 1),
    ]
    assert cells[0].config.method_config.n_clusters == 2
    assert {c.config.partition.name for c in cells} == {"iid"}
    assert cells[0].name.startswith("edgefd-mnist_mini-iid-s0-")


def test_base_settings_hold_for_every_name_in_whatever_order_the_grid_has(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "base: {data: {name: mnist_mini, limit: 600}, partition: {n_clients: 5}, model: {name: mlp}}\n"
        "grid: {method.quantile: [0.5, 0.9], method.name: [edgefd], partition.name: [iid, weak], data.name: [digits]}"
    )
    cells = load_sweep(path)
    assert {c.config.data.limit for c in cells} == {600}
    assert {c.config.partition.n_clients for c in cells} == {5}  # type: ignore[union-attr]
    assert {c.config.method_config.quantile for c in cells} == {0.5, 0.9}


def test_each_case_goes_with_every_combination(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "base: {data: {limit: 600}, partition: {n_clients: 5}, model: {name: mlp}}\n"
        "cases: [{method.name: fedmd}, {method.name: edgefd, defence: {name: top_k, k: 2}}]\ngrid: {seed: [0, 1]}"
    )
    found = [(c.config.method_name, c.config.defence.name, c.config.seed) for c in load_sweep(path)]
    assert found == [("fedmd", "none", 0), ("fedmd", "none", 1), ("edgefd", "top_k", 0), ("edgefd", "top_k", 1)]
    assert {c.config.seed for c in load_sweep(path, ["seed=3"])} == {3}
    with pytest.raises(UserError, match="the cases set defence, so change them in the file"):
        load_sweep(path, ["defence.k=1"])


def test_overrides_are_of_the_grid_or_of_base(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    (cell,) = load_sweep(path, ["seed=7", "method=[{name: fedmd}]", "partition.n_clients=3"])
    assert (cell.config.seed, cell.config.method_name) == (7, "fedmd")
    assert cell.config.partition.n_clients == 3  # type: ignore[union-attr]
    assert {c.config.train.rounds for c in load_sweep(path, ["train.rounds=[1, 2]"])} == {1, 2}
    (same,) = [c for c in load_sweep(path) if (c.config.method_name, c.config.seed) == ("fedmd", 0)]
    assert same == next(iter(load_sweep(path, ["method=[{name: fedmd}]", "seed=[0]"]))), (
        "so that its run is found again"
    )
    for override, says in {
        "method.name=fedmd": "the grid sets method, so override that",
        "partition={name: iid}": "the grid sets partition.name",
        "sed=[0]": "unknown key, did you mean 'seed'",
        "seed": "must look like section.key=value",
    }.items():
        with pytest.raises(UserError, match=says):
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
    ("text", "says"),
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
        ("grid: {seed: [0, 2024-01-01]}", "seed.*2024"),
        ("grid: {seed: [0]}\nbase: {data: {name: 2024-01-01}}", "data.name.*2024"),
        ("grid: {data.name: [mnist_mini, gone.npz]}", "there is no file gone.npz"),
        ("grid: {model.name: [mlp, cnm]}", "unknown model 'cnm'"),
        ("grid: {seed: [0]}\nbase: {proxy: {source: public, path: gone.npz}}", "cannot read gone.npz"),
    ],
)
def test_bad_sweeps_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        load_sweep(path)


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was(cells: list[Cell], tmp_path: Path) -> None:
    out = tmp_path / "out"
    said: list[tuple[str, str]] = []
    run_sweep(cells, out, 2, lambda c, o: said.append((c.name, o)))
    assert sorted(name for name, _ in said) == sorted(c.name for c in cells)
    assert all("accuracy" in o for _, o in said)
    first = (out / cells[0].name / "summary.json").read_text()

    shutil.rmtree(out / cells[1].name)
    stopped = json.loads((out / cells[2].name / "summary.json").read_text()) | {"complete": False}
    (out / cells[2].name / "summary.json").write_text(json.dumps(stopped))
    said.clear()
    folders = run_sweep(cells, out, 2, lambda c, o: said.append((c.name, o)))
    again = {name for name, o in said if o != "done before"}
    assert again == {cells[1].name, cells[2].name}
    assert (out / cells[0].name / "summary.json").read_text() == first
    assert all(is_complete(f) for f in folders)

    groups = compare(load_runs([out]))
    assert [(g.method, g.runs) for g in sorted(groups, key=lambda g: g.method)] == [("edgefd", 2), ("fedmd", 2)]
    ours = next(g for g in groups if g.method == "edgefd")
    assert ours.settings == ""  # nothing but method and seed differs
    values = [json.loads((out / c.name / "summary.json").read_text())["accuracy_mean"] for c in cells[:2]]
    assert ours.mean == pytest.approx(np.mean(values))
    assert to_csv(groups).count("\n") == 3
    assert to_markdown(groups).count("\n") == 4


def test_a_failing_run_does_not_stop_the_others(cells: list[Cell], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / cells[0].name).write_text("in the way")
    said: list[str] = []
    with pytest.raises(RunError, match=f"1 of 2 runs failed: {cells[0].name}"):
        run_sweep(cells[:2], out, 1, lambda c, o: said.append(f"{c.name} {o}"))
    assert any("failed: " in line for line in said)
    assert is_complete(out / cells[1].name)


FOREIGN = """
from edgefd.federation.method import Method

def regroup(federation):
    raise LookupError("lost\\nin two lines")

METHOD = Method(name="foreign", summary="cannot be dealt out", regroup=regroup)
"""


@pytest.mark.slow
def test_whatever_a_run_raises_is_its_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_method.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.replace("{name: edgefd, n_clusters: 2}", "{name: 'foreign_method:METHOD'}"))
    said: list[str] = []
    with pytest.raises(RunError, match="2 of 4 runs failed"):
        run_sweep(load_sweep(path), tmp_path / "out", 2, lambda _, o: said.append(o))
    assert said.count("failed: LookupError: lost in two lines") == 2
    assert sum("accuracy" in o for o in said) == 2


def test_other_data_is_another_run(tmp_path: Path) -> None:
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
    """A sweep of short and endless runs, in a session of its own, one of the endless on its way; its first line."""
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


def nothing_is_left_of(process: subprocess.Popen[str]) -> bool:
    deadline = time.monotonic() + 20
    while (left := alive(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)  # multiprocessing's own helper ends when it sees that its parent has
    return not left


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_and_keeps_finished_runs(
    long_sweep: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, first = long_sweep
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.startswith("stopped; finished runs are kept in out")
    assert stderr.count("\n") == 1
    assert is_complete(tmp_path / "out" / first.split()[1].rstrip(":"))
    assert nothing_is_left_of(process)


@pytest.mark.slow
def test_the_runs_of_a_sweep_that_is_killed_end_too(long_sweep: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = long_sweep
    assert len(alive(process.pid)) > 1
    process.kill()
    process.wait(20)
    assert nothing_is_left_of(process)


def alive(session: int) -> list[str]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,sess=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [pid for pid, of, stat in rows if of == str(session) and not stat.startswith("Z")]


def metrics(folder: Path) -> list[Path]:
    return list(folder.rglob("metrics.jsonl"))


def test_the_interval_is_students() -> None:
    values = [0.91, 0.93, 0.95, 0.90]
    mean, std, low, high = interval(values)
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert (mean, std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert interval([0.5]) == (0.5, None, None, None)


def finished(config: dict[str, object], **more: object) -> dict[str, object]:
    """A run to compare: its summary, with the config it had."""
    rng = dict.fromkeys(
        ("accuracy_mean", "accuracy_worst", "bytes_up", "bytes_down", "bytes_once", "seconds_total"), 1.0
    )
    names = {"dataset": "a", "scenario": "iid", "method": "m", "data_sha256": "", "proxy_labels_used": False}
    return {"config": config, "raw_samples_disclosed": 0, **rng, **names, **more}


def test_a_wide_table_has_a_column_for_each_scenario() -> None:
    def one(method: str, scenario: str, seed: int, accuracy: float, up: float = 1e6) -> dict[str, object]:
        config = {"seed": seed, "data": {"name": "a"}, "method": {"name": method}, "partition": {"name": scenario}}
        names = {"method": method, "scenario": scenario, "bytes_up": up, "bytes_once": 5e5}
        return finished(config, accuracy_mean=accuracy, accuracy_worst=accuracy - 0.1, **names)

    runs = [one("m", "iid", 0, 0.9), one("m", "strong", 0, 0.7, 2e6), one("m", "strong", 1, 0.8, 4e6)]
    table = to_wide([*runs, one("n", "iid", 0, 0.95), {**one("m", "iid", 0, 0.5), "dataset": "b"}])
    assert table == (
        "| a | settings | strong | iid | runs | up MB | down MB | once MB | labels | disclosed |\n"
        f"|{' --- |' * 10}\n"
        "| `n` |  |  | 95.0; 85.0 | 1 | 1.0 | 0.0 | 0.5 | no | 0 |\n"
        "| `m` |  | 75.0 [11.5, 138.5]; 65.0 | 90.0; 80.0 | 2 / 1 | 3.0 / 1.0 | 0.0 | 0.5 | no | 0 |\n"
        "\n"
        "| b | settings | iid | runs | up MB | down MB | once MB | labels | disclosed |\n"
        f"|{' --- |' * 9}\n"
        "| `m` |  | 50.0; 40.0 | 1 | 1.0 | 0.0 | 0.5 | no | 0 |\n"
    )


def test_settings_that_differ_are_named() -> None:
    def one(seed: int, rounds: int) -> dict[str, object]:
        config = {"seed": seed, "data": {"name": "a"}, "method": {"name": "m"}, "train": {"rounds": rounds, "lr": 1}}
        return finished(config, accuracy_mean=rounds / 10)

    groups = compare([one(0, 5), one(1, 5), one(0, 7)])
    assert [(g.settings, g.runs) for g in groups] == [("rounds=7", 1), ("rounds=5", 2)]
    with pytest.raises(UserError, match="one seed was run twice"):
        compare([one(0, 5), one(0, 5)])


def test_folds_are_averaged_over() -> None:
    def one(people: list[int], seed: int, accuracy: float) -> dict[str, object]:
        config = {"seed": seed, "data": {"name": "a", "test_people": people}, "method": {"name": "m"}}
        return finished(config, accuracy_mean=accuracy, scenario="by_group", data_sha256=str(people))

    runs = [one([1, 2], 0, 0.5), one([3, 4], 0, 0.7), one([1, 2], 1, 0.9)]
    groups = compare(runs, "data.test_people")
    assert [(g.settings, g.runs, g.mean) for g in groups] == [("seed=1", 1, 0.9), ("seed=0", 2, pytest.approx(0.6))]
    assert [g.runs for g in compare(runs)] == [2, 1]  # a fold is other data, and not another seed
    with pytest.raises(UserError, match=r"one data\.test_people was run twice"):
        compare([*runs, one([1, 2], 0, 0.6)], "data.test_people")
    with pytest.raises(UserError, match=r"--over data\.folds: the runs have no such setting"):
        compare(runs, "data.folds")


def test_settings_that_share_their_last_word_are_named_in_full() -> None:
    def one(alpha: float, shared: float, quantile: float) -> dict[str, object]:
        partition, proxy = {"name": "dirichlet", "alpha": alpha}, {"alpha": shared}
        config = {"seed": 0, "partition": partition, "proxy": proxy, "method": {"name": "m", "quantile": quantile}}
        return finished(config)

    groups = compare([one(0.1, 0.2, 0.5), one(0.5, 0.2, 0.5), one(0.1, 0.2, 0.9)])
    assert sorted(g.settings for g in groups) == [
        "quantile=0.5 partition.alpha=0.1",
        "quantile=0.5 partition.alpha=0.5",
        "quantile=0.9 partition.alpha=0.1",
    ]
    both = compare([one(0.1, 0.2, 0.5), one(0.5, 0.1, 0.5)])
    assert sorted(g.settings for g in both) == [
        "partition.alpha=0.1 proxy.alpha=0.2",
        "partition.alpha=0.5 proxy.alpha=0.1",
    ]


def test_methods_that_use_one_word_for_two_things_do_not_differ_by_it() -> None:
    def one(method: str, beta: float) -> dict[str, object]:
        return finished({"seed": 0, "method": {"name": method, "beta": beta}}, method=method)

    assert {g.settings for g in compare([one("edgefd", 3.0), one("scarlet", 2.0)])} == {""}
    both = compare([one("edgefd", 3.0), one("edgefd", 1.0), one("scarlet", 2.0)])
    assert {(g.method, g.settings) for g in both} == {
        ("edgefd", "beta=3.0"),
        ("edgefd", "beta=1.0"),
        ("scarlet", "beta=2.0"),
    }


def test_a_fleet_of_several_models_is_named_by_them() -> None:
    def one(model: object) -> dict[str, object]:
        return finished({"seed": 0, "model": model, "method": {"name": "m"}})

    cnn, mlp = {"name": "cnn", "heads": 1}, {"name": "mlp", "heads": 1}
    groups = compare([one(cnn), one([cnn, mlp]), one(mlp)])
    assert sorted(g.settings for g in groups) == ["model.name=cnn", "model.name=cnn+mlp", "model.name=mlp"]


def test_unfinished_and_missing_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        load_runs([tmp_path])
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot read .*config\.yaml: No such file"):
        load_runs([tmp_path])
    sections = "{data: {name: a}, method: {name: m}, partition: {name: iid}, train: {rounds: 1}, seed: 0}"
    (tmp_path / "config.yaml").write_text(sections)
    with pytest.raises(UserError, match="did not reach its end"):
        load_runs([tmp_path])
