"""Partitions of the training samples: labels → one sorted index array for each client, disjoint, none empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError
from edgefd.core.json_files import parse_json
from edgefd.core.objects import one_line
from edgefd.data.npz import read_npz

Function = Callable[[Int64, np.random.Generator], Sequence[npt.ArrayLike]]
"""A user's partition: function (labels int64 [n], rng) → one array of indices below n for each client."""

_DRAWS = 100  # largest number of draws of Dirichlet proportions, until every client has enough samples


def strong(y: Int64, n_clients: int, rng: np.random.Generator) -> list[Int64]:
    """Give client i class i and nothing else. With fewer clients than classes, the last classes are unused.

    Raises:
        UserError: if there are more clients than classes.
    """
    classes = _checked_classes(y, n_clients, "strong")
    return [np.flatnonzero(y == c) for c in classes[:n_clients]]


def weak(y: Int64, n_clients: int, rng: np.random.Generator) -> list[Int64]:
    """Give client i a random half of class i and the other half of class i + 1 (mod C).

    With fewer clients than classes, some halves are unused.

    Raises:
        UserError: if there are more clients than classes.
    """
    classes = _checked_classes(y, n_clients, "weak")
    halves = [np.array_split(rng.permutation(np.flatnonzero(y == c)), 2) for c in classes]
    pairs = [(halves[i][1], halves[(i + 1) % len(classes)][0]) for i in range(n_clients)]
    return _sorted([np.concatenate(pair) for pair in pairs])


def iid(y: Int64, n_clients: int, rng: np.random.Generator) -> list[Int64]:
    """Split the samples into equal random parts."""
    _check_sample_count(len(y), n_clients)
    return _sorted(np.array_split(rng.permutation(len(y)), n_clients))


def dirichlet(
    y: Int64, n_clients: int, alpha: float, rng: np.random.Generator, min_size: int = 10, balanced: bool = False
) -> list[Int64]:
    """Split each class in proportions drawn from Dirichlet(alpha); draw until every client has `min_size` samples.

    With `balanced`, a client that has len(y) / n_clients samples or more gets none of the later classes, as in Li et
    al., ICDE 2022 (arXiv 2102.02079).

    Raises:
        UserError: if none of 100 draws gives every client that many.
    """
    _check_alpha(alpha)
    _check_sample_count(len(y), n_clients)
    for _ in range(_DRAWS):
        parts = _by_proportions(y, rng.dirichlet(np.full(n_clients, alpha), len(np.unique(y))), rng, balanced)
        if min(len(p) for p in parts) >= max(min_size, 1):
            return _sorted(parts)
    raise UserError(
        f"dirichlet with alpha={alpha} left a client with fewer than {min_size} samples in each of {_DRAWS} draws: "
        "raise partition.alpha or lower partition.n_clients"
    )


def shards(y: Int64, n_clients: int, classes_per_client: int, rng: np.random.Generator) -> list[Int64]:
    """Sort by label and cut into equal shards; give `classes_per_client` random shards to each client."""
    n = n_clients * classes_per_client
    _check_sample_count(len(y), n)
    order = rng.permutation(len(y))
    pieces = np.array_split(order[np.argsort(y[order], kind="stable")], n)
    assignment = rng.permutation(n).reshape(n_clients, classes_per_client)
    return _sorted([np.concatenate([pieces[i] for i in chosen]) for chosen in assignment])


def label_quantity(y: Int64, n_clients: int, classes_per_client: int, rng: np.random.Generator) -> list[Int64]:
    """Give client i class i (mod C) and other random classes; split each class equally among the clients that have it.

    Each client has `classes_per_client` different classes. With fewer clients than classes, some classes may be unused.
    This is the quantity-based label imbalance of Li et al., ICDE 2022 (arXiv 2102.02079), as Flower's niid_bench
    implements it; with one class each and as many clients as classes, it equals `strong`.

    Raises:
        UserError: if there are fewer classes, or a class has fewer samples than clients that should share it.
    """
    classes = np.unique(y)
    _check_sample_count(len(y), n_clients)
    if classes_per_client > len(classes):
        raise UserError(
            f"partition label_quantity gives each client {classes_per_client} classes, but there are {len(classes)}: "
            "lower partition.classes_per_client"
        )
    has = np.zeros((n_clients, len(classes)), bool)
    for i, row in enumerate(has):
        first = i % len(classes)
        others = rng.permutation(np.delete(np.arange(len(classes)), first))
        row[[first, *others[: classes_per_client - 1]]] = True
    parts: list[list[Int64]] = [[] for _ in range(n_clients)]
    for c, owners in zip(classes, has.T, strict=True):
        rows = rng.permutation(np.flatnonzero(y == c))
        if len(rows) < owners.sum():
            raise UserError(
                f"partition label_quantity splits class {c} among {owners.sum()} clients, but it has {len(rows)} "
                "samples: lower partition.n_clients or partition.classes_per_client"
            )
        for client, piece in zip(np.flatnonzero(owners), np.array_split(rows, max(owners.sum(), 1)), strict=False):
            parts[client].append(piece)
    return _sorted([np.concatenate(pieces) for pieces in parts])


