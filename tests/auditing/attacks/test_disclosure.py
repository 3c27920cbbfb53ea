"""Level 0: the arithmetic of aggregates of one client, label inference and attribution, on small numbers."""

import numpy as np
import pytest

from edgefd.auditing.attacks.attribution import attribution
from edgefd.auditing.attacks.label_inference import label_inference
from edgefd.auditing.attacks.single_client_aggregates import single_client_aggregates

SIGNALS = {
    "votes": np.array([[[1, 1, 0, 0], [0, 1, 1, 1]]], np.bool_),
    "weights": np.array([[1, 0.5, 0, 0], [0, 0.1, 1, 0.5]], np.float32),
    "labels": np.array([[[1.0, 0.0], [0.25, 0.75]]], np.float32),
    "classes": np.array([0, 0, 1, 1]),
    "table": np.array([[10, 0], [5, 15]]),
    "owner": np.array([0, 1, 1, 0]),
}


def test_aggregates_of_one_client_are_counted_by_round() -> None:
    votes = np.array([[[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]]], np.bool_)
    assert single_client_aggregates(votes) == {"one_voter": [2 / 3], "at_most_two": [2 / 3]}


def test_class_shares_are_inferred_from_masks_weights_and_soft_labels() -> None:
    shares = label_inference(SIGNALS)
    # client 1's mask: half of class 0, all of class 1 → 1/3, 2/3 against 1/4, 3/4
    np.testing.assert_allclose(shares["masks"]["total_variation_per_client"], [0, 1 / 3 - 1 / 4])
    assert shares["soft_labels"]["total_variation"] == 0
    assert shares["masks"]["presence_auc"]["value"] == 1


def test_contributors_are_inferred_among_rows_of_one_class() -> None:
    areas = attribution(SIGNALS, np.array([0, 0, 1, 1]))
    assert areas["mask"]["value"] == pytest.approx(10 / 16)
    assert areas["weight"]["value"] == pytest.approx(11 / 16)
    assert "no class is contributed by two" in attribution(SIGNALS, np.array([0, 1, 2, 3]))["reason"]
