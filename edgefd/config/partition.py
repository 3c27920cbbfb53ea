"""The section `partition` of a config: one frozen dataclass for each way to split the training samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class _AmongClients:
    name: str
    n_clients: int = 10
    """number of clients, at least 1"""


@dataclass(frozen=True)
class Strong(_AmongClients):
    """Partition with one class for each client."""

    name: Literal["strong"] = "strong"


@dataclass(frozen=True)
class Weak(_AmongClients):
    """Partition in which client i holds half of class i and half of class i + 1."""

    name: Literal["weak"] = "weak"


@dataclass(frozen=True)
class Iid(_AmongClients):
    """Partition into equal random parts."""

    name: Literal["iid"] = "iid"


@dataclass(frozen=True)
class Dirichlet(_AmongClients):
    """Partition of each class in proportions drawn from Dirichlet(alpha)."""

    name: Literal["dirichlet"] = "dirichlet"
    alpha: float = 0.5
    """concentration, above 0: a smaller value gives each client fewer classes"""
    balanced: bool = False
    """whether a client that already has its equal share of all samples gets none of the later classes, so that sizes
    differ less"""


@dataclass(frozen=True)
class Shards(_AmongClients):
    """Partition of the samples, sorted by label, into shards of equal size."""

    name: Literal["shards"] = "shards"
    classes_per_client: int = 2
    """number of shards that each client receives, at least 1"""


@dataclass(frozen=True)
class LabelQuantity(_AmongClients):
    """Partition in which each client has the same number of classes, and clients with a class share it equally."""

    name: Literal["label_quantity"] = "label_quantity"
    classes_per_client: int = 2
    """number of classes of each client, at least 1: client i has class i, and other random classes"""


@dataclass(frozen=True)
class QuantitySkew(_AmongClients):
    """Partition into IID parts whose sizes are drawn from Dirichlet(alpha)."""

    name: Literal["quantity_skew"] = "quantity_skew"
    alpha: float = 0.5
    """concentration, above 0: a smaller value gives more unequal sizes"""


@dataclass(frozen=True)
class ByGroup:
    """Partition with one client for each group of the data set, such as each person."""

    name: Literal["by_group"] = "by_group"


@dataclass(frozen=True)
class FromFile:
    """Partition from index lists in a file."""

    path: str
    """path of a .json list of lists, or of an npz file with the arrays client_0, client_1, ..."""
    name: Literal["file"] = "file"


@dataclass(frozen=True)
class Own:
    """Partition by a partitioner of flwr-datasets, or by a function or class of your own."""

    name: str
    """flwr_datasets:CLASS, such as flwr_datasets:DirichletPartitioner, or the path of your own: package.module:NAME"""
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """the other keys of the section: the arguments of the class or function"""


Partition = Strong | Weak | Iid | Dirichlet | Shards | LabelQuantity | QuantitySkew | ByGroup | FromFile | Own
PARTITIONS: dict[str, type] = {
    "strong": Strong,
    "weak": Weak,
    "iid": Iid,
    "dirichlet": Dirichlet,
    "shards": Shards,
    "label_quantity": LabelQuantity,
    "quantity_skew": QuantitySkew,
    "by_group": ByGroup,
    "file": FromFile,
}
