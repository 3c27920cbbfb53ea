"""Tuning: equal budgets, the validation part only, the same trials after any interruption."""

import csv
import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from edgefd.cli.tune import tune
from edgefd.config.load import PACKAGED, load_config, parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import InUse, RunError, UserError
from edgefd.methods import method_names
from edgefd.runs.read import is_complete
from edgefd.simulation import tuning as module
from edgefd.simulation.run_cells import Cell, Failure
from edgefd.simulation.sweep import FailedRuns
from edgefd.simulation.tuning import Trial, best_of, load_tuning, run_tuning
from edgefd.simulation.tuning_results import best_path, tuning_table, write_results
from edgefd.simulation.tuning_space import read_space
from tests.support.commands import ROOT, command, edgefd, env

pytest.importorskip("optuna")

CONFIG = {
    "data": {"name": "mnist_mini", "limit": 200, "validation": 0.2},
    "partition": {"name": "iid", "n_clients": 3},
    "model": {"name": "linear"},
    "method": {"name": "edgefd", "n_clusters": 4},
    "train": {"rounds": 1},
    "baselines": ["fedmd"],
}
SPACE = """
common:
  train.lr: {log: [0.0001, 0.1]}
edgefd:
  method.quantile: [0.5, 0.9]
"""
SUMMARY = {
    "rounds": 1, "complete": True, "n_clients": 3, "bytes_up": 1000, "bytes_down": 0, "bytes_once": 0,
    "seconds_total": 1.0, "seconds_per_round": 1.0, "kept_fraction": 0.0, "teacher_coverage": 0.0,
    "proxy_labels_used": False, "raw_samples_disclosed": 0, "data_source": "", "data_samples": 1, "data_sha256": "",
}  # fmt: skip


def accuracy(config: Config) -> float:
    """An accuracy that depends on the settings and on the seed."""
    quantile = getattr(config.method_config, "quantile", 0.7)
    return round(quantile - abs(config.train.lr - 0.01) + 0.001 * (config.seed - 100), 6)


class FakeRuns:
    """A replacement of `run_sweep` that writes summaries; it can be interrupted after some runs."""

    def __init__(self) -> None:
        self.ran: list[Cell] = []
        self.stop_after: int | None = None
        self.impossible = 1.0
        """learning rate from which on a run fails"""
        self.disk_is_full = False

    def __call__(self, cells: Sequence[Cell], out: Path, workers: int, on_done: Callable[[Cell, str], None]) -> None:
        failures = {}
        for cell in cells:
            if is_complete(out / cell.name):
                on_done(cell, "complete already")
                continue
            if self.stop_after is not None and len(self.ran) >= self.stop_after:
                if not self.disk_is_full:
                    raise KeyboardInterrupt
                failures[cell.name] = Failure("the disk is full", True)
                continue
            self.ran.append(cell)
            if cell.config.train.lr >= self.impossible:
                failures[cell.name] = Failure("it diverged", False)
                continue
            (out / cell.name).mkdir(parents=True)
            names = {"method": cell.config.method_name, "dataset": "d", "scenario": "iid", "seed": cell.config.seed}
            summary = SUMMARY | names | {"accuracy_mean": accuracy(cell.config)}
            (out / cell.name / "summary.json").write_text(json.dumps(summary))
            on_done(cell, "done")
        if failures:
            raise FailedRuns("runs failed", failures)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    fake = FakeRuns()
    monkeypatch.setattr(module, "run_sweep", fake)
    return fake


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def tuned(
    space: Path, out: Path, trials: int, seeds: Sequence[int] = (100, 101), config: dict[str, object] = CONFIG
) -> dict[str, list[Trial]]:
    tuning = load_tuning(parse_config(config), space, [], seeds)
    return run_tuning(tuning, trials, out, 1, lambda *_: None, lambda so_far: write_results(tuning, so_far, out))


def test_every_method_gets_the_same_trials_seeds_and_measure(runs: FakeRuns, space: Path, tmp_path: Path) -> None:
    results = tuned(space, tmp_path / "out", 5)
    assert {name: [t.number for t in trials] for name, trials in results.items()} == {
        "edgefd": [0, 1, 2, 3, 4],
        "fedmd": [0, 1, 2, 3, 4],
    }
    assert {cell.config.data.evaluate_on for cell in runs.ran} == {"validation"}
    assert [cell.config.seed for cell in runs.ran] == [100, 101] * 10
    default = results["edgefd"][0]
    assert default.settings == {"train.lr": 0.003, "method.quantile": 0.95}  # added to the list of quantiles
    assert {cell.config.method_config.n_clusters for cell in runs.ran if cell.config.method_name == "edgefd"} == {4}
    for trials in results.values():
        for trial in trials:
            assert trial.value == pytest.approx(sum(trial.by_seed.values()) / 2)
        assert len({json.dumps(dict(trial.settings)) for trial in trials}) == 5  # none is tried twice


