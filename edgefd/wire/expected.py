"""`Expected`: the messages that a receiver expects. Decoders refuse all others before they allocate memory.

`edgefd.rounds.validation` makes these values from a method and the terms of a federation, for all receivers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.federation.values import ValueRange
from edgefd.wire.codecs import CODECS

MAX_NUMBERS = 2**28
"""largest number of values in a message, whatever numbers of clients and classes a manifest states"""
MAX_BYTES = 2**30
"""largest size in bytes of a message; gRPC has no larger limit than 2 GiB"""
_FRAME = 4 * 2**10  # bytes for field numbers and lengths, and for fields of a later version
_ID_BYTES = 5  # most bytes of the gap between two ids


class UnexpectedContent(ValueError):
    """A message that is well-formed, but has not the content that its receiver expects."""


class UnknownBase(UnexpectedContent):
    """A message with changes of knowledge that its receiver does not hold. The sender must send all rows."""


@dataclass(frozen=True, eq=False)
class Expected:
    """Knowledge that a receiver expects.

    >>> from edgefd.federation.values import SOFT_LABELS
    >>> Expected(range(100), range(10, 11), "uint8", SOFT_LABELS, 0.02).largest - _FRAME
    1600
    """

    ids: range | Int64
    """ids that rows may have, ascending; a message has at most as many rows"""
    widths: range
    """numbers of values that a row may have"""
    codec: str
    """name of the codec; the labels and the shortened rows of a codec belong to it"""
    values: ValueRange
    sum_error: float
    """largest distance between the sum of a row and 1, if rows sum to 1"""
    complete: bool = False
    """whether a message has all rows or none"""
    held: Knowledge | None = None
    """knowledge that the receiver holds, which a message may change; None = a message must have all rows"""

    @property
    def largest(self) -> int:
        """Size in bytes that no honest message exceeds."""
        return min(_FRAME + CODECS[self.codec].largest(len(self.ids), self.widths[-1]), MAX_BYTES)

    def check_shape(self, n: int, width: int) -> None:
        """Check the number of rows and the number of values per row.

        Raises:
            UnexpectedContent: if the receiver does not expect them.
        """
        if width not in self.widths:
            wanted = str(self.widths[0]) if len(self.widths) == 1 else f"{self.widths[0]} to {self.widths[-1]}"
            raise UnexpectedContent(f"the message has {width} values per row, but {wanted} are expected")
        if n * width > MAX_NUMBERS:
            raise UnexpectedContent(f"the message has {n} rows of {width} values, more than {MAX_NUMBERS} in all")
        if n > len(self.ids):
            raise UnexpectedContent(f"the message has {n} rows, but at most {len(self.ids)} are expected")

    def check_complete(self, n: int) -> None:
        """Check that a message has all rows, or none, if it must.

        Raises:
            UnexpectedContent: if it has some.
        """
        if self.complete and 0 < n < len(self.ids):
            raise UnexpectedContent(f"the message has {n} of {len(self.ids)} rows: this method needs all or none")

    def check_ids(self, ids: Int64) -> None:
        """Check that rows were queried, or exist.

        Raises:
            UnexpectedContent: if one was not.
        """
        known = ids < self.ids.stop if isinstance(self.ids, range) else np.isin(ids, self.ids)
        if not known.all():
            raise UnexpectedContent(f"row {ids[~known][0]} was not queried, or does not exist")

    def check_values(self, values: Float32) -> None:
        """Check that finite values are in their range, and that rows sum to 1 if they must.

        Raises:
            UnexpectedContent: if not.
        """
        if not len(values):
            return
        kind = self.values
        low, high = float(values.min()), float(values.max())
        if not kind.least <= low <= high <= kind.most:
            raise UnexpectedContent(
                f"values from {low:g} to {high:g} are sent, but {kind.name} are from {kind.least:g} to {kind.most:g}"
            )
        if kind.sums_to_one:
            sums = values.sum(1, dtype=np.float64)
            furthest = float(sums[np.abs(sums - 1).argmax()])
            if abs(furthest - 1) > self.sum_error:
                raise UnexpectedContent(
                    f"a row sums to {furthest:.4g}, but {kind.name} sum to 1 (a difference of {self.sum_error:.2g} is "
                    "allowed for rounding)"
                )


@dataclass(frozen=True, eq=False)
class ExpectedReport:
    """A report that a receiver expects."""

    round: int
    """round of the plan"""
    knowledge: Expected
    metrics: Mapping[str, tuple[float, float]]
    """smallest and largest value of each metric that a report may have, by name"""

    @property
    def largest(self) -> int:
        """Size in bytes that no honest report exceeds."""
        return self.knowledge.largest + _FRAME + sum(len(name) + 16 for name in self.metrics)

    def check_metrics(self, metrics: Mapping[str, float]) -> None:
        """Check that all metrics are known and in their range.

        Raises:
            UnexpectedContent: if one is not.
        """
        for name, value in metrics.items():
            if name not in self.metrics:
                raise UnexpectedContent(f"unknown metric {name[:40]!r}")
            least, most = self.metrics[name]
            if not least <= value <= most:  # also true for NaN
                raise UnexpectedContent(f"the metric {name} is {value:g}, but it must be from {least:g} to {most:g}")


def largest_plan(n_proxy: int) -> int:
    """Return the size in bytes that no honest plan exceeds."""
    return _FRAME + n_proxy * _ID_BYTES
