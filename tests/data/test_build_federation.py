"""Federations: private, held-out and proxy rows of every partition, and what references pool."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.data.build_federation import ProxySpec, build_federation, contribute_samples
from edgefd.data.datasets import Dataset, load_dataset
from edgefd.federation.clients import Federation, merged
from edgefd.methods import get_method
from edgefd.runs.load_data import federate, limit_samples, load_data
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import open_transport, simulate

N, TEST = 400, 50
MARKED = Dataset(  # every sample holds its own index, so that a leak is visible
    name="marked",
    x_train=np.stack([np.arange(N), np.zeros(N)], 1).astype(np.float32),
    y_train=np.arange(N) % 10,
    x_test=np.stack([np.arange(TEST), np.ones(TEST)], 1).astype(np.float32),
    y_test=np.arange(TEST) % 10,
    n_classes=10,
    group_train=np.arange(N) % 4,
    source="test",
    sha256="",
)


def config(**sections: dict[str, object]) -> Config:
    return parse_config({"method": {"name": "fedmd"}, **sections})


def marks(x: np.ndarray, federation: Federation) -> np.ndarray:
    return np.rint(x[:, 0] * federation.scale.std + federation.scale.mean).astype(int)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["strong", "weak", "iid", "dirichlet", "shards", "label_quantity", "quantity_skew", "by_group"]),
    st.sampled_from(["contributed", "public"]),
    st.floats(0.02, 0.9),
    st.floats(0.05, 0.9),
    st.integers(0, 10**6),
)
def test_training_heldout_and_proxy_rows_are_disjoint(
    partition: str, source: str, alpha: float, heldout: float, seed: int
) -> None:
    """Check also that labels, owners and counts are right, and that the test set is only scaled."""
    proxy = {"source": source, "alpha": alpha}
    size = {} if partition == "by_group" else {"n_clients": 4}
    try:
        federation = federate(
            config(partition={"name": partition, **size}, proxy=proxy, data={"heldout": heldout}, seed=seed), MARKED
        )
    except UserError:
        assume(False)
    shared = marks(federation.proxy.x, federation)
    all_rows = [shared, *(marks(x, federation) for c in federation.clients for x in (c.x, c.x_heldout))]
    flat = np.concatenate(all_rows)
    assert len(np.unique(flat)) == len(flat)
    assert np.array_equal(federation.proxy_labels, MARKED.y_train[shared])
    for c in federation.clients:
        assert np.array_equal(c.y, MARKED.y_train[marks(c.x, federation)])
        assert np.array_equal(c.y_heldout, MARKED.y_train[marks(c.x_heldout, federation)])
        assert np.array_equal(c.contributed, np.flatnonzero(federation.proxy.owner == c.client))
        total = len(c.x) + len(c.x_heldout) + len(c.contributed)
        assert total == federation.table[c.client].sum()
    disclosed = len(shared) if source == "contributed" else 0
    assert federation.raw_samples_disclosed == disclosed
    np.testing.assert_allclose(federation.x_test, federation.scale(MARKED.x_test))


def test_contributions_are_stratified_and_ids_do_not_reveal_the_owner() -> None:
    federation = federate(config(partition={"name": "strong"}, proxy={"alpha": 0.25}), MARKED)
    assert np.bincount(federation.proxy_labels).tolist() == [10] * 10
    owners = federation.proxy.owner
    assert np.corrcoef(np.arange(len(owners)), owners)[0, 1] < 0.3


@pytest.mark.parametrize("alpha", [0.25, 0.9])
def test_kept_rows_remain_training_rows_and_are_never_held_out(alpha: float) -> None:
    federation = federate(config(proxy={"alpha": alpha, "keep": True}), MARKED)
    shared = set(marks(federation.proxy.x, federation))
    for c in federation.clients:
        train, held = set(marks(c.x, federation)), set(marks(c.x_heldout, federation))
        assert set(marks(federation.proxy.x[c.contributed], federation)) <= train
        assert held
        assert not held & (train | shared)
        assert len(train) + len(held) == federation.table[c.client].sum()


def test_the_proxy_set_is_standardised_and_hashed() -> None:
    federation = federate(config(), MARKED)
    assert federation.proxy.x.mean() == pytest.approx(0, abs=1e-5)
    assert federation.proxy.x.std() == pytest.approx(1, abs=1e-4)
    again = federate(config(), MARKED)
    assert again.proxy.sha256 == federation.proxy.sha256
    assert federate(config(seed=1), MARKED).proxy.sha256 != federation.proxy.sha256


def test_a_public_proxy_set_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "proxy.npz"
    x = np.stack([np.arange(1000, 1030), np.zeros(30)], 1).astype(np.float32)
    np.savez(path, x=x, y=np.arange(30) % 10)
    federation = federate(config(proxy={"source": "public", "path": str(path)}), MARKED)
    assert marks(federation.proxy.x, federation).tolist() == list(range(1000, 1030))
    assert federation.raw_samples_disclosed == 0
    assert sum(len(c.x) + len(c.x_heldout) for c in federation.clients) == N
    none: dict[str, np.ndarray] = {"x": x[:0], "y": np.zeros(0)}
    half = {"y": np.full(30, 0.5)}
    for bad in ({"x": x[:, :1]}, {"x": x * np.nan}, {"y": np.full(30, 10)}, {"y": np.zeros(3)}, none, half):
        np.savez(path, **({"x": x, "y": np.zeros(30)} | bad))  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"proxy\.npz"):
            federate(config(proxy={"source": "public", "path": str(path)}), MARKED)


def test_contributed_samples_are_not_accepted_as_public(tmp_path: Path) -> None:
    path = tmp_path / "proxy.npz"
    x = np.stack([np.arange(1000, 1030), np.zeros(30)], 1).astype(np.float32)
    np.savez(path, x=x, contributors=3)
    federation = federate(config(proxy={"source": "contributed", "path": str(path)}), MARKED)
    assert federation.raw_samples_disclosed == 30
    assert (federation.proxy.owner == -1).all()  # the owners are not recorded
    assert sum(len(c.x) + len(c.x_heldout) for c in federation.clients) == N
    with pytest.raises(UserError, match=r"is marked as raw private samples: set proxy\.source=contributed"):
        federate(config(proxy={"source": "public", "path": str(path)}), MARKED)
    np.savez(path, x=x)
    with pytest.raises(UserError, match=r"is marked as public samples: set proxy\.source=public"):
        federate(config(proxy={"source": "contributed", "path": str(path)}), MARKED)


def test_a_public_proxy_set_needs_no_labels(tmp_path: Path) -> None:
    path, data = tmp_path / "proxy.npz", load_dataset("mnist_mini")
    np.savez(path, x=data.x_test[:60, 0])  # grey images without a channel axis, as data sets may hold them
    sections = {"proxy": {"source": "public", "path": str(path)}, "data": {"name": "mnist_mini", "limit": 300}}
    sections |= {"model": {"name": "mlp"}, "train": {"rounds": 1}, "run": {"workers": 0}}
    c = config(**sections)
    federation = prepare(c).federation
    assert federation.proxy.x.shape == (60, 1, 28, 28)
    assert federation.proxy_labels is None
    rounds = list(simulate(open_transport(c, federation)))
    assert {(m.wrong_claims, m.teacher_accuracy) for m in rounds} == {(None, None)}
    assert rounds[0].teacher_coverage == 1
    for method in ("pooled_proxy", "centralised"):
        with pytest.raises(UserError, match=r"needs labels of the proxy set: add y to the npz of proxy\.path"):
            prepare(c.for_method(method))
    np.savez(path, x=data.x_test[:60] / 255)
    with pytest.raises(UserError, match=r"are uint8 from 0 to 255, but these are float from 0 to 1"):
        prepare(c)
    np.savez(path, x=data.x_test[:60, 0, :14])
    with pytest.raises(UserError, match=r"x must be samples of shape .*, not of shape"):
        prepare(c)
    table = {"proxy": {"source": "public", "path": str(path)}}
    np.savez(path, x=np.zeros((30, 2)))  # float64, as data sets may hold them
    assert federate(config(**table), MARKED).proxy.x.dtype == np.float32


def test_the_error_for_too_few_samples_names_the_client() -> None:
    few = replace(MARKED, x_train=MARKED.x_train[:10], y_train=MARKED.y_train[:10])
    with pytest.raises(UserError, match="client 0 has 0 private samples"):
        federate(config(), few)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5, -0.1, float("nan")])
def test_fractions_outside_0_to_1_are_refused(fraction: float) -> None:
    rows, rng = np.arange(N), np.random.default_rng(0)
    with pytest.raises(UserError, match=r"must be in \(0, 1\)"):
        contribute_samples([rows], MARKED.y_train, fraction, False, rng)

    def one_client(y: np.ndarray, group: np.ndarray | None, rng: np.random.Generator) -> list[np.ndarray]:
        return [np.arange(len(y))]

    def build(source: Literal["contributed", "public"], alpha: float, heldout: float) -> Federation:
        return build_federation(MARKED, one_client, ProxySpec(source, alpha), heldout, seed=0)

    with pytest.raises(UserError, match=r"proxy\.alpha.*must be in"):
        build("public", fraction, 0.1)
    with pytest.raises(UserError, match=r"data\.heldout must be in"):
        build("contributed", 0.1, fraction)
    assert len(build("public", 0.25, 0.1).proxy) == N // 4


def test_the_smallest_fraction_takes_one_row_of_each_client() -> None:
    parts = [np.arange(0, 200), np.arange(200, N)]
    shared, owner, private = contribute_samples(parts, MARKED.y_train, 1e-6, False, np.random.default_rng(0))
    assert sorted(owner.tolist()) == [0, 1]
    assert [len(p) for p in private] == [199, 199]
    assert all(s in parts[o] for s, o in zip(shared, owner, strict=True))


def test_references_pool_the_proxy_set_or_all_private_rows() -> None:
    federation = federate(config(), MARKED)
    proxy_only, everything = merged(federation, private=False), merged(federation, private=True)
    assert len(proxy_only.x) == len(federation.proxy)
    assert len(everything.x) == len(federation.proxy) + sum(len(c.x) for c in federation.clients)
    assert np.array_equal(everything.y, MARKED.y_train[marks(everything.x, federation)])


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("source", ["contributed", "public"])
def test_centralised_training_discloses_all_rows(source: str, keep: bool) -> None:
    federation = federate(config(proxy={"alpha": 0.25, "source": source, "keep": keep}), MARKED)
    rows = marks(np.concatenate([c.x for c in federation.clients]), federation)
    shared = marks(federation.proxy.x, federation) if source == "contributed" else np.empty(0, int)
    together = get_method("centralised").transform(federation)
    assert together.raw_samples_disclosed == len(np.union1d(rows, shared))
    assert get_method("pooled_proxy").transform(federation).raw_samples_disclosed == len(shared)


@pytest.mark.parametrize("keep", [False, True])
def test_indlearn_clients_train_on_the_rows_they_would_have_contributed(keep: bool) -> None:
    federation = federate(config(proxy={"alpha": 0.25, "keep": keep}), MARKED)
    alone = get_method("indlearn").transform(federation)
    assert alone.raw_samples_disclosed == 0
    for c, before in zip(alone.clients, federation.clients, strict=True):
        held, train = marks(c.x_heldout, federation), marks(c.x, federation)
        assert np.array_equal(held, marks(before.x_heldout, federation))
        assert len(np.unique(np.concatenate([held, train]))) == len(held) + len(train) == alone.table[c.client].sum()
        assert np.array_equal(c.y, MARKED.y_train[train])
        assert len(c.contributed) == 0
    public = federate(config(proxy={"source": "public"}), MARKED)
    assert all(
        np.array_equal(a.x, b.x)
        for a, b in zip(get_method("indlearn").transform(public).clients, public.clients, strict=True)
    )


def test_data_limit_keeps_classes_balanced() -> None:
    part = limit_samples(MARKED, 55)
    assert np.bincount(part.y_train).tolist() == [5] * 10
    assert part.group_train is not None
    assert np.array_equal(part.group_train, part.x_train[:, 0].astype(int) % 4)
    for limit in (9, 500):
        with pytest.raises(UserError, match=r"data\.limit"):
            limit_samples(MARKED, limit)
    assert len(load_data(config(data={"name": "mnist_mini", "limit": 100})).x_train) == 100
    assert len(load_dataset("mnist_mini").x_train) == 6000
