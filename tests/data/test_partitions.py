"""Partitions: disjoint, complete where they should be, reproducible, and skewed as their names say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.core.errors import UserError
from edgefd.data import partitions

Y = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 40))
Split = Callable[[np.ndarray, int, np.random.Generator], list[np.ndarray]]

SPLITS: dict[str, Split] = {
    "strong": partitions.strong,
    "weak": partitions.weak,
    "iid": partitions.iid,
    "dirichlet": lambda y, n, rng: partitions.dirichlet(y, n, 1.0, rng, min_size=1),
    "balanced dirichlet": lambda y, n, rng: partitions.dirichlet(y, n, 1.0, rng, min_size=1, balanced=True),
    "shards": lambda y, n, rng: partitions.shards(y, n, 2, rng),
    "label_quantity": lambda y, n, rng: partitions.label_quantity(y, n, 3, rng),
    "quantity_skew": lambda y, n, rng: partitions.quantity_skew(y, n, 0.5, rng, min_size=2),
}
COMPLETE = ("iid", "dirichlet", "balanced dirichlet", "shards", "quantity_skew")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SPLITS)), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_parts_are_disjoint_and_never_empty(name: str, n: int, seed: int) -> None:
    parts = SPLITS[name](Y, n, np.random.default_rng(seed))
    assert len(parts) == n
    assert all(len(p) and np.all(np.diff(p) > 0) for p in parts)
    rows = np.concatenate(parts)
    assert len(np.unique(rows)) == len(rows)
    assert rows.min() >= 0
    assert rows.max() < len(Y)
    if name in COMPLETE:
        assert len(rows) == len(Y)


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_a_partition_depends_on_its_seed_alone(name: str) -> None:
    def split(seed: int) -> list[list[int]]:
        return [p.tolist() for p in SPLITS[name](Y, 5, np.random.default_rng(seed))]

    assert split(1) == split(1)
    if name != "strong":
        assert split(1) != split(2)


def test_strong_gives_each_client_one_class() -> None:
    for i, part in enumerate(partitions.strong(Y, 7, np.random.default_rng(0))):
        assert set(Y[part]) == {i}
        assert len(part) == 40


def test_weak_gives_each_client_half_of_two_classes() -> None:
    for i, part in enumerate(partitions.weak(Y, 10, np.random.default_rng(0))):
        assert dict(zip(*np.unique(Y[part], return_counts=True), strict=True)) == {i: 20, (i + 1) % 10: 20}


def test_shards_limit_the_number_of_classes_of_a_client() -> None:
    parts = partitions.shards(Y, 10, 2, np.random.default_rng(0))
    assert max(len(np.unique(Y[p])) for p in parts) == 2  # 20 shards of 20 samples, 40 samples in each class
    assert {len(p) for p in parts} == {40}


@given(st.integers(1, 25), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_label_quantity_gives_each_client_its_class_and_as_many_as_it_says(n: int, k: int, seed: int) -> None:
    parts = partitions.label_quantity(Y, n, k, np.random.default_rng(seed))
    table = partitions.class_table(Y, parts, 10)
    assert ((table > 0).sum(1) == k).all()
    assert all(table[i, i % 10] > 0 for i in range(n))
    for column in table.T:
        shares = column[column > 0]
        assert not len(shares) or shares.max() - shares.min() <= 1  # equal shares of the class
        assert column.sum() in (0, 40)


def test_label_quantity_with_one_class_each_is_strong() -> None:
    parts = partitions.label_quantity(Y, 10, 1, np.random.default_rng(0))
    strong = partitions.strong(Y, 10, np.random.default_rng(1))
    assert all(np.array_equal(a, b) for a, b in zip(parts, strong, strict=True))


@pytest.mark.parametrize(
    ("n_clients", "k", "message"), [(3, 11, "but there are 10: lower"), (60, 10, "splits class 0 among 60 clients")]
)
def test_label_quantity_that_does_not_fit_is_refused(n_clients: int, k: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        partitions.label_quantity(Y, n_clients, k, np.random.default_rng(0))


def test_a_smaller_dirichlet_alpha_is_more_skewed() -> None:
    def classes(alpha: float) -> float:
        table = partitions.class_table(Y, partitions.dirichlet(Y, 5, alpha, np.random.default_rng(0), 1), 10)
        return float((table.max(1) / table.sum(1)).mean())

    assert classes(0.1) > classes(100.0) + 0.1


@given(st.integers(1, 10), st.floats(0.3, 10), st.integers(0, 2**32 - 1))
def test_a_client_with_its_share_gets_no_more_of_a_balanced_dirichlet(n: int, alpha: float, seed: int) -> None:
    parts = partitions.dirichlet(Y, n, alpha, np.random.default_rng(seed), min_size=0, balanced=True)
    table = partitions.class_table(Y, parts, 10)
    before = np.cumsum(table, 1) - table
    assert not table[before >= len(Y) / n].any()
    assert table.sum() == len(Y)


def test_quantity_skew_differs_in_size_not_in_classes() -> None:
    sizes = [len(p) for p in partitions.quantity_skew(Y, 5, 0.3, np.random.default_rng(0))]
    assert max(sizes) > 3 * min(sizes)
    assert min(sizes) >= 10


def test_by_group_gives_each_group_its_own_client() -> None:
    parts = partitions.by_group(np.array([2, 0, 2, 1]))
    assert [p.tolist() for p in parts] == [[1], [3], [0, 2]]


def test_no_client_is_empty_with_a_min_size_of_zero() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert min(map(len, partitions.dirichlet(Y, 8, 0.1, rng, min_size=0))) > 0
        assert min(map(len, partitions.quantity_skew(Y, 8, 0.01, rng, min_size=0))) > 0


def test_fewer_clients_than_classes_leave_samples_unused() -> None:
    rng = np.random.default_rng(0)
    assert set(Y[np.concatenate(partitions.strong(Y, 4, rng))]) == {0, 1, 2, 3}
    counts = np.bincount(Y[np.concatenate(partitions.weak(Y, 4, rng))], minlength=10)
    assert counts.tolist() == [20, 40, 40, 40, 20, 0, 0, 0, 0, 0]


def test_the_class_table_counts_samples_by_client_and_class() -> None:
    table = partitions.class_table(np.array([0, 2, 2, 1]), [np.array([0, 1]), np.array([2])], 4)
    assert table.tolist() == [[1, 0, 1, 0], [0, 0, 1, 0]]
    assert table.dtype == np.int64


def test_index_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("[[3, 1], [0]]")
    np.savez(tmp_path / "p.npz", client_0=[3, 1], client_1=[0])
    for name in ("p.json", "p.npz"):
        assert [p.tolist() for p in partitions.from_file(tmp_path / name, 4)] == [[1, 3], [0]]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[0, 1], [1]], "more than one client"),
        ([[0, 0]], "twice to one"),
        ([[0, 4]], "whole numbers from 0 to 3"),
        ([[-1]], "whole numbers from 0 to 3"),
        ([[0.5]], "whole numbers"),
        ([[0], []], "at least one index"),
        ([], "at least one index"),
        ({"a": 1}, "at least one index|cannot read"),
    ],
)
def test_malformed_index_files_are_refused(tmp_path: Path, lists: object, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(lists))
    with pytest.raises(UserError, match=message):
        partitions.from_file(path, 4)


def test_an_unreadable_index_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04torn")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "torn.json").write_text("[[0, 1")
    np.savez(tmp_path / "pickled.npz", client_0=np.array([{}]))
    np.savez(tmp_path / "named.npz", client_0=[0], client_2=[1])
    for name, message in (
        ("missing.json", "cannot read partition file"),
        ("missing.npz", "there is no file"),
        ("torn.json", "cannot read partition file"),
        ("torn.npz", "cannot read"),
        ("empty.npz", "cannot read"),
        ("pickled.npz", "pickles"),
        ("named.npz", "must hold client_0, client_1"),
    ):
        with pytest.raises(UserError, match=message):
            partitions.from_file(tmp_path / name, 4)


def test_impossible_partitions_are_refused() -> None:
    rng = np.random.default_rng(0)
    for split in (partitions.strong, partitions.weak):
        with pytest.raises(UserError, match="11 clients are more than 10 classes"):
            split(Y, 11, rng)
    with pytest.raises(UserError, match="400 samples are too few"):
        partitions.iid(Y, 401, rng)
    with pytest.raises(UserError, match="left a client with fewer than 200"):
        partitions.dirichlet(Y, 5, 0.05, rng, min_size=200)
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        for skewed in (partitions.dirichlet, partitions.quantity_skew):
            with pytest.raises(UserError, match="alpha must be above 0"):
                skewed(Y, 5, alpha, rng)
    for none in (partitions.strong, partitions.weak, partitions.iid):
        for n_clients in (0, -1):
            with pytest.raises(UserError, match="at least one client"):
                none(Y, n_clients, rng)
    with pytest.raises(UserError, match="needs samples with groups"):
        partitions.by_group(None)