def test_the_same_seeds_give_the_same_trials_and_others_do_not(runs: FakeRuns, space: Path, tmp_path: Path) -> None:
    first, again = (tuned(space, tmp_path / name, 8) for name in ("a", "b"))
    assert first == again
    assert tuned(space, tmp_path / "c", 8, config=CONFIG | {"seed": 1}) != first


def test_more_trials_continue_an_earlier_tuning(runs: FakeRuns, space: Path, tmp_path: Path) -> None:
    whole = tuned(space, tmp_path / "whole", 7)
    tuned(space, tmp_path / "parts", 3)
    runs.ran.clear()
    assert tuned(space, tmp_path / "parts", 7) == whole
    assert len(runs.ran) == 4 * 2 * 2


@pytest.mark.parametrize("stop_after", [1, 5, 6, 7, 8])
def test_a_stopped_tuning_resumes_to_the_same_trials(
    runs: FakeRuns, space: Path, tmp_path: Path, stop_after: int
) -> None:
    whole = tuned(space, tmp_path / "whole", 3)
    runs.ran.clear()
    runs.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        tuned(space, tmp_path / "stopped", 3)
    n_stored = stop_after // 4  # four runs make one trial of both methods
    assert (tmp_path / "stopped" / "trials.csv").exists() == (n_stored > 0)
    runs.stop_after = None
    assert tuned(space, tmp_path / "stopped", 3) == whole
    assert len(runs.ran) == 3 * 2 * 2  # no finished run is repeated


def test_a_run_that_the_machine_failed_is_named_and_repeated(runs: FakeRuns, space: Path, tmp_path: Path) -> None:
    runs.stop_after, runs.disk_is_full = 2, True
    with pytest.raises(RunError, match=r"fedmd-mnist_mini-iid-s100-\w+ failed: the disk is full; repeat the command"):
        tuned(space, tmp_path / "out", 1)
    runs.stop_after = None
    assert len(tuned(space, tmp_path / "out", 1)["fedmd"]) == 1


def test_settings_that_fail_are_stored_and_not_tried_again(runs: FakeRuns, space: Path, tmp_path: Path) -> None:
    space.write_text("common: {train.lr: [0.001, 0.01, 0.1, 0.2]}")
    runs.impossible, out = 0.1, tmp_path / "out"
    results = tuned(space, out, 9)
    assert {name: len(trials) for name, trials in results.items()} == {"edgefd": 5, "fedmd": 5}  # with the default
    for trials in results.values():
        failed = {trial.settings["train.lr"]: trial.error for trial in trials if trial.value is None}
        assert set(failed) == {0.1, 0.2}
        assert all(error.endswith(": it diverged") for error in failed.values())
    n_runs = len(runs.ran)
    assert tuned(space, out, 9) == results
    assert len(runs.ran) == n_runs
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["accuracy"] == "" for row in rows] == [row["error"].endswith("it diverged") for row in rows]
    tuning = load_tuning(parse_config(CONFIG), space, [], [100, 101])
    assert list(tuning_table(tuning, results).columns[1].cells) == ["5 (2 failed)"] * 2


def test_a_method_of_which_all_trials_fail_has_no_best(runs: FakeRuns, space: Path, tmp_path: Path) -> None:
    runs.impossible = 0.0
    results = tuned(space, tmp_path / "out", 2)
    assert [best_of(trials) for trials in results.values()] == [None, None]
    tuning = load_tuning(parse_config(CONFIG), space, [], [100, 101])
    assert list(tuning_table(tuning, results).columns[2].cells) == ["failed"] * 2
    assert not list((tmp_path / "out").rglob("best.yaml"))


@pytest.mark.slow
def test_settings_that_the_run_refuses_are_a_failed_trial_of_a_real_tuning(space: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"baselines": []}))
    space.write_text("common: {coordinator.min_reports: [9]}")  # there are 3 clients
    arguments = ("tune", "config.yaml", "--space", "space.yaml", "--trials", "3", "--out", "out")
    first, again = (edgefd(*arguments, cwd=tmp_path) for _ in range(2))
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert first.stdout.count("failed: coordinator.min_reports") == 1
    assert "coordinator.min_reports" in (tmp_path / "out" / "trials.csv").read_text()
    assert "failed: coordinator.min_reports" not in again.stdout
    assert "2 (1 failed)" in again.stdout


