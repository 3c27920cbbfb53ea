"""Model extraction: the history of soft labels, and the comparison with the control."""

import numpy as np

from edgefd.auditing.attacks.extraction import extraction, history
from edgefd.core.knowledge import Knowledge
from edgefd.federation.report import Report


def test_a_history_is_the_mean_soft_label_of_each_row() -> None:
    def sent(round: int, ids: list[int], values: list[list[float]]) -> Report:
        return Report(0, round, Knowledge(np.array(ids), np.array(values, np.float32), np.ones(len(ids), np.float32)))

    merged = history([sent(0, [1, 4], [[1, 0], [0, 1]]), sent(1, [4, 7], [[1, 0], [0.5, 0.5]])], 2)
    assert merged.ids.tolist() == [1, 4, 7]
    np.testing.assert_allclose(merged.values, [[1, 0], [0.5, 0.5], [0.5, 0.5]])
    assert len(history([], 2)) == 0


def test_an_extracted_model_counts_only_above_its_control() -> None:
    y = np.arange(400) % 4
    extracted, one_class = y.copy(), np.zeros(400, np.int64)
    signals = {
        "client": np.stack([y, np.zeros(400, np.int64)]),
        "copy": np.stack([extracted, one_class]),
        "control": np.stack([np.zeros(400, np.int64), one_class]),
        "y": y,
        "rows": np.array([30, 30]),
    }
    result = extraction(signals)
    assert result["clients_above_control"] == 1  # client 1 predicts one class, as its control does
    assert result["fidelity"] == 1
    assert result["control_fidelity"] == (0.25 + 1) / 2
    assert [c["above_control"] for c in result["clients"]] == [True, False]
