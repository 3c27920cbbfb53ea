"""Reference methods without any exchange."""

import numpy as np

from edgefd.methods import get_method
from edgefd.runs.prepare import prepare
from tests.support.small_runs import config


def test_proxy_and_own_gives_each_client_its_own_rows_and_the_labelled_proxy_set() -> None:
    plain = prepare(config(method={"name": "fedmd"})).federation
    joined = get_method("proxy_and_own").transform(plain)
    assert joined.raw_samples_disclosed == plain.raw_samples_disclosed > 0
    assert np.array_equal(joined.table, plain.table)
    for before, after in zip(plain.clients, joined.clients, strict=True):
        assert np.array_equal(after.x, np.concatenate([before.x, plain.proxy.x]))
        assert np.array_equal(after.y, np.concatenate([before.y, plain.proxy_labels]))
        assert np.array_equal(after.x_heldout, before.x_heldout)
        assert len(after.contributed) == 0