@pytest.mark.parametrize("change", ["seeds", "config", "space"])
def test_a_folder_of_another_tuning_is_refused(runs: FakeRuns, space: Path, tmp_path: Path, change: str) -> None:
    tuned(space, tmp_path / "out", 1)
    if change == "space":
        space.write_text(SPACE.replace("0.5, 0.9", "0.5, 0.8"))
    config = CONFIG | {"train": {"rounds": 2}} if change == "config" else CONFIG
    with pytest.raises(UserError, match="holds a tuning of edgefd with other settings, seeds or data"):
        tuned(space, tmp_path / "out", 1, (102,) if change == "seeds" else (100, 101), config)


def test_a_tuning_that_is_refused_removes_nothing_of_the_one_at_work(
    runs: FakeRuns, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    @contextmanager
    def taken(path: Path, *_: str) -> Iterator[None]:  # another process was faster
        (out / "runs" / "under-way").mkdir(parents=True)
        raise InUse("another process tunes")
        yield

    monkeypatch.setattr(module, "exclusive_lock", taken)
    with pytest.raises(InUse):
        tuned(space, out, 1)
    assert (out / "runs" / "under-way").exists()


def test_a_space_without_further_combinations_ends(runs: FakeRuns, space: Path, tmp_path: Path) -> None:
    space.write_text("common: {train.batch_size: [32, 64]}\nedgefd: {method.quantile: [0.5, 0.9]}")
    results = tuned(space, tmp_path / "out", 9)
    assert len(results["fedmd"]) == 2
    assert len(results["edgefd"]) == 6  # two batch sizes, and two quantiles with the default


def test_combinations_that_the_config_refuses_are_not_tried(runs: FakeRuns, space: Path, tmp_path: Path) -> None:
    space.write_text("common: {method.estimator: [kmeans, knn], method.n_clusters: [4, 10, 50]}")
    results = tuned(space, tmp_path / "out", 9, config=CONFIG | {"method": {"name": "edgefd"}, "baselines": []})
    tried = [tuple(trial.settings.values()) for trial in results["edgefd"]]
    assert sorted(tried) == [("kmeans", 4), ("kmeans", 10), ("kmeans", 50), ("knn", 50)]


def test_results_hold_every_trial_and_configs_to_run(runs: FakeRuns, space: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = tuned(space, out, 6)
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["trial"]) for row in rows] == [(m, str(n)) for m in results for n in range(6)]
    assert [float(row["accuracy"]) for row in rows] == pytest.approx([t.value for ts in results.values() for t in ts])
    assert {row["method.quantile"] for row in rows if row["method"] == "fedmd"} == {""}
    for name, trials in results.items():
        best = best_of(trials)
        assert best is not None
        assert best.value == max(t.value for t in trials if t.value is not None)
        config = load_config(best_path(out, name))
        assert (config.method_name, config.seed, config.data.evaluate_on) == (name, 0, "test")
        assert config.train.lr == best.settings["train.lr"]
        assert replace(config, data=replace(config.data, evaluate_on="validation"), run=runs.ran[0].config.run) in [
            replace(cell.config, seed=0) for cell in runs.ran
        ]
    table = tuning_table(load_tuning(parse_config(CONFIG), space, [], [100, 101]), results)
    assert table.row_count == 2
    assert list(table.columns[1].cells) == ["6", "6"]


def test_the_earliest_of_equal_trials_is_the_best() -> None:
    trials = [Trial("m", n, {}, value, {}, 0, 0) for n, value in enumerate([0.5, 0.7, 0.7])]
    assert best_of([Trial("m", 3, {}, None, {}, 0, 0, "diverged"), *trials]) == trials[1]


