"""Facts about a federation that its run measures and records, in a simulation or at a coordinator of devices.

Some facts are known in a simulation only, because it holds the data of all clients. They are None for devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefd.core.arrays import Int64
from edgefd.federation.clients import ClientData, Federation


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The facts with which the metrics of a round are computed."""

    n_clients: int
    n_proxy: int
    """number of proxy rows P"""
    proxy_labels: Int64 | None = None
    """labels of the proxy rows, int64 [P]; None = not known"""
    table: Int64 | None = None
    """number of samples of each client and class, int64 [clients, C]; None for devices"""
    test_by_class: list[int] | None = None
    """number of test rows of each class; None for devices"""
    by_group: bool = False
    """whether each client is a group, such as a person, whose own distribution is that of its held-out data"""


@dataclass(frozen=True, eq=False)
class RunFacts:
    """The facts that a run folder records, besides the config and the metrics."""

    n_clients: int
    partition: dict[str, Any]
    """content of partition.json"""
    raw_samples_disclosed: int
    dataset: str
    """name of the data set"""
    bytes_once: int | None = None
    """bytes sent before round 0, see `PreparedRun.bytes_once`; for devices, those of bundles; None = not known"""
    codec: str | None = None
    """name of the codec of the messages, also where the config chooses none; None = the method sends none"""
    data_source: str | None = None
    data_samples: int | None = None
    data_sha256: str | None = None
    proxy_source: str | None = None
    """origin of a proxy set that is another data set (`proxy.data`)"""
    proxy_source_sha256: str | None = None


def ground_truth(federation: Federation, by_group: bool = False) -> GroundTruth:
    """Return the facts of a simulated federation with which its rounds are measured; `by_group` is one of the facts."""
    return GroundTruth(
        len(federation.clients),
        len(federation.proxy),
        federation.proxy_labels,
        federation.table,
        np.bincount(federation.y_test, minlength=federation.n_classes).tolist(),
        by_group,
    )


def partition_record(
    federation: Federation,
    shifts: Sequence[float | None],
    members: bool = False,
    label_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return partition.json: how many samples of each class each client holds and contributed.

    `shifts` are the shifts of the proxy set from the data of the clients. With `members`, it also lists which samples
    these are. `label_names` are the labels of the classes in the source of the data; None = 0, 1, ...
    """
    return {
        "clients": [
            {
                "client": data.client,
                **({"name": data.name} if data.name else {}),
                "samples_by_class": federation.table[data.client].tolist(),
                "train": len(data.x),
                "heldout": len(data.x_heldout),
                "contributed": len(data.contributed),
                "proxy_shift": shift,
                **(members_of(data) if members else {}),
            }
            for data, shift in zip(federation.clients, shifts, strict=True)
        ],
        "proxy": len(federation.proxy),
        "proxy_sha256": federation.proxy.sha256,
        "test": len(federation.x_test),
        "label_names": None if label_names is None else list(label_names),
    }


def members_of(data: ClientData) -> dict[str, list[int]]:
    """Return the rows of the training set that a client trains on and holds out, and its contributed proxy rows."""
    rows_by_name = {"train_rows": data.rows, "heldout_rows": data.heldout_rows, "contributed_ids": data.contributed}
    return {name: rows.tolist() for name, rows in rows_by_name.items() if rows is not None}
