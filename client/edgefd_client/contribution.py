"""Record of the private samples that a device has contributed to the proxy set, in its state folder.

The record contains the row numbers and their sha256, but no sample and no label. It is written before the first sample
is sent. A run uses it to find the rows of the proxy set that this device contributed.
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
from edgefd.core.files import get, os_errors, put
from edgefd.core.json_files import parse_json
from edgefd.core.seeding import Purpose, make_rng
from edgefd.data.splits import stratified
from edgefd.wire.exchange_folder import MAX_TEXT

RECORD = "contributed.json"
"""name of the record in the state folder"""


@dataclass(frozen=True, eq=False)
class Contribution:
    """Samples that a device has contributed."""

    rows: Int64
    """row numbers of the contributed samples in the device's data, in the order of sending"""
    sha256: str
    """sha256 of these samples, one after the other"""
    keep: bool
    """True if the device also trains on these samples"""

    def equals(self, other: Contribution) -> bool:
        """Return whether both contributions are the same."""
        return (self.sha256, self.keep) == (other.sha256, other.keep) and np.array_equal(self.rows, other.rows)


def choose(x: npt.NDArray[Any], y: Int64, fraction: float, seed: int, keep: bool) -> Contribution:
    """Choose a fraction of the samples of each class, at least one sample in total, reproducibly by data and seed.

    Args:
        x: raw samples [n, ...].
        y: labels [n], by which the samples are chosen.
        fraction: share of the samples of each class, in (0, 1).
        seed: seed of the choice and of its order.
        keep: True if the device also trains on the chosen samples.

    Raises:
        UserError: if fewer than two private samples remain, one to train on and one held out.
    """
    rows, rest = stratified(np.arange(len(y)), y, fraction, make_rng(seed, Purpose.PROXY))
    if len(rest) < (1 if keep else 2):
        raise UserError(
            f"--fraction would leave {len(rest)} private ones of {len(y)} samples: give a smaller --fraction"
        )
    return Contribution(rows, samples_sha256(x[rows]), keep)


def samples_sha256(x: npt.NDArray[Any]) -> str:
    """Return the sha256 of raw samples, row after row."""
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()


def save_contribution(folder: Path, contribution: Contribution) -> None:
    """Write the record. It is on disk when this function returns.

    Raises:
        RunError: if it cannot be written.
    """
    fields = {"sha256": contribution.sha256, "keep": contribution.keep, "rows": contribution.rows.tolist()}
    with os_errors(f"write {folder / RECORD}", RunError, "no sample was sent"):
        put(folder / RECORD, (json.dumps(fields) + "\n").encode())


def load_contribution(folder: Path) -> Contribution | None:
    """Read the record in a state folder; None if the device has contributed nothing. The samples may not all be sent.

    Raises:
        UserError: if the record is damaged.
    """
    path = folder / RECORD
    try:
        blob = get(path, 64 * MAX_TEXT)
        if blob is None:
            return None
        fields = parse_json(blob)
        rows = np.array([int(row) for row in fields["rows"]], np.int64)
        if not len(rows) or len(np.unique(rows)) < len(rows) or rows.min() < 0:
            raise ValueError("rows must be distinct numbers, 0 or more")
        return Contribution(rows, str(fields["sha256"]), bool(fields["keep"]))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is not a record of `edgefd-client contribute`: {error}") from error


def check_source(contribution: Contribution, x: npt.NDArray[Any]) -> None:
    """Check that raw samples contain the contributed samples in the recorded rows.

    Raises:
        UserError: if not.
    """
    rows = contribution.rows
    if rows.max() >= len(x) or samples_sha256(x[rows]) != contribution.sha256:
        raise UserError(
            f"the data do not hold the {len(rows)} contributed samples in the rows that {RECORD} in the state folder "
            "names: give the data that `edgefd-client contribute` used"
        )


def contributed_proxy_rows(offered: Float32, proxy: Float32) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Find the rows of the proxy set that are equal to an offered sample, to the bit.

    The offered samples [n, ...] and the proxy samples [P, ...] are in the same scale.

    Returns:
        ids of these proxy rows, int64, ascending; bool [n], True for each offered sample that is in the proxy set.
    """
    offered_bytes = {row.tobytes() for row in np.ascontiguousarray(offered)}
    ids = [i for i, row in enumerate(np.ascontiguousarray(proxy)) if row.tobytes() in offered_bytes]
    used_bytes = {proxy[i].tobytes() for i in ids}
    return np.array(ids, np.int64), np.array([row.tobytes() in used_bytes for row in offered])
