"""How training samples are dealt out to clients: labels → one sorted index array a client, disjoint, none empty."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError
from edgefd.data.npz import read_npz

_DRAWS = 100  # of Dirichlet proportions, until every client has enough


def strong(y: Int64, n_clients: int, rng: np.random.Generator) -> list[Int64]:
    """Client i holds class i and nothing else. With fewer clients than classes, the last classes belong to nobody.

    Raises:
        UserError: with more clients than classes.
    """
    classes = _enough_classes(y, n_clients, "strong")
    return [np.flatnonzero(y == c) for c in classes[:n_clients]]


def weak(y: Int64, n_clients: int, rng: np.random.Generator) -> list[Int64]:
    """Client i holds a random half of class i and the other half of class i + 1 (mod C).

    With fewer clients than classes, some halves belong to nobody.

    Raises:
        UserError: with more clients than classes.
    """
    classes = _enough_classes(y, n_clients, "weak")
    halves = [np.array_split(rng.permutation(np.flatnonzero(y == c)), 2) for c in classes]
    pairs = [(halves[i][1], halves[(i + 1) % len(classes)][0]) for i in range(n_clients)]
    return _sorted([np.concatenate(pair) for pair in pairs])


def iid(y: Int64, n_clients: int, rng: np.random.Generator) -> list[Int64]:
    """Equal random shares."""
    _enough_samples(len(y), n_clients)
    return _sorted(np.array_split(rng.permutation(len(y)), n_clients))


def dirichlet(y: Int64, n_clients: int, alpha: float, rng: np.random.Generator, min_size: int = 10) -> list[Int64]:
    """Each class is dealt out in proportions drawn from Dirichlet(alpha), until every client has `min_size` samples.

    Raises:
        UserError: if no draw of 100 gives every client that many.
    """
    _positive(alpha)
    _enough_samples(len(y), n_clients)
    for _ in range(_DRAWS):
        parts = _by_proportions(y, rng.dirichlet(np.full(n_clients, alpha), len(np.unique(y))), rng)
        if min(len(p) for p in parts) >= max(min_size, 1):
            return _sorted(parts)
    raise UserError(
        f"dirichlet with alpha={alpha} left a client with fewer than {min_size} samples in each of {_DRAWS} draws: "
        "raise partition.alpha or lower partition.n_clients"
    )


def shards(y: Int64, n_clients: int, classes_per_client: int, rng: np.random.Generator) -> list[Int64]:
    """Sorted by label, cut into n_clients * classes_per_client equal shards, so many dealt to each client."""
    n = n_clients * classes_per_client
    _enough_samples(len(y), n)
    order = rng.permutation(len(y))
    pieces = np.array_split(order[np.argsort(y[order], kind="stable")], n)
    deal = rng.permutation(n).reshape(n_clients, classes_per_client)
    return _sorted([np.concatenate([pieces[i] for i in hand]) for hand in deal])


def quantity_skew(y: Int64, n_clients: int, alpha: float, rng: np.random.Generator, min_size: int = 10) -> list[Int64]:
    """Random shares whose sizes are drawn from Dirichlet(alpha); every client gets `min_size` samples first.

    Raises:
        UserError: with fewer than n_clients * min_size samples.
    """
    _positive(alpha)
    min_size = max(min_size, 1)
    _enough_samples(len(y), n_clients * min_size)
    spare = len(y) - n_clients * min_size
    ends = np.cumsum(rng.dirichlet(np.full(n_clients, alpha))) * spare + min_size * np.arange(1, n_clients + 1)
    return _sorted(np.split(rng.permutation(len(y)), np.rint(ends[:-1]).astype(int)))


def by_group(group: Int64 | None) -> list[Int64]:
    """One client a group (such as a person), in order of group.

    Raises:
        UserError: if the data set has no groups.
    """
    if group is None:
        raise UserError("partition by_group needs a data set with groups (group_train in the npz), such as watch")
    return [np.flatnonzero(group == g) for g in np.unique(group)]


def from_file(path: Path, n: int) -> list[Int64]:
    """Index lists of a user: a .json list of lists, or an npz of client_0, client_1, ...

    Indices count the `n` samples that are dealt out: where a public proxy set was first drawn from the training set,
    those that remain.

    Raises:
        UserError: if it cannot be read, or an index is out of 0..n-1 or stands twice, or a list is empty.
    """
    try:
        parts = _read_lists(path)
    except UserError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read partition file {path}: {error}") from error
    if not parts or not all(p.ndim == 1 and len(p) for p in parts):
        raise UserError(f"partition file {path} must hold at least one index for each client")
    every = np.concatenate(parts)
    if every.dtype.kind not in "iu" or every.min() < 0 or every.max() >= n:
        raise UserError(f"partition file {path} must hold whole numbers from 0 to {n - 1}")
    if len(np.unique(every)) < len(every):
        raise UserError(f"partition file {path} gives a sample to more than one client, or twice to one")
    return _sorted([p.astype(np.int64) for p in parts])


def class_table(y: Int64, parts: Sequence[Int64], n_classes: int) -> Int64:
    """How many samples of each class each client holds: int64 [clients, classes]."""
    return np.stack([np.bincount(y[p], minlength=n_classes) for p in parts]).astype(np.int64)


def _by_proportions(y: Int64, shares: np.ndarray, rng: np.random.Generator) -> list[Int64]:
    """Class c dealt out in the proportions `shares[c]`."""
    dealt = []
    for c, share in zip(np.unique(y), shares, strict=True):
        rows = rng.permutation(np.flatnonzero(y == c))
        dealt.append(np.split(rows, np.rint(np.cumsum(share)[:-1] * len(rows)).astype(int)))
    return [np.concatenate(pieces) for pieces in zip(*dealt, strict=True)]


def _sorted(parts: Sequence[Int64]) -> list[Int64]:
    return [np.sort(p) for p in parts]


def _enough_classes(y: Int64, n_clients: int, name: str) -> Int64:
    classes = np.unique(y)
    _enough_samples(len(y), n_clients)
    if n_clients > len(classes):
        raise UserError(
            f"partition {name} gives each client a class of its own: {n_clients} clients are more than "
            f"{len(classes)} classes; lower partition.n_clients or choose dirichlet or shards"
        )
    return classes


def _positive(alpha: float) -> None:
    if not 0 < alpha < np.inf:  # also true for NaN
        raise UserError(f"partition.alpha must be above 0, not {alpha}")


def _enough_samples(n: int, needed: int) -> None:
    if needed < 1:
        raise UserError("a partition needs at least one client: raise partition.n_clients")
    if n < needed:
        raise UserError(f"{n} samples are too few for this partition, which needs {needed}: lower partition.n_clients")


def _read_lists(path: Path) -> list[np.ndarray]:
    if path.suffix == ".json":
        return [np.asarray(p) for p in json.loads(path.read_text(encoding="utf-8"))]
    arrays = read_npz(path, ())
    names = [f"client_{i}" for i in range(len(arrays))]
    if set(names) != set(arrays):
        raise UserError(f"partition file {path} must hold client_0, client_1, ... and nothing else")
    return [arrays[name] for name in names]