def quantity_skew(y: Int64, n_clients: int, alpha: float, rng: np.random.Generator, min_size: int = 10) -> list[Int64]:
    """Split the samples at random into parts of sizes drawn from Dirichlet(alpha), after `min_size` samples for each.

    Raises:
        UserError: if there are fewer than n_clients * min_size samples.
    """
    _check_alpha(alpha)
    min_size = max(min_size, 1)
    _check_sample_count(len(y), n_clients * min_size)
    spare = len(y) - n_clients * min_size
    ends = np.cumsum(rng.dirichlet(np.full(n_clients, alpha))) * spare + min_size * np.arange(1, n_clients + 1)
    return _sorted(np.split(rng.permutation(len(y)), np.rint(ends[:-1]).astype(int)))


def by_group(group: Int64 | None) -> list[Int64]:
    """Give each group (such as a person) its own client, in order of group.

    Raises:
        UserError: if the data set has no groups.
    """
    if group is None:
        raise UserError(
            "partition by_group needs samples with groups: set data.client to the column that names them, or add "
            "group_train to the npz"
        )
    return [np.flatnonzero(group == g) for g in np.unique(group)]


def from_file(path: Path, n: int) -> list[Int64]:
    """Read index lists from a .json list of lists, or from an npz file with client_0, client_1, ...

    An index refers to the `n` samples that are split: if a public proxy set was taken from the training set first, to
    the remaining samples.

    Raises:
        UserError: if the file cannot be read, an index is not in 0..n-1 or occurs twice, or a list is empty.
    """
    try:
        parts = _read_lists(path)
    except UserError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read partition file {path}: {error}") from error
    return _checked_parts(parts, n, f"partition file {path}")


def by_function(function: Function, y: Int64, rng: np.random.Generator, name: str) -> list[Int64]:
    """Call a user's function with the labels and a random generator; `name` names it in errors.

    Raises:
        UserError: if the function fails, or does not return index arrays like those that `from_file` accepts.
    """
    try:
        parts = [np.asarray(p) for p in function(y.copy(), rng)]
    except Exception as error:  # a user's function may raise anything
        raise UserError(f"partition {name} failed: {one_line(error)}") from error
    return _checked_parts(parts, len(y), f"partition {name}")


def _checked_parts(parts: Sequence[np.ndarray], n: int, source: str) -> list[Int64]:
    """Return the index arrays, sorted, if they are whole numbers from 0 to n - 1, disjoint, and none is empty."""
    if not parts or not all(p.ndim == 1 and len(p) for p in parts):
        raise UserError(f"{source} must hold at least one index for each client")
    indices = np.concatenate(parts)
    if indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= n:
        raise UserError(f"{source} must hold whole numbers from 0 to {n - 1}")
    if len(np.unique(indices)) < len(indices):
        raise UserError(f"{source} gives a sample to more than one client, or twice to one")
    return _sorted([p.astype(np.int64) for p in parts])


def class_table(y: Int64, parts: Sequence[Int64], n_classes: int) -> Int64:
    """Count the samples of each class that each client holds: int64 [clients, classes]."""
    return np.stack([np.bincount(y[p], minlength=n_classes) for p in parts]).astype(np.int64)


def _by_proportions(y: Int64, proportions: np.ndarray, rng: np.random.Generator, balanced: bool) -> list[Int64]:
    """Split each class c in the proportions `proportions[c]`, without clients that have their share if `balanced`."""
    parts_by_class = []
    sizes = np.zeros(proportions.shape[1])
    for c, share in zip(np.unique(y), proportions, strict=True):
        rows = rng.permutation(np.flatnonzero(y == c))
        if balanced:
            wants = sizes < len(y) / len(sizes)
            share = share * wants if (share * wants).any() else wants
            share = share / share.sum()
        pieces = np.split(rows, np.rint(np.cumsum(share)[:-1] * len(rows)).astype(int))
        parts_by_class.append(pieces)
        sizes += [len(piece) for piece in pieces]
    return [np.concatenate(pieces) for pieces in zip(*parts_by_class, strict=True)]


def _sorted(parts: Sequence[Int64]) -> list[Int64]:
    return [np.sort(p) for p in parts]


def _checked_classes(y: Int64, n_clients: int, name: str) -> Int64:
    classes = np.unique(y)
    _check_sample_count(len(y), n_clients)
    if n_clients > len(classes):
        raise UserError(
            f"partition {name} gives each client its own class, but {n_clients} clients are more than "
            f"{len(classes)} classes: lower partition.n_clients or use dirichlet or shards"
        )
    return classes


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < np.inf:  # also true for NaN
        raise UserError(f"partition.alpha must be above 0, not {alpha}")


def _check_sample_count(n: int, needed: int) -> None:
    if needed < 1:
        raise UserError("a partition needs at least one client: raise partition.n_clients")
    if n < needed:
        raise UserError(f"{n} samples are too few for this partition, which needs {needed}: lower partition.n_clients")


def _read_lists(path: Path) -> list[np.ndarray]:
    if path.suffix == ".json":
        return [np.asarray(p) for p in parse_json(path.read_bytes())]
    arrays = read_npz(path, ())
    names = [f"client_{i}" for i in range(len(arrays))]
    if set(names) != set(arrays):
        raise UserError(f"partition file {path} must hold client_0, client_1, ... and nothing else")
    return [arrays[name] for name in names]
