"""Accuracy against virtual seconds: what each client has measured last, when all have measured."""

from dataclasses import dataclass
from typing import Any, cast

import pytest

from edgefd.report.settings import known_accuracies
from edgefd.report.virtual_time import joule_text, second_text
from edgefd.runs.round_metrics import RoundMetrics


@dataclass
class Round:
    """The fields of a round that the plot reads."""

    round: int
    accuracy_per_client: list[float | None] | None
    virtual_seconds: float | None = 2.0
    kept_per_client: tuple[float, float] = (1.0, 1.0)


def known(*rounds: Round) -> dict[int, tuple[float, float]]:
    return known_accuracies(cast(Any, rounds), lambda m: cast(RoundMetrics, m).virtual_seconds)


def test_each_client_counts_with_what_it_has_measured_last() -> None:
    rounds = (Round(0, [0.5, None]), Round(1, [None, 0.25]), Round(2, None), Round(3, [0.75, None]))
    found = known(*rounds)
    assert {round: seconds for round, (seconds, _) in found.items()} == {1: 4.0, 3: 8.0}
    assert [accuracy for _, accuracy in found.values()] == pytest.approx([0.375, 0.5])


def test_a_run_without_a_virtual_clock_has_no_points() -> None:
    assert known(Round(0, [0.5, 0.5], virtual_seconds=None)) == {}


def test_durations_and_energies_are_short() -> None:
    assert (second_text(90), second_text(7200)) == ("90 s", "2 h")
    assert (joule_text(90), joule_text(2500)) == ("90 J", "2.5 kJ")
