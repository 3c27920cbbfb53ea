"""Calibration: bins of confidence and the expected calibration error."""

import numpy as np
import pytest

from edgefd.runs.calibration import BINS, ece, pooled, reliability


def test_ece_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 500).astype(np.float32)
    y = rng.integers(0, 4, 500)
    confidence, correct = p.max(1), p.argmax(1) == y
    expected = 0.0
    for b in range(BINS):
        rows = (confidence > b / BINS) & (confidence <= (b + 1) / BINS)
        if rows.any():
            expected += rows.mean() * abs(correct[rows].mean() - confidence[rows].mean())
    bins = reliability(p, y)
    assert ece(bins) == pytest.approx(expected, abs=1e-6)
    assert sum(bins.correct) == correct.sum()
    halves = pooled([reliability(p[:200], y[:200]), reliability(p[200:], y[200:])])
    assert (halves.count, halves.correct) == (bins.count, bins.correct)
    assert ece(halves) == pytest.approx(ece(bins))


def test_the_confidence_of_a_diverged_model_counts_as_zero() -> None:
    assert reliability(np.full((3, 2), np.nan, np.float32), np.zeros(3, np.int64)).count[0] == 3
