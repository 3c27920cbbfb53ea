"""Build a federation from a data set: the private data of each client, and the proxy set that all share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import UserError
from edgefd.core.seeding import Purpose, make_rng
from edgefd.data.core_set import CoreSet, core_rows
from edgefd.data.datasets import Dataset
from edgefd.data.image_arrays import channels_first
from edgefd.data.labels import classes_of
from edgefd.data.npz import finite_samples, read_npz
from edgefd.data.partitions import class_table
from edgefd.data.splits import split, stratified
from edgefd.federation.clients import ClientData, Federation, ProxySet, Scale, scale_of
from edgefd.federation.units import far_from, in_units, some_rows, units_of

CONTRIBUTORS = "contributors"
"""array of a proxy npz file with the number of contributing devices; a file without it holds public samples"""

OWNERS = "owners.npz"
"""file beside a collected proxy set, for audits: `owner` int64 [P], the client that contributed each sample"""

UNKNOWN = -2
"""owner of a contributed sample whose client is not recorded"""

MAX_COLUMNS = 4096
"""largest number of columns with a scale each, which the manifest of a bundle holds"""

Partition = Callable[[Int64, Int64 | None, np.random.Generator], list[Int64]]


@dataclass(frozen=True)
class ProxySpec:
    """The origin of a proxy set."""

    source: Literal["contributed", "public"]
    """contributed: a fraction of every client's samples; public: `Dataset.proxy`, or else a fraction of the training
    set, taken before it is split among the clients; or samples of either kind in `path`"""
    alpha: float
    """fraction of the samples that become proxy samples, in (0, 1)"""
    keep: bool = False
    """whether contributed samples also remain in the private set, to train on; none is ever held out"""
    path: Path | None = None
    """npz file with `x` and, for measurements only, `y`. Contributed samples come from devices (`edgefd collect`): no
    client of this federation owns a row, and the samples were never part of this data set; see `collected_owners`."""
    core: CoreSet | None = None
    """part of these samples that is kept; None = all"""


def build_federation(
    dataset: Dataset,
    partition: Partition,
    proxy: ProxySpec,
    heldout: float,
    seed: int,
    scale: Scale | Literal["all", "columns"] = "all",
) -> Federation:
    """Split the training set among clients and build the proxy set.

    Args:
        dataset: the data set with its training and test samples.
        partition: function (labels, groups, rng) → one index array for each client.
        proxy: origin of the proxy set.
        heldout: fraction of each client's private rows that is held out from training.
        seed: seed of everything random in this function.
        scale: "all" = one scale for all values, that of the proxy set; "columns" = one for each column or channel; or
            a scale itself, such as `RAW`, which leaves the samples unchanged.

    Raises:
        UserError: if a client is left with fewer than two samples, or `alpha` or `heldout` is not in (0, 1).
    """
    if not 0 < heldout < 1:
        raise UserError(f"data.heldout must be in (0, 1), not {heldout}")
    y = dataset.y_train
    parts, private, shared, owner = _divide(dataset, partition, proxy, seed)
    x: npt.NDArray[Any] = dataset.x_train[shared]
    labels: Int64 | None = y[shared]
    if proxy.path is not None:
        x, labels = load_proxy_file(proxy.path, dataset, proxy.source)
        owner = np.full(len(x), -1)
    elif dataset.proxy is not None:
        x, labels = dataset.proxy.x, dataset.proxy.y
        owner = np.full(len(x), -1)
    contributed = len(x) if proxy.source == "contributed" else 0
    if proxy.core is not None:
        kept = core_rows(x, proxy.core, dataset.n_classes, seed)
        x, labels, owner = x[kept], labels if labels is None else labels[kept], owner[kept]
        shared = shared if _is_separate(dataset, proxy) else shared[kept]
    if scale == "columns" and dataset.x_train.shape[1] > MAX_COLUMNS:
        raise UserError(
            f"data.scale=columns is for {MAX_COLUMNS} columns or fewer, not {dataset.x_train.shape[1]}: use all"
        )
    to_model = scale if isinstance(scale, Scale) else scale_of(x, by_column=scale == "columns")

    def samples(rows: Int64) -> tuple[Float32, Int64]:
        return to_model(dataset.x_train[rows]), y[rows]

    clients, names = [], client_names(dataset, parts)
    is_shared = np.zeros(len(y), np.bool_)
    is_shared[shared] = True
    for client, rows in enumerate(private):
        train, held = _split(client, names[client], rows, rows[is_shared[rows]], heldout, seed)
        of_client = np.flatnonzero(owner == client)
        data = ClientData(client, *samples(train), *samples(held), of_client, contributed_y=y[shared[of_client]])
        clients.append(replace(data, rows=train, heldout_rows=held, name=names[client]))
    return Federation(
        clients=tuple(clients),
        proxy=ProxySet(to_model(x), owner),
        proxy_labels=labels,
        x_test=to_model(dataset.x_test),
        y_test=dataset.y_test,
        n_classes=dataset.n_classes,
        scale=to_model,
        table=class_table(y, parts, dataset.n_classes),
        raw_samples_disclosed=contributed,
        kept=proxy.keep,
        proxy_rows=None if _is_separate(dataset, proxy) else shared,
    )


def collected_owners(proxy: ProxySpec, dataset: Dataset, seed: int) -> Int64:
    """Return the contributors of a proxy set that was collected from devices, int64 [P]; `UNKNOWN` without a record.

    They are for an audit alone: a device knows its own samples, and no other party of a run needs them.

    Raises:
        UserError: if the record is malformed, or is not about so many samples.
    """
    if proxy.path is None:
        raise ValueError("the proxy set was not collected")
    x, _ = load_proxy_file(proxy.path, dataset, proxy.source)
    owner, record = np.full(len(x), UNKNOWN), proxy.path.parent / OWNERS
    if record.is_file():
        owner = read_npz(record, ("owner",))["owner"]
        if owner.shape != (len(x),) or owner.dtype != np.int64 or owner.min(initial=0) < 0:
            raise UserError(
                f"{record} does not hold the contributors of the {len(x)} samples of {proxy.path}: remove it"
            )
    return owner if proxy.core is None else owner[core_rows(x, proxy.core, dataset.n_classes, seed)]


def client_names(dataset: Dataset, parts: Sequence[Int64]) -> list[str]:
    """Return the name of the group of each client; "" for all if a client has rows of several groups, or shares one."""
    if dataset.group_train is None:
        return [""] * len(parts)
    groups = [np.unique(dataset.group_train[rows]).tolist() for rows in parts]
    first = [of_client[0] for of_client in groups]
    if any(len(of_client) > 1 for of_client in groups) or len(set(first)) < len(first):
        return [""] * len(parts)
    return [str(group) if dataset.group_names is None else dataset.group_names[group] for group in first]


def _is_separate(dataset: Dataset, proxy: ProxySpec) -> bool:
    """Return whether the proxy set is no part of the training set, but comes from a file or another data set."""
    return proxy.path is not None or dataset.proxy is not None


def _divide(
    dataset: Dataset, partition: Partition, proxy: ProxySpec, seed: int
) -> tuple[list[Int64], list[Int64], Int64, Int64]:
    """Return the rows of each client, its rows that stay private, the rows of the proxy set, and their owners."""
    y, group = dataset.y_train, dataset.group_train
    rng = make_rng(seed, Purpose.PROXY)
    remaining = np.arange(len(y))
    shared = np.empty(0, np.int64)
    if proxy.source == "public" and not _is_separate(dataset, proxy):
        shared, remaining = stratified(remaining, y, proxy.alpha, rng)
    remaining_group = None if group is None else group[remaining]
    index_arrays = partition(y[remaining], remaining_group, make_rng(seed, Purpose.PARTITION))
    parts = [remaining[rows] for rows in index_arrays]
    owner, private = np.full(len(shared), -1), parts
    if proxy.source == "contributed" and proxy.path is None:
        shared, owner, private = contribute_samples(parts, y, proxy.alpha, proxy.keep, rng)
    return parts, private, shared, owner


def contribute_samples(
    parts: Sequence[Int64], y: Int64, alpha: float, keep: bool, rng: np.random.Generator
) -> tuple[Int64, Int64, list[Int64]]:
    """Take a fraction `alpha` of each client's samples, of each of its classes, at least one in all.

    Returns:
        the indices of the contributed samples in random order (so that an id reveals neither owner nor class), their
        owners, and the private indices of each client.
    """
    pairs = [stratified(rows, y, alpha, rng) for rows in parts]
    shared = np.concatenate([chosen for chosen, _ in pairs])
    owner = np.repeat(np.arange(len(parts)), [len(chosen) for chosen, _ in pairs])
    order = rng.permutation(len(shared))
    private = [rows if keep else rest for rows, (_, rest) in zip(parts, pairs, strict=True)]
    return shared[order], owner[order], private


def load_proxy_file(path: Path, dataset: Dataset, source: str) -> tuple[npt.NDArray[Any], Int64 | None]:
    """Load raw proxy samples from an npz file with `x` and, optionally and for measurements only, `y`.

    Raises:
        UserError: if the samples do not match the data set, `y` is out of range, or `source` is not the origin of the
            samples: contributed samples must not be counted as public.
    """
    arrays = read_npz(path, ("x",))
    if (CONTRIBUTORS in arrays) != (source == "contributed"):
        kind, other = ("raw private", "contributed") if CONTRIBUTORS in arrays else ("public", "public")
        raise UserError(f"{path} is marked as {kind} samples: set proxy.source={other}")
    x, shape = finite_samples(channels_first(arrays["x"]), str(path)), dataset.x_train.shape[1:]
    if x.shape[1:] != shape:
        raise UserError(
            f"{path}: x must be samples of shape {list(shape)}, as in {dataset.name}, not of shape {list(x.shape[1:])}"
        )
    units = units_of(dataset.x_train, some_rows(dataset.x_train))
    x = in_units(x, units, f"{path} against {dataset.name}")
    far_from(x, units, dataset.n_classes, str(path), dataset.name)  # raises for other units
    if "y" not in arrays:
        return x, None
    return x, classes_of(arrays["y"], len(x), dataset.n_classes, dataset.label_names, str(path))


def _split(client: int, name: str, rows: Int64, shared: Int64, heldout: float, seed: int) -> tuple[Int64, Int64]:
    """Return the training rows and the held-out rows of a client; `shared`: those of its rows that all clients have."""
    if len(rows) < 2 or len(shared) == len(rows):
        raise UserError(
            f"client {client}{f' ({name})' if name else ''} has {len(rows)} private samples, but needs 2 or more, one "
            "to train on and one held out that it did not contribute: use "
            + ("data without this client" if name else "fewer clients")
            + ", more data, or a smaller proxy.alpha"
        )
    return split(rows, heldout, seed, client, shared)
