"""Split rows into two stratified or held-out parts."""

from __future__ import annotations

import numpy as np

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError
from edgefd.core.seeding import Purpose, make_rng


def stratified(rows: Int64, y: Int64, fraction: float, rng: np.random.Generator) -> tuple[Int64, Int64]:
    """`rows` in two: a fraction of each class (at least one row in all), shuffled, and the rest, sorted.

    Raises:
        UserError: if the fraction is not in (0, 1).
    """
    if not 0 < fraction < 1:
        raise UserError(f"proxy.alpha is the fraction of samples that are shared: it must be in (0, 1), not {fraction}")
    taken = []
    for c in np.unique(y[rows]):
        of_class = rng.permutation(rows[y[rows] == c])
        taken.append(of_class[: round(fraction * len(of_class))])
    chosen = np.concatenate(taken)
    if not len(chosen):
        chosen = rng.permutation(rows)[:1]
    return rng.permutation(chosen), np.setdiff1d(rows, chosen)


def split(rows: Int64, heldout: float, seed: int, client: int, shared: Int64 | None = None) -> tuple[Int64, Int64]:
    """A client's rows to train on, and those held out, both sorted and neither empty.

    Of two rows or more, at least one must not be in `shared` (None: nothing is): what everybody trains on is never held
    out.
    """
    order = make_rng(seed, Purpose.HELDOUT, client).permutation(rows)
    unseen = order if shared is None else order[~np.isin(order, shared)]
    held = np.sort(unseen[: min(max(round(heldout * len(rows)), 1), len(rows) - 1)])
    return np.setdiff1d(rows, held), held
