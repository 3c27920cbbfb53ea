"""The references train by passes over their own rows: a small proxy set does not limit them."""

import dataclasses

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.core.knowledge import empty
from edgefd.federation.clients import ProxySet
from edgefd.federation.context import ClientContext
from edgefd.methods import config_of, get_method
from edgefd.runs.prepare import prepare
from tests.support.linear_clients import CLASSES, TRAINING, in_round, new_clients
from tests.support.small_runs import config

PRIVATE = 30


def distilled(name: str, n_proxy: int, **settings: int) -> np.ndarray:
    """Return how often a reference distils each private row in one round, with `n_proxy` proxy rows."""
    method = get_method(name)
    client: ClientContext = in_round(new_clients(get_method("fedmd"))[0], 1)
    proxy = ProxySet(client.proxy.x[:n_proxy], client.proxy.owner[:n_proxy])
    ctx = dataclasses.replace(client, proxy=proxy, config=config_of(method, settings))
    batch = method.distillation_targets(ctx, empty(CLASSES))
    return np.array([(batch.x == row).all(1).sum() for row in ctx.data.x])


@pytest.mark.parametrize("name", ["indlearn", "centralised", "pooled_proxy", "proxy_and_own"])
def test_a_round_has_at_least_an_epoch_however_small_the_proxy_set_is(name: str) -> None:
    settings = {} if name in ("indlearn", "proxy_and_own") else {"min_steps": 0}
    assert distilled(name, 2, **settings).tolist() == [1] * PRIVATE
    assert distilled(name, 45, **settings).sum() == 45


@pytest.mark.parametrize("name", ["centralised", "pooled_proxy"])
def test_a_bound_makes_its_steps_in_the_rounds_of_the_run(name: str) -> None:
    counts = distilled(name, 2, min_steps=50)  # 50 steps in 4 rounds: 13 a round, of 12 proxy rows each
    assert counts.sum() == -(-50 // TRAINING.rounds) * TRAINING.proxy_rows_per_batch
    assert counts.max() - counts.min() <= 1


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(UserError, match="min_steps must not be negative"):
        config_of(get_method("centralised"), {"min_steps": -1})


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
