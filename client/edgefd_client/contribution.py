"""Which private samples a device has given for the proxy set: the record in its state folder, and what follows from it.

The record says which rows and their sha256, no sample and no label. It is written before the first sample leaves, and
tells a run which rows of the proxy set are this device's own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import RunError, UserError
from edgefd.core.files import get, put
from edgefd.core.seeding import Purpose, make_rng
from edgefd.data.splits import stratified
from edgefd.wire.exchange_folder import MAX_TEXT

RECORD = "contributed.json"


@dataclass(frozen=True, eq=False)
class Contribution:
    """What was given."""

    rows: Int64
    """which of the device's samples, in the order in which they were sent"""
    sha256: str
    """of those samples, one after the other"""
    keep: bool
    """the device trains on them all the same"""

    def equals(self, other: Contribution) -> bool:
        """Whether it is the same."""
        return (self.sha256, self.keep) == (other.sha256, other.keep) and np.array_equal(self.rows, other.rows)


def choose(x: npt.NDArray[Any], y: Int64, fraction: float, seed: int, keep: bool) -> Contribution:
    """A fraction of the samples of each class, at least one sample in all, the same for the same data and seed.

    Args:
        x: raw samples [n, ...].
        y: their labels [n], to choose by.
        fraction: in (0, 1).
        seed: of the choice and its order.
        keep: the device trains on them all the same.

    Raises:
        UserError: if it leaves fewer than two private samples, one to train on and one held out.
    """
    rows, rest = stratified(np.arange(len(y)), y, fraction, make_rng(seed, Purpose.PROXY))
    if len(rest) < (1 if keep else 2):
        raise UserError(f"of {len(y)} samples that would leave {len(rest)} private ones: give a smaller --fraction")
    return Contribution(rows, samples_sha256(x[rows]), keep)


def samples_sha256(x: npt.NDArray[Any]) -> str:
    """Of raw samples, row after row."""
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()


def save_contribution(folder: Path, given: Contribution) -> None:
    """On disk when this returns.

    Raises:
        RunError: if it cannot be written.
    """
    fields = {"sha256": given.sha256, "keep": given.keep, "rows": given.rows.tolist()}
    try:
        put(folder / RECORD, (json.dumps(fields) + "\n").encode())
    except OSError as error:
        raise RunError(f"cannot write {folder / RECORD}: {error.strerror}; no sample was sent") from error


def load_contribution(folder: Path) -> Contribution | None:
    """What the device of that state folder has given, or may have; None: nothing.

    Raises:
        UserError: if the record is damaged.
    """
    path = folder / RECORD
    try:
        blob = get(path, 64 * MAX_TEXT)
        if blob is None:
            return None
        fields = json.loads(blob)
        rows = np.array([int(row) for row in fields["rows"]], np.int64)
        if not len(rows) or len(np.unique(rows)) < len(rows) or rows.min() < 0:
            raise ValueError("rows must be numbers from 0, each once")
        return Contribution(rows, str(fields["sha256"]), bool(fields["keep"]))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not what `edgefd-client contribute` wrote: {error}") from error


def check_source(given: Contribution, x: npt.NDArray[Any]) -> None:
    """Whether the rows of these raw samples are those that were given.

    Raises:
        UserError: if not.
    """
    if given.rows.max() >= len(x) or samples_sha256(x[given.rows]) != given.sha256:
        raise UserError(
            f"the data do not hold the {len(given.rows)} samples that this device contributed where they were "
            f"({RECORD} in the state folder): give the data that `edgefd-client contribute` had"
        )


def own_rows(given: Float32, proxy: Float32) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Which rows of the proxy set are equal to given ones, to the bit, and which given ones are among them.

    Args:
        given: scaled samples [n, ...] that the device has offered.
        proxy: [P, ...], scaled likewise.

    Returns:
        ids int64, ascending; bool [n].
    """
    offered = {row.tobytes() for row in np.ascontiguousarray(given)}
    ids = [i for i, row in enumerate(np.ascontiguousarray(proxy)) if row.tobytes() in offered]
    found = {proxy[i].tobytes() for i in ids}
    return np.array(ids, np.int64), np.array([row.tobytes() in found for row in given])
