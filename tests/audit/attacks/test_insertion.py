"""Targets among the proxy samples, canaries by coin, histories of soft labels: the arithmetic, on small numbers."""

import numpy as np

from edgefd.audit.attacks.extraction import extraction, history
from edgefd.audit.attacks.insertion import insertion_scores
from edgefd.audit.attacks.planted_canaries import planted
from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import RAW, ClientData, Federation, ProxySet
from edgefd.federation.report import Report


def test_an_inserted_record_is_judged_by_filter_and_model() -> None:
    sent = np.full((1, 2, 3, 2), 0.5, np.float32)
    sent[0, 1, :, 0] = [0.9, 0.2, 0.99]  # client 1 is the one that is asked
    s = {
        "inserted": np.array([0.5, 1.0, 0.0], np.float32),
        "sent": sent,
        "client": np.array([1, 1, 1]),
        "member": np.array([True, False, False]),
        "y": np.array([0, 0, 0]),
        "rounds": np.array([4]),
    }
    weight, product = insertion_scores(s, ("inserted_weight", "insertion"))
    np.testing.assert_allclose(weight.values, [0.5, 1.0, 0.0])
    np.testing.assert_allclose(product.values[:2], np.log([0.45, 0.2]), rtol=1e-6)
    assert product.values[2] < product.values[:2].min()  # sure as the model is, the filter did not answer
    assert product.round == 4
    assert insertion_scores(s | {"inserted": np.ones(3, np.float32)}, ("insertion",)) == []


def test_only_canaries_whose_coin_fell_so_are_trained_on() -> None:
    def client(i: int) -> ClientData:
        x = np.full((2, 1), i, np.float32)
        return ClientData(i, x, np.zeros(2, np.int64), x, np.zeros(2, np.int64), np.empty(0, np.int64))

    x = np.zeros((1, 1), np.float32)
    before = Federation(
        clients=(client(0), client(1)),
        proxy=ProxySet(x, np.array([-1])),
        proxy_labels=None,
        x_test=x,
        y_test=np.zeros(1, np.int64),
        n_classes=3,
        scale=RAW,
        table=np.full((2, 3), 1),
        raw_samples_disclosed=0,
    )
    canaries = np.array([[10.0], [11.0], [12.0]], np.float32)
    member = np.array([True, False, True])
    first, second = planted(before, canaries, np.array([2, 2, 1]), np.array([0, 0, 1]), member).clients
    assert first.x.ravel().tolist() == [0, 0, 10]
    assert first.y.tolist() == [0, 0, 2]
    assert second.x.ravel().tolist() == [1, 1, 12]
    assert second.x_heldout is before.clients[1].x_heldout


def test_a_history_is_the_mean_of_what_was_sent_of_each_row() -> None:
    def sent(round: int, ids: list[int], values: list[list[float]]) -> Report:
        return Report(0, round, Knowledge(np.array(ids), np.array(values, np.float32), np.ones(len(ids), np.float32)))

    found = history([sent(0, [1, 4], [[1, 0], [0, 1]]), sent(1, [4, 7], [[1, 0], [0.5, 0.5]])], 2)
    assert found.ids.tolist() == [1, 4, 7]
    np.testing.assert_allclose(found.values, [[1, 0], [0.5, 0.5], [0.5, 0.5]])
    assert len(history([], 2)) == 0


def test_a_copy_counts_only_above_its_control() -> None:
    y = np.arange(400) % 4
    copied, not_copied = y.copy(), np.zeros(400, np.int64)
    s = {
        "client": np.stack([y, np.zeros(400, np.int64)]),
        "copy": np.stack([copied, not_copied]),
        "control": np.stack([np.zeros(400, np.int64), not_copied]),
        "y": y,
        "rows": np.array([30, 30]),
    }
    found = extraction(s)
    assert found["clients_above_control"] == 1  # client 1 says one class of everything: shuffled labels tell that too
    assert found["fidelity"] == 1
    assert found["control_fidelity"] == (0.25 + 1) / 2
    assert [c["above_control"] for c in found["clients"]] == [True, False]
