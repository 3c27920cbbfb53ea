"""The codec simplex15: soft labels in fifteenths, entropy-coded together with ids and weights.

A row of soft labels becomes C whole numbers q with the sum 15: a point of a grid on the probability simplex. It is sent
as pairs of a class and its number, the largest number first; a row ends where its numbers sum to 15.
docs/reference/wire-format.md specifies the bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.values import ValueRange
from edgefd.wire.rans import DIGITS, MOST_BITS, Coder, Decoder, Encoder, Model

UInt8 = npt.NDArray[np.uint8]
PARTS = 15
"""number of parts into which a row is divided"""
MOST_ROWS = 2**31
"""all ids are smaller"""
_NEW_CLASS = 0.3  # a class without a part needs so much more of the next part than a class that has one
_NEARLY = 1e-4  # float32 can hold k / 15 a little smaller than it is
_SUM_ERROR = 1e-3  # of the rows that are encoded; float32 causes less
_WEIGHTS = 64  # a weight is 2^(-w / 4) for w from 0 to 63
_QUARTERS = np.exp2(np.arange(4) / -4).astype(np.float32)  # of w modulo 4; a power of 2 is exact on all machines
_WEIGHT_DIGITS = 2
_RUN_DIGITS = 8  # most digits of a length of a run


@dataclass(frozen=True)
class CodedRows:
    """Knowledge as it is sent."""

    rows: int
    """number of rows"""
    runs: int
    """number of runs of consecutive ids"""
    weighted: bool
    """whether weights are sent; if not, all are 1"""
    data: bytes
    """the digits of ids, weights and rows"""


class SimplexCodec:
    """Properties of the codec that others ask for. They have the same names as in `edgefd.wire.codecs.NumberCodec`."""

    name = "simplex15"

    def carries(self, values: ValueRange) -> bool:
        """Return whether the codec can write all values of a method: rows must sum to 1."""
        return values.sums_to_one

    def largest(self, n: int, width: int) -> int:
        """Return the number of bytes that `n` rows of `width` numbers cannot exceed, even if every digit costs most."""
        digits = 2 * (_RUN_DIGITS + 1) + _WEIGHT_DIGITS + min(width, PARTS) * (_n_digits(width) + 1)
        return 4 * _n_lanes(n) + -(-n * digits * MOST_BITS // 16) * 2

    def row_bits(self, width: int) -> int:
        """Return how many bits a row of `width` numbers and its weight can say: there are (C + 14 over 15) rows."""
        return (math.comb(width + PARTS - 1, PARTS) * _WEIGHTS - 1).bit_length()

    def sum_error(self, width: int, times: int = 1) -> float:
        """Return 0: the numbers of a row sum to 1, however often they are rounded."""
        return 0.0


SIMPLEX15 = SimplexCodec()


class _Models:
    """What both sides learn about a message while they code it."""

    def __init__(self, width: int) -> None:
        levels = _n_digits(width)
        self.sizes, self.lengths = Model(2), Model(2 * (_RUN_DIGITS + 1))
        self.weights = Model(_WEIGHT_DIGITS * DIGITS)
        self.parts = Model(PARTS + 1)
        self.first, self.others = Model(levels * DIGITS), Model(levels * DIGITS)


def encode_rows(knowledge: Knowledge) -> CodedRows:
    """Encode rows of soft labels.

    Raises:
        ValueError: if a row does not consist of numbers in [0, 1] that sum to 1, or an id is too large.
    """
    n, width = knowledge.values.shape
    if not n:
        return CodedRows(0, 0, False, b"")
    parts, ids = parts_of(knowledge.values), knowledge.ids
    if ids[-1] >= MOST_ROWS:
        raise ValueError(f"simplex15 carries ids below {MOST_ROWS}, not {ids[-1]}: use float16")
    models, coder = _Models(width), Encoder(_n_lanes(n))
    begins = np.flatnonzero(np.diff(ids, prepend=-2) != 1)
    present = np.diff(begins, append=n)
    ends = ids[begins] + present
    for kind, lengths in enumerate((ids[begins] - np.concatenate([[0], ends[:-1] + 1])[: len(begins)], present - 1)):
        _code_lengths(coder, models, kind, len(begins), lengths)
    steps = np.clip(np.rint(-4 * np.log2(knowledge.weights.astype(np.float64))), 0, _WEIGHTS - 1).astype(np.int64)
    weighted = bool(steps.any())
    if weighted:
        _code_number(coder, models.weights, _WEIGHT_DIGITS, np.zeros(n, np.int64), steps)
    _code_parts(coder, models, n, width, _pairs(parts))
    return CodedRows(n, len(begins), weighted, coder.bytes())


def decode_rows(coded: CodedRows, width: int) -> Knowledge:
    """Decode rows of `width` soft labels. The receiver has already checked that it expects so many rows.

    Raises:
        ValueError: if the data are not what `encode_rows` writes.
    """
    n = coded.rows
    if not min(n, 1) <= coded.runs <= n:
        raise ValueError(f"runs is {coded.runs}: {n} rows have at least one run, and at most one for each row")
    if not n:
        if coded.data or coded.weighted:
            raise ValueError("a message without rows has values or weights")
        return empty(width)
    models, coder = _Models(width), Decoder(coded.data, _n_lanes(n))
    absent, present = (_code_lengths(coder, models, kind, coded.runs) for kind in (0, 1))
    if (present + 1).sum() != n or absent.sum() + present.sum() + 2 * coded.runs > MOST_ROWS:
        raise ValueError(f"the runs of ids do not have {n} rows with ids below {MOST_ROWS}")
    begins = np.cumsum(absent + 1) - 1 + np.cumsum(present + 1) - (present + 1)
    ids = np.repeat(begins - np.cumsum(present + 1) + present + 1, present + 1) + np.arange(n)
    weights = np.ones(n, np.float32)
    if coded.weighted:
        steps = _code_number(coder, models.weights, _WEIGHT_DIGITS, np.zeros(n, np.int64))
        if (steps >= _WEIGHTS).any():
            raise ValueError(f"a weight has the number {steps.max()}: it must be below {_WEIGHTS}")
        weights = np.ldexp(_QUARTERS[steps & 3], -(steps >> 2))
    parts = _code_parts(coder, models, n, width)
    coder.finish()
    return Knowledge(ids, parts.astype(np.float32) / np.float32(PARTS), weights)


def parts_of(values: Float32) -> Int64:
    """Return rows of soft labels in fifteenths, int64 [n, C], so that each row sums to 15.

    Each class p gets floor(15 p) parts. The parts that are left go, one after another, to the class with the largest
    remainder, which counts as 0.3 less for a class without a part: small numbers cost many bytes and say little. A part
    that is given lowers the remainder of its class by 1.

    >>> parts_of(np.array([[0.52, 0.29, 0.16, 0.03], [0, 1, 0, 0]], np.float32)).tolist()
    [[8, 4, 3, 0], [0, 15, 0, 0]]
    """
    shares = values.astype(np.float64) * PARTS
    sums = shares.sum(1) / PARTS
    if not (values.min() >= 0 and np.abs(sums - 1).max() <= _SUM_ERROR):
        raise ValueError("the codec simplex15 carries rows of soft labels that sum to 1 only: use float16 or float32")
    parts = np.floor(shares + _NEARLY).astype(np.int64)
    remainders = shares - parts - _NEW_CLASS * (parts == 0)
    rows = np.flatnonzero(parts.sum(1) < PARTS)
    while len(rows):
        largest = remainders[rows].argmax(1)
        parts[rows, largest] += 1
        remainders[rows, largest] -= 1
        rows = rows[parts[rows].sum(1) < PARTS]
    return parts


def _pairs(parts: Int64) -> tuple[Int64, Int64]:
    """Return the classes of each row with the largest number first, and their numbers. Equal ones are by class."""
    most = int((parts > 0).sum(1).max(initial=0))
    classes: Int64 = np.argsort(-parts, axis=1, kind="stable")[:, :most]
    return classes, np.take_along_axis(parts, classes, 1)


def _code_parts(coder: Coder, models: _Models, n: int, width: int, pairs: tuple[Int64, Int64] | None = None) -> UInt8:
    """Code rows in fifteenths, uint8 [n, width]: the first pair of all rows, then the second of the rows that have one.

    A class is coded in the context of the row's first class, and a number in that of the parts that are left. The last
    part of a row needs no number.
    """
    found, digits = np.zeros((n, width), np.uint8), _n_digits(width)
    rows, rest, context = np.arange(n), np.full(n, PARTS), np.zeros(n, np.int64)
    for place in range(PARTS):
        if not len(rows):
            break
        given = None if pairs is None else (pairs[0][rows, place], pairs[1][rows, place])
        model = models.others if place else models.first
        classes = _code_number(coder, model, digits, context[rows], None if given is None else given[0])
        left, several = rest[rows], rest[rows] > 1
        kept = None if given is None else (left - given[1])[several]
        left[several] = coder.code(models.parts, left[several], kept)
        left[~several] = 0
        numbers = rest[rows] - left
        if (numbers < 1).any() or (classes >= width).any() or found[rows, classes].any():
            raise ValueError("a row names a class that does not exist, a class twice, or a class without a part")
        found[rows, classes], rest[rows] = numbers, left
        if not place:
            context = classes >> 4 * (digits - 1)
        rows = rows[left > 0]
    return found


def _code_lengths(coder: Coder, models: _Models, kind: int, runs: int, lengths: Int64 | None = None) -> Int64:
    """Code lengths of runs: the number of hexadecimal digits of each, then the digits, the most significant first."""
    sizes = None if lengths is None else sum((lengths >= 16**i).astype(np.int64) for i in range(_RUN_DIGITS))
    sizes = coder.code(models.sizes, np.full(runs, kind), sizes)
    if runs and sizes.max() > _RUN_DIGITS:
        raise ValueError(f"the length of a run has {sizes.max()} digits")
    found = np.zeros(runs, np.int64)
    for digit in range(int(sizes.max(initial=0)))[::-1]:
        rows = np.flatnonzero(sizes > digit)
        context = np.where(sizes[rows] == digit + 1, sizes[rows], 0) + kind * (_RUN_DIGITS + 1)
        given = None if lengths is None else lengths[rows] >> 4 * digit & 15
        found[rows] = found[rows] << 4 | coder.code(models.lengths, context, given)
    return found


def _code_number(coder: Coder, model: Model, digits: int, context: Int64, numbers: Int64 | None = None) -> Int64:
    """Code numbers of so many hexadecimal digits, each in the context of the digit before it, `context` at first."""
    found = np.zeros(len(context), np.int64)
    for i in range(digits):
        given = None if numbers is None else numbers >> 4 * (digits - 1 - i) & 15
        context = coder.code(model, context + DIGITS * i, given)
        found = found << 4 | context
    return found


def _n_digits(width: int) -> int:
    """Return the number of hexadecimal digits of a class."""
    return max(1, -(-(width - 1).bit_length() // 4))


def _n_lanes(rows: int) -> int:
    return min(-(-rows // 48), 128)
