"""Settings of a report: seeds become a mean with its interval, and a run given twice counts once."""

from pathlib import Path

import pytest

from edgefd.core.errors import UserError
from edgefd.report.command import write_report
from edgefd.report.compare import interval
from tests.support.report_runs import lines, percent, report_page, reseeded


def test_runs_that_differ_in_the_seed_become_a_mean_with_its_interval(
    runs: Path, single_run: Path, tmp_path: Path
) -> None:
    others = [reseeded(single_run, tmp_path / f"s{seed}", seed, 0.02 * seed) for seed in (1, 2)]
    reported = report_page(single_run, *others, runs / "also" / "fedmd")
    values = [lines(folder)[-1]["accuracy_mean"] for folder in (single_run, *others)]
    mean, _, low, high = interval(values)
    assert low is not None
    assert high is not None
    row = reported.tables["Accuracy, mean over clients"][-1]
    header = reported.tables["Accuracy, mean over clients"][0]
    assert row[header.index("edgefd")] == f"{percent(mean)} ({100 * low:.1f} to {100 * high:.1f})"
    assert "with the seeds 0, 1 and 2" in reported.text
    assert "edgefd: seed 0, the first of 3 / Accuracy by client and class" in reported.tables


def test_a_run_that_is_given_twice_counts_once(runs: Path) -> None:
    assert [row[1] for row in report_page(runs, runs / "also").tables["Results"][1:]] == ["1"] * 3


def test_two_runs_with_the_same_seed_are_refused(runs: Path, single_run: Path) -> None:
    with pytest.raises(UserError, match="one seed was run twice"):
        write_report([runs, single_run], None)
