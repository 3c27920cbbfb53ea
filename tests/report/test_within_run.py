"""Plots within a run: their tables hold the recorded values."""

import json
from pathlib import Path

from tests.support.report_runs import Page, lines, percent


def test_the_tables_within_a_run_hold_the_recorded_values(page: Page, runs: Path) -> None:
    last, evaluation = lines(runs)[-1], json.loads((runs / "evaluation.json").read_text())
    assert page.tables["edgefd / Accuracy by client and round"][-1] == [
        "3",
        *(percent(a) for a in last["accuracy_per_client"]),
    ]
    personal = page.tables["edgefd / Personal and general accuracy by client"]
    pairs = zip(last["personal_accuracy_per_client"], last["accuracy_per_client"], strict=True)
    assert [row[1:] for row in personal[1:]] == [[percent(p), percent(g), percent((p * g) ** 0.5)] for p, g in pairs]
    classes = page.tables["edgefd / Accuracy by client and class"]
    for client, correct in enumerate(evaluation["correct_by_class"]):
        shares = [c / n for c, n in zip(correct, evaluation["test_by_class"], strict=True)]
        assert classes[1 + client] == [str(client), *(percent(s) for s in shares)]
    partition = json.loads((runs / "partition.json").read_text())["clients"]
    data = page.tables["edgefd / Private data by client and class"]
    assert [row[1:11] for row in data[1:]] == [[str(n) for n in c["samples_by_class"]] for c in partition]
    answered = lines(runs)[-2]
    acceptance = page.tables["edgefd / Acceptance by client"]
    keys = ("kept_per_client", "wrong_claims_per_client", "wrong_weight_per_client")
    assert [row[1:] for row in acceptance[1:]] == [[percent(answered[k][c]) for k in keys] for c in range(4)]
    assert "indlearn / Acceptance by client" not in page.tables  # it sends nothing
