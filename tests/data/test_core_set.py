"""Core sets: parts of a proxy set that are chosen without labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.config.load import load_config, parse_config
from edgefd.core.errors import UserError
from edgefd.data.core_set import CoreSet, core_rows
from edgefd.runs.load_data import federate, load_data
from tests.support.small_configs import SMALL

RULES = ["random", "k_centre", "balanced"]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.data(), st.sampled_from(RULES), st.integers(0, 5), st.booleans())
def test_a_core_set_has_its_size_and_its_order(n: int, data: st.DataObject, rule: str, seed: int, same: bool) -> None:
    x = np.random.default_rng(seed).integers(0, 1 if same else 256, (n, 1, 3, 3)).astype(np.uint8)
    core = CoreSet(data.draw(st.integers(1, n)), rule)  # type: ignore[arg-type]
    rows = core_rows(x, core, 4, seed)
    assert len(rows) == core.size
    assert (np.diff(rows) > 0).all()
    assert set(rows) <= set(range(n))
    assert np.array_equal(rows, core_rows(x, core, 4, seed))


def test_k_centre_takes_each_far_group_and_balanced_takes_as_much_of_each() -> None:
    rng = np.random.default_rng(0)
    sizes = (200, 30, 8)
    x = np.concatenate([rng.normal(100.0 * i, 1, (size, 2)) for i, size in enumerate(sizes)]).astype(np.float32)
    group = np.repeat(np.arange(3), sizes)
    far = core_rows(x, CoreSet(3, "k_centre"), 3, 0)
    assert np.bincount(group[far], minlength=3).tolist() == [1, 1, 1]
    counts = np.bincount(group[core_rows(x, CoreSet(60, "balanced"), 3, 0)], minlength=3)
    assert counts.tolist() == [26, 26, 8]  # the smallest group has no more


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("source", ["public", "contributed"])
def test_a_federation_has_the_rows_of_its_core_set(rule: str, source: str) -> None:
    sections = load_config(SMALL, {"proxy.source": source}).to_dict()
    whole_config = parse_config(sections)
    dataset = load_data(whole_config)
    whole = federate(whole_config, dataset)
    sections["proxy"]["core"] = {"size": 7, "rule": rule}
    config = parse_config(sections)
    assert parse_config(config.to_dict()) == config
    part = federate(config, dataset)
    assert len(part.proxy) == len(part.proxy.owner) == 7
    assert part.proxy_rows is not None
    assert whole.proxy_rows is not None
    assert part.proxy_labels is not None
    assert set(part.proxy_rows) <= set(whole.proxy_rows)
    assert np.array_equal(part.proxy.x, part.scale(dataset.x_train[part.proxy_rows]))
    assert np.array_equal(part.proxy_labels, dataset.y_train[part.proxy_rows])
    assert part.raw_samples_disclosed == whole.raw_samples_disclosed  # a contribution is disclosed, also if not kept
    for client in part.clients:
        assert np.array_equal(client.contributed, np.flatnonzero(part.proxy.owner == client.client))


@pytest.mark.parametrize(
    ("core", "message"),
    [
        ({"size": 0}, "proxy.core: size must be at least 1, not 0"),
        ({"size": 10**6}, r"proxy\.core\.size=1000000, but the proxy set has"),
        ({"rule": "k_centre"}, r"proxy\.core\.size"),
        ({"size": 5, "rule": "best"}, r"proxy\.core\.rule"),
        ({"size": 5, "rules": "random"}, "unknown key, did you mean 'rule'"),
        ([5], "must be a section of keys"),
    ],
)
def test_a_wrong_core_set_is_refused(core: object, message: str) -> None:
    sections = load_config(SMALL).to_dict()
    sections["proxy"]["core"] = core

    def build() -> None:
        config = parse_config(sections)
        federate(config, load_data(config))

    with pytest.raises(UserError, match=message):
        build()
