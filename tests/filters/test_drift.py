"""The drift of a client's data decides when its filter is fitted again."""

import dataclasses

import numpy as np
import pytest

from edgefd.filters.drift import DRIFT, DataSummary, drift, summary_of

NONE = np.empty(0, np.int64)


def summary(n: int, seed: int = 0, classes: int = 4, shift: float = 0.0) -> DataSummary:
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, 1, (n, 3, 2)).astype(np.float32)
    return summary_of(x, np.arange(n) % classes, 5, NONE)


def test_equal_data_have_not_moved_and_more_of_the_same_stay_below_the_threshold() -> None:
    assert drift(summary(800), summary(800)) == 0
    assert 0 < drift(summary(8000), summary(8000, seed=1)) < DRIFT


@pytest.mark.parametrize("shift", [0.2, 1.0])
def test_the_drift_of_moved_samples_is_their_distance_in_standard_deviations(shift: float) -> None:
    assert drift(summary(8000), summary(8000, shift=shift)) == pytest.approx(shift, abs=0.03)


def test_the_drift_of_other_shares_is_their_distance() -> None:
    before = summary(800)
    shares = np.array([0.35, 0.25, 0.25, 0.15, 0], np.float32)
    assert drift(before, dataclasses.replace(before, shares=shares)) == pytest.approx(0.1)


def test_a_new_class_and_other_contributed_rows_always_count() -> None:
    before = summary(800)
    assert drift(before, summary(800, classes=5)) == 1
    assert drift(before, summary(800, classes=3)) == 1
    assert drift(before, dataclasses.replace(before, contributed=np.array([3]))) == 1
