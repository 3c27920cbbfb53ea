"""Planted canaries: clients train on those that the draw selected."""

import numpy as np

from edgefd.auditing.attacks.planted_canaries import planted
from edgefd.federation.clients import RAW, ClientData, Federation, ProxySet


def test_clients_train_only_on_the_canaries_that_were_selected() -> None:
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
