"""Plots of bytes: their tables hold the bytes that the runs recorded."""

import json
from pathlib import Path

from tests.support.report_runs import METHODS, Page, lines


def test_the_tables_of_bytes_hold_the_recorded_bytes(page: Page, runs: Path) -> None:
    rows = {row[0]: row[1:] for row in page.tables["Bytes of all rounds"][1:]}
    once = {row[0]: row[1] for row in page.tables["Bytes sent once"][1:]}
    for method, where in METHODS.items():
        summary = json.loads((runs / where / "summary.json").read_text())
        assert rows[method] == [f"{summary['bytes_up']:,}", f"{summary['bytes_down']:,}"]
        assert once[method] == f"{summary['bytes_once']:,}"
    points = [row for row in page.tables["Accuracy against bytes"][1:] if row[0] == "edgefd"]
    found = lines(runs)
    travelled = [sum(m["bytes_down"] for m in found[: r + 1]) + sum(m["bytes_up"] for m in found[:r]) for r in range(4)]
    assert [row[1] for row in points] == [f"{n:,}" for n in travelled]
