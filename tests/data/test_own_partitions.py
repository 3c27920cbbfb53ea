"""Partitions of a user and of flwr-datasets: the same split each time, our checks, one-line errors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from flwr_datasets import partitioner as partitioners
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.config.explain import explain
from edgefd.config.load import load_config, parse_config
from edgefd.core.errors import UserError
from edgefd.data.own_partitions import Rows, load_partition, split_by
from edgefd.runs.prepare import prepare
from tests.support.commands import edgefd

Y = np.repeat(np.arange(4), 50)
GROUP = np.tile(np.arange(8), 25)
ALL: dict[str, Mapping[str, Any]] = {
    "IidPartitioner": {"num_partitions": 5},
    "LinearPartitioner": {"num_partitions": 5},
    "SquarePartitioner": {"num_partitions": 5},
    "ExponentialPartitioner": {"num_partitions": 3},
    "SizePartitioner": {"partition_sizes": [20, 30, 150]},
    "DirichletPartitioner": {"num_partitions": 5, "alpha": 0.5, "min_partition_size": 2},
    "InnerDirichletPartitioner": {"partition_sizes": [40, 60], "alpha": 0.5},
    "PathologicalPartitioner": {"num_partitions": 4, "num_classes_per_partition": 2},
    "ShardPartitioner": {"num_partitions": 4, "num_shards_per_partition": 2},
    "NaturalIdPartitioner": {},
    "GroupedNaturalIdPartitioner": {"group_size": 2},
    "ContinuousPartitioner": {"num_partitions": 4, "strictness": 0.5},
    "DistributionPartitioner": {
        "distribution_array": [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]],
        "num_partitions": 4,
        "num_unique_labels_per_partition": 2,
        "preassigned_num_samples_per_label": 2,
    },
}


def rows(seed: int = 0, group: np.ndarray | None = GROUP) -> Rows:
    return Rows(Y, group, seed, np.random.default_rng(seed))


def split(name: str, arguments: Mapping[str, Any], seed: int = 0, group: np.ndarray | None = GROUP) -> list[list[int]]:
    parts = split_by(load_partition(name), name, arguments, rows(seed, group))
    return [part.tolist() for part in parts]


@pytest.mark.parametrize("name", ALL)
def test_every_partitioner_gives_disjoint_sorted_indices_and_the_same_each_time(name: str) -> None:
    parts = split(f"flwr_datasets:{name}", ALL[name])
    assert parts == split(f"flwr_datasets:{name}", ALL[name])
    indices = np.concatenate(parts)
    assert len(np.unique(indices)) == len(indices)
    assert all(part == sorted(part) and part for part in parts)
    if name not in ("DistributionPartitioner", "InnerDirichletPartitioner"):  # these may leave samples out
        assert len(indices) == len(Y)


def test_all_partitioners_that_split_samples_are_tested() -> None:
    """The others split columns, need a function, or are the base class."""
    others = {"VerticalEvenPartitioner", "VerticalSizePartitioner", "IdToSizeFncPartitioner", "Partitioner"}
    assert set(ALL) | others == set(partitioners.__all__)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
@settings(max_examples=10, deadline=None)
def test_the_rows_are_those_that_the_partitioner_chose(seed: int, n: int) -> None:
    """Run the partitioner on the shuffled labels here, and look up which sample each of its rows is."""
    arguments = {"num_partitions": n, "alpha": 1.0, "min_partition_size": 1}
    order = np.random.default_rng(seed).permutation(len(Y))
    direct = partitioners.DirichletPartitioner(partition_by="label", seed=seed, **arguments)
    direct.dataset = datasets.Dataset.from_dict({"label": Y[order], "place": np.arange(len(Y))})
    expected = [sorted(order[direct.load_partition(i)["place"]].tolist()) for i in range(n)]
    assert split("flwr_datasets:DirichletPartitioner", arguments, seed) == expected


def test_the_seed_of_the_run_changes_the_split_unless_the_config_sets_one() -> None:
    name, arguments = "flwr_datasets:DirichletPartitioner", {"num_partitions": 4, "alpha": 0.5}
    assert split(name, arguments, 0) != split(name, arguments, 1)
    sizes = [[len(p) for p in split(name, {**arguments, "seed": 7}, seed)] for seed in (0, 1)]
    assert sizes[0] == sizes[1]


def test_natural_ids_are_the_groups_and_give_clients_their_names() -> None:
    parts = split("flwr_datasets:NaturalIdPartitioner", {})
    assert sorted(map(tuple, parts)) == [tuple(np.flatnonzero(g == GROUP)) for g in range(8)]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("DirichletPartitionr", {}, "partition.name: flwr-datasets has no partitioner 'DirichletPartitionr': did you"),
        ("Partitioner", {}, "flwr-datasets has no partitioner 'Partitioner'"),
        ("DirichletPartitioner", {"num_partitions": 4, "alhpa": 1}, "partition.alhpa: .* has no such setting: did you"),
        ("DirichletPartitioner", {"num_partitions": 4}, "needs the setting alpha: set partition.alpha"),
        ("DirichletPartitioner", {"num_partitions": 4, "alpha": "x"}, "failed: ValueError: The given alpha"),
        ("DirichletPartitioner", {"num_partitions": 4, "alpha": -1.0}, "failed: ValueError: Alpha values"),
        ("DirichletPartitioner", {"num_partitions": 999, "alpha": 1.0}, "failed: ValueError: The number of partitions"),
        ("DirichletPartitioner", {"num_partitions": 4, "alpha": 1.0, "partition_by": "labl"}, "no column 'labl': did"),
        ("IidPartitioner", {"num_partitions": 0}, "failed: ValueError"),
        ("IidPartitioner", {"num_partitions": 999}, "at least one index for each client|failed: "),
        ("SizePartitioner", {"partition_sizes": [500]}, "failed: ValueError"),
        ("IdToSizeFncPartitioner", {"num_partitions": 2, "partition_id_to_size_fn": "x"}, "failed: TypeError"),
        ("VerticalEvenPartitioner", {"num_partitions": 2}, "splits the columns of a table, not its samples"),
    ],
)
def test_wrong_settings_of_a_partitioner_are_one_line(name: str, arguments: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        split(f"flwr_datasets:{name}", arguments)
    assert "\n" not in str(caught.value)


def test_natural_ids_need_groups() -> None:
    with pytest.raises(UserError, match=r"no column 'group'.*the data set has no groups"):
        split("flwr_datasets:NaturalIdPartitioner", {}, group=None)


def test_missing_packages_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefd.core.errors.find_spec", lambda name: None if name == "flwr_datasets" else name)
    with pytest.raises(UserError, match=r"this needs flwr_datasets: pip install 'edgefd\[partitioners\]'"):
        load_partition("flwr_datasets:IidPartitioner")


OWN = """
import numpy as np

