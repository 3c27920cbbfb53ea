"""Split rows in two: a stratified fraction and the rest, or training rows and held-out rows."""

from __future__ import annotations

import hashlib

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import UserError
from edgefd.core.seeding import Purpose, make_rng

_TINY = 1e-15  # between two hashes in [0, 1)


def stratified(rows: Int64, y: Int64, fraction: float, rng: np.random.Generator) -> tuple[Int64, Int64]:
    """Split `rows` in two: a fraction of each class (at least one row in all), shuffled, and the rest, sorted.

    Raises:
        UserError: if the fraction is not in (0, 1).
    """
    if not 0 < fraction < 1:
        raise UserError(f"proxy.alpha is the fraction of samples that are shared: it must be in (0, 1), not {fraction}")
    chosen_by_class = []
    for c in np.unique(y[rows]):
        of_class = rng.permutation(rows[y[rows] == c])
        chosen_by_class.append(of_class[: round(fraction * len(of_class))])
    chosen = np.concatenate(chosen_by_class)
    if not len(chosen):
        chosen = rng.permutation(rows)[:1]
    return rng.permutation(chosen), np.setdiff1d(rows, chosen)


def lasting_split(rows: Int64, x: Float32, heldout: float, shared: Int64) -> tuple[Int64, Int64]:
    """Split a client's rows as `split` does, but so that a sample stays on its side when other samples come or go.

    The hash of a sample decides, so equal samples are on the same side. There must be two different samples or more.

    Args:
        rows: rows of `x` to split, ascending.
        x: samples, float32 [n, ...].
        heldout: share of the samples to hold out.
        shared: rows that are never held out.
    """
    hashes = [int.from_bytes(hashlib.sha256(x[row].tobytes()).digest()[:8], "big") / 2**64 for row in rows]
    own = ~np.isin(rows, shared)
    hashed = np.where(own, np.array(hashes), 1.0)
    held = hashed < min(max(heldout, hashed.min() + _TINY), hashed.max())
    return rows[~held], rows[held]


def split(rows: Int64, heldout: float, seed: int, client: int, shared: Int64 | None = None) -> tuple[Int64, Int64]:
    """Split a client's rows into training rows and held-out rows, both sorted, neither empty.

    There must be two rows or more, and at least one that is not in `shared` (None = no row is): the rows that all
    clients train on are never held out.
    """
    order = make_rng(seed, Purpose.HELDOUT, client).permutation(rows)
    private = order if shared is None else order[~np.isin(order, shared)]
    heldout_rows = np.sort(private[: min(max(round(heldout * len(rows)), 1), len(rows) - 1)])
    return np.setdiff1d(rows, heldout_rows), heldout_rows
