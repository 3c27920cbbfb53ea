"""Fixtures of the report's tests: one simulated run folder with three methods, and its page."""

import shutil
from pathlib import Path

import pytest

from edgefd.report.command import write_report
from tests.support.report_runs import Page, simulated


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an edgefd run, with runs of fedmd and indlearn below it."""
    return simulated(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture(scope="package")
def text(runs: Path) -> str:
    """The HTML of the report on the three runs."""
    return write_report([runs], None).read_text()


@pytest.fixture(scope="package")
def page(text: str) -> Page:
    """The parsed report on the three runs."""
    return Page(text)


@pytest.fixture
def single_run(runs: Path, tmp_path: Path) -> Path:
    """A copy of the edgefd run alone, which a test may change."""
    shutil.copytree(runs, tmp_path / "run", ignore=shutil.ignore_patterns("also", "report.html"))
    return tmp_path / "run"