def halves(labels, rng, share=0.5, tail=0):
    order = rng.permutation(len(labels))
    return np.split(order, [int(share * len(labels))])

class Pairs:
    def __init__(self, first, seed):
        self.first, self.seed = first, seed

    def __call__(self, labels, rng):
        return [np.flatnonzero(labels < self.first), np.flatnonzero(labels >= self.first)]

class Broken:
    def load_partition(self, number):
        raise LookupError("two\\nlines")

    num_partitions = 2

def everything(labels, rng, **settings):
    return [np.arange(len(labels))[: settings["n"]], np.arange(settings["n"], len(labels))]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_split.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_functions_and_classes_of_a_user_take_settings(own: Path) -> None:
    assert [len(part) for part in split("own_split:halves", {"share": 0.25})] == [50, 150]
    assert split("own_split:Pairs", {"first": 1}) == [list(range(50)), list(range(50, 200))]
    assert split("own_split:everything", {"n": 3})[0] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("halves", {"shar": 0.5}, "partition.shar: own_split:halves has no such setting: did you mean 'share'?"),
        ("halves", {"share": 2}, "must hold at least one index for each client"),
        ("halves", {"share": "a lot"}, "failed: ValueError"),
        ("Pairs", {}, "needs the setting first: set partition.first"),
        ("Broken", {}, r"failed: LookupError: two lines"),
        ("halfs", {}, "cannot load partition 'own_split:halfs'"),
    ],
)
def test_mistakes_with_an_own_partition_are_one_line(
    own: Path, name: str, arguments: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        split(f"own_split:{name}", arguments)
    assert "\n" not in str(caught.value)


DIRICHLET = {"name": "flwr_datasets:DirichletPartitioner", "num_partitions": 5, "alpha": 0.5}


def test_a_config_keeps_the_settings_of_a_partitioner() -> None:
    config = load_config({"data": {"limit": 500}, "partition": DIRICHLET}, {"partition.alpha": 0.1})
    assert config.to_dict()["partition"] == {**DIRICHLET, "alpha": 0.1}
    assert parse_config(config.to_dict()) == config
    assert any(line.strip() == "partition.alpha: 0.1" for line in explain(config))
    other = load_config(config, {"partition.name": "iid"})
    assert other.to_dict()["partition"] == {"name": "iid", "n_clients": 10}
    assert len(prepare(config).federation.clients) == 5


@pytest.mark.parametrize("make", [lambda: partitioners.IidPartitioner(num_partitions=3)])
def test_a_partitioner_object_can_split_several_times(make: Callable[[], Any]) -> None:
    config = load_config({"data": {"limit": 200}, "partition": {"name": "object:iid"}}, objects={"object:iid": make()})
    first, again = (prepare(config).federation for _ in range(2))
    assert [c.y.tolist() for c in first.clients] == [c.y.tolist() for c in again.clients]
    assert len(first.clients) == 3


def test_a_column_that_names_the_clients_gives_them_their_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y, who = rng.random((60, 3)), np.tile([0, 1], 30), np.repeat(["zoe", "[b]eva", "ben"], 20)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10], group_train=who)
    (tmp_path / "c.yaml").write_text("data: {name: d.npz}\npartition: {name: by_group}\nmodel: linear\n")
    names = ["[b]eva", "ben", "zoe"]
    prepared = prepare(load_config(tmp_path / "c.yaml", {"data.name": str(tmp_path / "d.npz")}))
    assert [client.name for client in prepared.federation.clients] == names
    assert [client["name"] for client in prepared.facts.partition["clients"]] == names
    for command in ("partition", "check"):
        shown = edgefd(command, "c.yaml", cwd=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert all(name in shown.stdout for name in names)


def test_a_wrong_partitioner_ends_a_command_in_one_line(tmp_path: Path) -> None:
    arguments = ("data.limit=200", "partition={name: 'flwr_datasets:DirichletPartitioner', num_partitions: 3}")
    refused = edgefd("simulate", "simulations/quickstart.yaml", *arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.endswith("needs the setting alpha: set partition.alpha\n")
    assert refused.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
