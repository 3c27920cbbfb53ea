"""Tables of the bytes that an accuracy took, as `edgefd compare --metrics bytes` shows them."""

import json
import shutil
from pathlib import Path

import pytest

from edgefd.report.bytes_table import bytes_rows, bytes_to, header
from edgefd.report.compare import load_runs
from edgefd.runs.read import read_run
from tests.support.commands import edgefd
from tests.support.report_runs import lines, rewrite, update_file

REACH = (0.3, 0.999)


def with_accuracies(folder: Path, *accuracies: float | None) -> None:
    """Replace the mean accuracy of each round."""
    rewrite(folder, [m | {"accuracy_mean": a} for m, a in zip(lines(folder), accuracies, strict=True)])


@pytest.fixture
def rising(single_run: Path) -> Path:
    """A run whose mean accuracy was not measured in each round."""
    n = len(lines(single_run))
    with_accuracies(single_run, 0.1, None, *([0.2] * (n - 4)), 0.6, 0.5)
    return single_run


def test_the_bytes_are_those_before_the_measurement(rising: Path) -> None:
    run, rounds = read_run(rising), lines(rising)
    once = json.loads((rising / "summary.json").read_text())["bytes_once"]
    before = sum(m["bytes_up"] + m["bytes_down"] for m in rounds[:-2])
    assert bytes_to(run, 0.1) == once + rounds[0]["bytes_down"]
    assert bytes_to(run, 0.3) == bytes_to(run, 0.6) == once + before + rounds[-2]["bytes_down"]
    assert bytes_to(run, 0.61) is None


def test_runs_that_did_not_reach_an_accuracy_are_not_part_of_its_mean(rising: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(rising, other)
    update_file(other, "config.yaml", seed=1)
    with_accuracies(other, *([0.1] * len(lines(other))))
    (row,) = bytes_rows(load_runs([rising, other]), REACH)
    named = dict(zip(header(REACH), row, strict=True))
    sent = bytes_to(read_run(rising), 0.3)
    assert sent is not None
    assert (named["runs"], named["best"]) == ("2", "35.0")
    assert named["MB to 30 %"] == f"{sent / 1e6:.2f} (1 of 2)"
    assert named["MB to 99.9 %"] == "-"


def test_the_command_prints_a_column_for_each_accuracy(rising: Path, tmp_path: Path) -> None:
    shutil.copytree(rising, tmp_path / "a" / "run")
    options = ("--metrics", "bytes", "--reach", "0.3", "--reach", "0.97")
    printed = edgefd("compare", "a", *options, "--format", "csv", cwd=tmp_path)
    assert printed.stdout.splitlines()[0].endswith("best,MB to best,MB to 30 %,MB to 97 %")
    assert "MB to 97 %" in edgefd("compare", "a", *options, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--reach", "0.9"), "--reach is for --metrics bytes"), (("--metrics", "bytes", "--reach", "97"), "such as 0.97")],
)
def test_a_reach_that_means_nothing_is_refused(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    refused = edgefd("compare", str(tmp_path), *options, cwd=tmp_path)
    assert refused.returncode == 2
    assert message in refused.stderr
