"""`edgefd report`: where the file goes, what is not replaced, and bad input in one line."""

from pathlib import Path

import pytest

from edgefd.core.errors import UserError
from edgefd.report.command import write_report
from tests.support.commands import edgefd
from tests.support.report_runs import update_file


def test_a_file_that_is_not_a_report_is_not_replaced(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.html").write_text("mine")
    with pytest.raises(UserError, match="exists and is not a report"):
        write_report([runs], tmp_path / "precious.html")
    with pytest.raises(UserError, match="cannot write"):
        write_report([runs], tmp_path / "precious.html" / "report.html")
    assert write_report([runs], tmp_path / "r.html") == write_report([runs], tmp_path / "r.html")


def test_the_command_writes_a_page_and_refuses_paths_without_runs(runs: Path, tmp_path: Path) -> None:
    done = edgefd("report", str(runs), str(runs / "also" / "fedmd"), "--out", "r.html", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "report: r.html\n", "")
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    for arguments in (["absent"], ["r.html"], ["."]):
        done = edgefd("report", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert (
            done.stderr
            == f"error: {arguments[0]} holds no run that completed a round (no metrics.jsonl at or below it)\n"
        )


def test_runs_of_different_data_are_refused(runs: Path, single_run: Path) -> None:
    update_file(single_run, "summary.json", dataset="digits")
    with pytest.raises(UserError, match=r"different data sets \(digits, mnist_mini\): report on one at a time"):
        write_report([runs, single_run], None)
    update_file(single_run, "summary.json", dataset="mnist_mini", data_sha256="0" * 64)
    with pytest.raises(UserError, match="different samples of mnist_mini"):
        write_report([runs, single_run], None)
