"""Comparison of runs: statistics, settings that differ, and tables."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from edgefd.core.errors import UserError
from edgefd.report.compare import compare, interval, load_runs
from edgefd.report.paper_table import to_wide


def test_the_interval_is_that_of_students_t_distribution() -> None:
    values = [0.91, 0.93, 0.95, 0.90]
    mean, std, low, high = interval(values)
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert (mean, std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert interval([0.5]) == (0.5, None, None, None)


def summary_of_run(config: dict[str, object], **more: object) -> dict[str, object]:
    """Return the summary of a complete run, with its config."""
    rng = dict.fromkeys(
        ("accuracy_mean", "accuracy_worst", "bytes_up", "bytes_down", "bytes_once", "seconds_total"), 1.0
    )
    names = {"dataset": "a", "scenario": "iid", "method": "m", "data_sha256": "", "proxy_labels_used": False}
    return {"config": config, "raw_samples_disclosed": 0, **rng, **names, **more}


def test_a_wide_table_has_a_column_for_each_scenario() -> None:
    def run(method: str, scenario: str, seed: int, accuracy: float, up: float = 1e6) -> dict[str, object]:
        config = {"seed": seed, "data": {"name": "a"}, "method": {"name": method}, "partition": {"name": scenario}}
        names = {"method": method, "scenario": scenario, "bytes_up": up, "bytes_once": 5e5}
        return summary_of_run(config, accuracy_mean=accuracy, accuracy_worst=accuracy - 0.1, **names)

    runs = [run("m", "iid", 0, 0.9), run("m", "strong", 0, 0.7, 2e6), run("m", "strong", 1, 0.8, 4e6)]
    table = to_wide([*runs, run("n", "iid", 0, 0.95), {**run("m", "iid", 0, 0.5), "dataset": "b"}])
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


def test_groups_name_the_settings_that_differ() -> None:
    def run(seed: int, rounds: int) -> dict[str, object]:
        config = {"seed": seed, "data": {"name": "a"}, "method": {"name": "m"}, "train": {"rounds": rounds, "lr": 1}}
        return summary_of_run(config, accuracy_mean=rounds / 10)

    groups = compare([run(0, 5), run(1, 5), run(0, 7)])
    assert [(g.settings, g.runs) for g in groups] == [("rounds=7", 1), ("rounds=5", 2)]
    with pytest.raises(UserError, match="one seed was run twice"):
        compare([run(0, 5), run(0, 5)])


def test_settings_that_do_not_change_results_separate_no_runs() -> None:
    def run(seed: int, **settings: object) -> dict[str, object]:
        return summary_of_run({"seed": seed, "method": {"name": "m"}, "run": settings})

    kept = [run(0, keep="last", checkpoint_every="auto"), run(1, keep="none", checkpoint_every=0)]
    assert [(group.settings, group.runs) for group in compare(kept)] == [("", 2)]


def test_runs_are_averaged_over_another_setting_than_the_seed() -> None:
    def run(people: list[int], seed: int, accuracy: float) -> dict[str, object]:
        config = {"seed": seed, "data": {"name": "a", "test_people": people}, "method": {"name": "m"}}
        return summary_of_run(config, accuracy_mean=accuracy, scenario="by_group", data_sha256=str(people))

    runs = [run([1, 2], 0, 0.5), run([3, 4], 0, 0.7), run([1, 2], 1, 0.9)]
    groups = compare(runs, "data.test_people")
    assert [(g.settings, g.runs, g.mean) for g in groups] == [("seed=1", 1, 0.9), ("seed=0", 2, pytest.approx(0.6))]
    assert [g.runs for g in compare(runs)] == [2, 1]  # another fold is other data, not another seed
    with pytest.raises(UserError, match=r"one data\.test_people was run twice"):
        compare([*runs, run([1, 2], 0, 0.6)], "data.test_people")
    with pytest.raises(UserError, match=r"--over data\.folds: the runs have no such setting"):
        compare(runs, "data.folds")


def test_settings_with_the_same_last_word_are_named_in_full() -> None:
    def run(alpha: float, shared: float, quantile: float) -> dict[str, object]:
        partition, proxy = {"name": "dirichlet", "alpha": alpha}, {"alpha": shared}
        config = {"seed": 0, "partition": partition, "proxy": proxy, "method": {"name": "m", "quantile": quantile}}
        return summary_of_run(config)

    groups = compare([run(0.1, 0.2, 0.5), run(0.5, 0.2, 0.5), run(0.1, 0.2, 0.9)])
    assert sorted(g.settings for g in groups) == [
        "quantile=0.5 partition.alpha=0.1",
        "quantile=0.5 partition.alpha=0.5",
        "quantile=0.9 partition.alpha=0.1",
    ]
    both = compare([run(0.1, 0.2, 0.5), run(0.5, 0.1, 0.5)])
    assert sorted(g.settings for g in both) == [
        "partition.alpha=0.1 proxy.alpha=0.2",
        "partition.alpha=0.5 proxy.alpha=0.1",
    ]


def test_settings_of_different_methods_are_not_compared() -> None:
    def run(method: str, beta: float) -> dict[str, object]:
        return summary_of_run({"seed": 0, "method": {"name": method, "beta": beta}}, method=method)

    assert {g.settings for g in compare([run("edgefd", 3.0), run("scarlet", 2.0)])} == {""}
    both = compare([run("edgefd", 3.0), run("edgefd", 1.0), run("scarlet", 2.0)])
    assert {(g.method, g.settings) for g in both} == {
        ("edgefd", "beta=3.0"),
        ("edgefd", "beta=1.0"),
        ("scarlet", "beta=2.0"),
    }


def test_groups_with_several_models_are_named_by_their_models() -> None:
    def run(model: object) -> dict[str, object]:
        return summary_of_run({"seed": 0, "model": model, "method": {"name": "m"}})

    cnn, mlp = {"name": "cnn", "heads": 1}, {"name": "mlp", "heads": 1}
    groups = compare([run(cnn), run([cnn, mlp]), run(mlp)])
    assert sorted(g.settings for g in groups) == ["model.name=cnn", "model.name=cnn+mlp", "model.name=mlp"]


def test_incomplete_and_missing_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        load_runs([tmp_path])
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot read .*config\.yaml: No such file"):
        load_runs([tmp_path])
    sections = "{data: {name: a}, method: {name: m}, partition: {name: iid}, train: {rounds: 1}, seed: 0}"
    (tmp_path / "config.yaml").write_text(sections)
    with pytest.raises(UserError, match=r"summary\.json is malformed: method: Field required"):
        load_runs([tmp_path])
    stopped = summary_of_run({}, complete=False, rounds=1, n_clients=1, seed=0, seconds_per_round=1.0)
    fields = {"kept_fraction": 1.0, "teacher_coverage": 1.0, "data_source": "", "data_samples": 1}
    (tmp_path / "summary.json").write_text(json.dumps(stopped | fields))
    with pytest.raises(UserError, match="did not reach its end"):
        load_runs([tmp_path])
