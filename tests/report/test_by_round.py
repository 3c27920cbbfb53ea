"""Curves by round: the table below each plot holds every value that the runs recorded."""

from pathlib import Path

import pytest

from tests.support.report_runs import METHODS, Page, lines, percent, report_page, rewrite

ONLY_ZEROS = ("kept_fraction", "teacher_coverage")  # indlearn sends nothing, so it is left out of these plots


@pytest.mark.parametrize(
    ("title", "key", "rounds"),
    [
        ("Accuracy, mean over clients", "accuracy_mean", [0, 1, 2, 3]),
        ("Accuracy of the worst client", "accuracy_worst", [0, 1, 2, 3]),
        ("Accuracy on clients' own data", "heldout_accuracy_mean", [0, 1, 2, 3]),
        ("Personal accuracy", "personal_accuracy_mean", [0, 1, 2, 3]),
        ("BAM, personal and general", "bam_mean", [0, 1, 2, 3]),
        ("Accuracy of the teacher", "teacher_accuracy", [0, 1, 2]),
        ("Agreement with the teacher", "agreement_mean", [1, 2, 3]),
        ("Accepted fraction", "kept_fraction", [0, 1, 2]),
        ("Out-of-class fraction", "wrong_claims", [0, 1, 2]),
        ("Coverage of the teacher", "teacher_coverage", [0, 1, 2]),
        ("ECE of the clients' models", "ece_mean", [0, 1, 2, 3]),
        ("ECE of the teacher", "teacher_ece", [0, 1, 2]),
    ],
)
def test_every_recorded_value_of_every_round_is_shown(
    page: Page, runs: Path, title: str, key: str, rounds: list[int]
) -> None:
    header, *rows = page.tables[title]
    shown = {(row[0], method): cell for row in rows for method, cell in zip(header[1:], row[1:], strict=True)}
    expected = {}
    for method, folder in METHODS.items():
        values = {m["round"]: m[key] for m in lines(runs / folder)}
        recorded = any(values[r] is not None for r in rounds)
        if recorded and not (method == "indlearn" and key in ONLY_ZEROS):
            expected |= {(str(r), method): percent(values[r]) for r in rounds}
    assert shown == expected
    assert len(expected) >= len(rounds)


def test_rounds_that_were_not_evaluated_are_left_out(single_run: Path) -> None:
    rounds = lines(single_run)
    for key in ("accuracy_mean", "accuracy_worst", "accuracy_per_client"):
        rounds[1][key] = None
    rewrite(single_run, rounds)
    reported = report_page(single_run)
    assert [row[0] for row in reported.tables["Accuracy, mean over clients"][1:]] == ["0", "2", "3"]
    assert [row[0] for row in reported.tables["Accepted fraction"][1:]] == ["0", "1", "2"]
