"""The figure of simulations/frontier_bytes.py, its numbers, and the time that a round takes on a link."""

import csv
import importlib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgefd.report.read import read_runs
from edgefd.report.settings import Setting, settings_in
from tests.support.report_runs import lines

SVG = "{http://www.w3.org/2000/svg}"
frontier_bytes = importlib.import_module("simulations.frontier_bytes")


@pytest.fixture
def settings(runs: Path) -> list[Setting]:
    return settings_in(read_runs([runs]))


def test_the_figure_has_a_curve_for_each_method_that_sends_anything(settings: list[Setting]) -> None:
    root = ET.fromstring(frontier_bytes.figure(settings))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"edgefd simplex15", "fedmd simplex15"} <= set(texts)
    curves = [p for p in root.iter(f"{SVG}path") if p.get("class") == "curve" and "L" in str(p.get("d"))]
    assert len(curves) == 2


def test_the_numbers_begin_with_what_is_sent_once_and_end_with_everything(
    settings: list[Setting], runs: Path, tmp_path: Path
) -> None:
    frontier_bytes.write_numbers(settings, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "edgefd simplex15"]
    (run,) = (s.runs[0] for s in settings if s.runs[0].method == "edgefd")
    assert run.summary is not None
    sent = [int(row["bytes"]) - (run.summary.bytes_once or 0) for row in rows]
    assert sent[0] == 0
    assert sent[-1] == sum(m["bytes_up"] + m["bytes_down"] for m in lines(runs))


def test_a_round_takes_the_time_of_its_bytes(
    settings: list[Setting], runs: Path, capsys: pytest.CaptureFixture
) -> None:
    (setting,) = (s for s in settings if s.runs[0].method == "edgefd")
    rounds = lines(runs)
    reports = sum(len(m["kept_per_client"]) for m in rounds if not m["closing"])
    assert frontier_bytes.mean_bytes(setting, "bytes_up") == sum(m["bytes_up"] for m in rounds) / reports
    frontier_bytes.print_links([setting])
    assert "| `edgefd simplex15` |" in capsys.readouterr().out
    assert [frontier_bytes.duration(s) for s in (0.0042, 75, 5000, 400_000)] == ["4.2 ms", "1.2 min", "1.4 h", "4.6 d"]
