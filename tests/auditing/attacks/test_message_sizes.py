"""The attack on the lengths of reports: planted differences, equal lengths, and what cannot be measured."""

from pathlib import Path

import numpy as np
import pytest

from edgefd.auditing.attacks.message_sizes import message_sizes, report_sizes
from edgefd.auditing.recording.read import open_recording
from edgefd.auditing.report.verdict import verdicts
from edgefd.runs.record import KNOWLEDGE

TABLE = np.eye(4, dtype=np.int64)[[0, 0, 1, 1, 2, 2, 3, 3]] * 50


def sizes(clients: np.ndarray, rounds: int = 6, noise: float = 1.0) -> np.ndarray:
    """Return sizes of reports that grow from round to round by the same number of bytes for all clients."""
    rng = np.random.default_rng(0)
    grown: np.ndarray = (
        1000 * np.arange(1, rounds + 1)[:, None] + clients + rng.normal(scale=noise, size=(rounds, len(clients)))
    )
    return grown.astype(np.int64)


def test_sizes_that_differ_by_client_and_class_name_both() -> None:
    found = message_sizes({"sizes": sizes(np.array([0, 10, 100, 110, 200, 210, 300, 310])), "table": TABLE}, 0)
    assert found["client"]["named"] == 1
    assert found["client"]["of"] == 24
    assert found["client"]["chance"] == pytest.approx(1 / 8, abs=0.01)
    assert found["main_class"]["named"] == 1
    assert found["main_class"]["chance"] == pytest.approx(1 / 7, abs=0.02)
    assert max(found["client"]["p"], found["main_class"]["p"]) <= 0.01
    result = {
        "adversaries": ["observer"], "exposure": {"sizes": found}, "membership": [], "evidence": {}, "claims": [],
        "extraction": None, "inversion": None,
    }  # fmt: skip
    lines = verdicts(result)["observer"]
    assert [line.leak for line in lines] == [True, True]
    assert "names the client of 100% of the reports" in lines[0].text
    assert "edgefd does not pad messages" in str(lines[0])


def test_equal_sizes_name_nobody() -> None:
    found = message_sizes({"sizes": np.full((6, 8), 5000), "table": TABLE}, 0)
    assert found["client"]["named"] == pytest.approx(1 / 8)
    assert found["main_class"]["named"] == pytest.approx(1 / 7)
    assert found["client"]["p"] == found["main_class"]["p"] == 1


def test_random_sizes_are_rarely_a_disclosure() -> None:
    rng = np.random.default_rng(1)
    p = [
        message_sizes({"sizes": rng.integers(1000, 2000, (6, 8)), "table": TABLE}, seed)[name]["p"]
        for seed in range(30)
        for name in ("client", "main_class")
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.1


def test_missing_reports_and_missing_classes_are_left_out() -> None:
    sent = sizes(np.array([0, 10, 100, 110]))
    sent[:3, 0] = 0  # no report in the first half, so it is left out
    sent[4] = 0  # a round without reports
    found = message_sizes({"sizes": sent}, 0)
    assert found["client"]["of"] == 6  # three clients in rounds 3 and 5
    assert found["client"]["named"] == 1
    assert "coordinator" in found["main_class"]["reason"]
    alone = message_sizes({"sizes": sent[:1], "table": np.eye(4, dtype=np.int64)}, 0)
    assert "reports in two rounds" in alone["client"]["reason"]
    assert "most frequent" in alone["main_class"]["reason"]


def test_sizes_are_those_of_the_recorded_messages(recorded: Path) -> None:
    found = report_sizes(open_recording(recorded))
    assert found.shape == (2, 10)
    assert found[1, 2] == (recorded / KNOWLEDGE / "rounds" / "0001" / "reports" / "2.bin").stat().st_size