@pytest.mark.parametrize(
    ("config", "seeds", "message"),
    [
        ({"data": {"name": "mnist_mini"}}, [100], r"set data\.validation, such as 0\.1"),
        ({}, [0, 100], "--seeds holds 0, the seed of the config"),
        ({}, [], "must be different numbers"),
        ({}, [100, 100], "must be different numbers"),
    ],
)
def test_bad_seeds_and_configs_are_refused(
    space: Path, config: dict[str, object], seeds: list[int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_tuning(parse_config(CONFIG | config), space, [], seeds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("common: [train.lr]", "common must hold keys and their values"),
        ("fedavg: {train.lr: [0.1]}", "has no key for method edgefd"),
        ("common: {train.lr: [0.1]}\nfedmt: {train.lr: [1]}", "unknown method 'fedmt': did you mean 'fedmd'?"),
        (f"common: {{train.lr: {{log: [1, {10**400}]}}}}", "needs two numbers"),
        ("common: {lr: [0.1]}", "lr must be the name of a key, such as train.lr"),
        ("common: {train.lr: []}", "train.lr must be a list of values, or"),
        ("common: {train.lr: 0.1}", "train.lr must be a list of values, or"),
        ("common: {train.lr: {cube: [0, 1]}}", "train.lr must be a list of values, or"),
        ("common: {train.lr: {log: [0, 1]}}", "log needs numbers above 0, not 0"),
        ("common: {train.lr: {uniform: [1, 0]}}", "the smaller one first, not 1 and 0"),
        ("common: {train.lr: {uniform: [0, many]}}", "needs two numbers"),
        ("common: {train.batch_size: {integers: [8, 64.5]}}", "needs two whole numbers"),
        ("common: {train.lr: {log: [0.01, 0.1]}}", r"edgefd: the default of train\.lr, 0\.003, is not in the range"),
        ("common: {train.lr: [[1]]}", "the values of a list must be numbers or text"),
        ("common: {train.speed: [1]}", r"edgefd has no setting train\.speed: remove it"),
        ("common: {method.quantile: [0.5]}", r"fedmd has no setting method\.quantile"),
        ("common: {train.lr: [fast]}", r"edgefd with train\.lr=fast: train\.lr"),
        ("common: {train.batch_size: {integers: [1, 64]}}", r"edgefd with train\.batch_size=1: "),
        *(
            (f"common: {{{key}: [1]}}", f"{key} says what is measured")
            for key in ("seed.x", "data.validation", "data.limit", "partition.n_clients", "method.name", "run.workers")
        ),
    ],
)
def test_bad_spaces_are_refused_in_one_line(space: Path, text: str, message: str) -> None:
    space.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_tuning(parse_config(CONFIG), space, [], [100])
    assert "\n" not in str(caught.value)


def test_the_default_space_fits_every_method() -> None:
    name = Path("simulations/tuning/methods.yaml")
    assert (ROOT / name).read_bytes() == PACKAGED[name].read_bytes()
    config = parse_config(CONFIG | {"method": {"name": "edgefd"}, "baselines": []})
    tuning = load_tuning(config, ROOT / name, method_names(), [100])
    assert [method.name for method in tuning.methods] == list(method_names())
    sections = set(yaml.safe_load((ROOT / name).read_text()))
    assert sections - {"common"} <= set(method_names())


def test_the_default_space_is_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "method.quantile" in read_space(Path("simulations/tuning/methods.yaml"), ["edgefd"])["edgefd"]


def test_a_missing_optuna_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefd.core.errors.find_spec", lambda name: None if name == "optuna" else name)
    with pytest.raises(UserError, match=r"this needs optuna: pip install 'edgefd\[tune\]'"):
        tune(Path("simulations/quickstart.yaml"))


def test_mistakes_on_the_command_line_are_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        ([], "set data.validation"),
        (["data.validation=0.1", "--seeds", "a"], "--seeds must be numbers such as 100,101"),
        (["data.validation=0.1", "--seeds", "9" * 5000], "--seeds must be numbers such as 100,101"),
        (["data.validation=0.1", "--methods", "fedmt"], "unknown method 'fedmt'"),
        (["data.validation=0.1", "--space", "nowhere.yaml"], "nowhere.yaml"),
    ):
        result = edgefd("tune", "simulations/quickstart.yaml", *arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_command_resumes_to_the_same_table(space: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    arguments = ["tune", "config.yaml", "--space", "space.yaml", "--trials", "3", "--jobs", "1"]
    process = subprocess.Popen(
        command(*arguments, "--out", "killed"), cwd=tmp_path, env=env({}), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("3/6 "):  # in the middle of the second trial
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    resumed = edgefd(*arguments, "--out", "killed", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("complete already") >= 1
    assert edgefd(*arguments, "--out", "whole", cwd=tmp_path).returncode == 0

    def table(folder: str) -> list[dict[str, str]]:
        with (tmp_path / folder / "trials.csv").open() as file:
            return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]

    assert table("killed") == table("whole")
    assert len(table("whole")) == 6
