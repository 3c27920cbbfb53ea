"""Insertion attack: its scores on small numbers."""

import numpy as np

from edgefd.auditing.attacks.insertion import insertion_scores


def test_an_inserted_record_is_scored_by_filter_and_model() -> None:
    sent = np.full((1, 2, 3, 2), 0.5, np.float32)
    sent[0, 1, :, 0] = [0.9, 0.2, 0.99]  # client 1 is queried
    signals = {
        "inserted": np.array([0.5, 1.0, 0.0], np.float32),
        "sent": sent,
        "client": np.array([1, 1, 1]),
        "member": np.array([True, False, False]),
        "y": np.array([0, 0, 0]),
        "rounds": np.array([4]),
    }
    weight, product = insertion_scores(signals, ("inserted_weight", "insertion"))
    np.testing.assert_allclose(weight.values, [0.5, 1.0, 0.0])
    np.testing.assert_allclose(product.values[:2], np.log([0.45, 0.2]), rtol=1e-6)
    assert product.values[2] < product.values[:2].min()  # the model is confident, but the filter rejects the record
    assert product.round == 4
    assert insertion_scores(signals | {"inserted": np.ones(3, np.float32)}, ("insertion",)) == []
