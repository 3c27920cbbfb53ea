"""Reliability curves: their tables hold the pooled bins of evaluation.json."""

import json
from pathlib import Path

import numpy as np

from tests.support.report_runs import Page, percent


def test_the_table_of_reliability_holds_the_pooled_bins(page: Page, runs: Path) -> None:
    rows = [row for row in page.tables["Reliability of the clients' models"][1:] if row[0] == "edgefd"]
    clients = json.loads((runs / "evaluation.json").read_text())["clients"]
    counts = np.sum([c["count"] for c in clients], axis=0)
    correct = np.sum([c["correct"] for c in clients], axis=0)
    assert [row[1] for row in rows] == [f"{n:,}" for n in counts if n]
    assert [row[3] for row in rows] == [percent(c / n) for c, n in zip(correct, counts, strict=True) if n]
