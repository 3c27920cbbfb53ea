"""Codecs of numbers: each writes a float32 array as bytes and reads it back. `CODECS` also holds that of whole rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.federation.values import ValueRange
from edgefd.wire import blocks
from edgefd.wire.simplex import PARTS, SIMPLEX15, SimplexCodec

_ID_BYTES = 5  # most bytes of the gap between two ids


@dataclass(frozen=True)
class NumberCodec:
    """An encoding of numbers as bytes.

    `decode(encode(v))` is v up to the rounding error of the codec (a relative error for floats). Encoding and decoding
    the result once more does not change it.

    >>> c, numbers = NUMBER_CODECS["uint8"], np.array([0, 0.5, 1], np.float32)
    >>> c.decode(c.encode(numbers), 3).round(3), c.size(3), NUMBER_CODECS["uint4"].size(3)
    (array([0.   , 0.502, 1.   ], dtype=float32), 3, 2)
    """

    name: str
    bits: int
    """bits of each number"""
    encode: Callable[[Float32], bytes]
    """returns the bytes of an array of any shape, row after row"""
    decode: Callable[[bytes, int], Float32]
    """returns the given count of numbers; the data must have exactly the size of these numbers"""
    smallest: float
    """smallest positive number that the codec can write"""
    absolute_error: float
    """largest rounding error of a number near 0"""
    relative_error: float = 0.0
    """largest rounding error of a number, relative to it; in addition to `absolute_error`"""
    unit: bool = False
    """True if the codec can write only numbers in [0, 1]"""
    block: int | None = None
    """count of consecutive numbers that share a scale of four bytes; None = there are no scales. Errors are then
    relative to the largest absolute value of a block, and those above are of blocks whose largest is 1"""

    @property
    def of_weights(self) -> NumberCodec:
        """Codec of the weights of rows: this one, or float16 if there are scales, which suit no small weights."""
        return self if self.block is None else NUMBER_CODECS["float16"]

    def carries(self, values: ValueRange) -> bool:
        """Return whether the codec can write all values of a method."""
        return not self.unit or 0 <= values.least < values.most <= 1

    def size(self, count: int) -> int:
        """Return the number of bytes of `count` numbers."""
        scales = 0 if self.block is None else -(-count // self.block)
        return -(-count * self.bits // 8) + blocks.SCALE_BYTES * scales

    def largest(self, n: int, width: int) -> int:
        """Return the number of bytes that the ids, values and weights of `n` rows of `width` numbers cannot exceed."""
        return n * _ID_BYTES + self.size(n * width) + self.of_weights.size(n)

    def row_bits(self, width: int) -> int:
        """Return how many bits a row of `width` numbers and its weight can say, with its share of the scales."""
        scales = 0 if self.block is None else -(-8 * blocks.SCALE_BYTES * width // self.block)
        return width * self.bits + scales + self.of_weights.bits

    def sum_error(self, width: int, times: int = 1) -> float:
        """Return the largest error of the sum of `width` numbers that sum to 1, if they are rounded `times` times.

        Only numbers of at least half a step are rounded up, to twice their value at most, so a sum at most doubles.
        """
        return min(times * width * self.absolute_error, (1 << times) - 1) + times * self.relative_error


def _float_codec(name: str, dtype: str) -> NumberCodec:
    kind = np.dtype(dtype)

    def encode(values: Float32) -> bytes:
        with np.errstate(over="ignore"):  # an overflow is refused below
            numbers = values.astype(kind)
        if not np.isfinite(numbers).all():
            raise ValueError(
                f"values must be finite and at most {np.finfo(kind).max:g} in {name}, not {values.max():g}"
            )
        return numbers.tobytes()

    return NumberCodec(
        name,
        8 * kind.itemsize,
        encode=encode,
        decode=lambda b, count: np.frombuffer(b, kind, count).astype(np.float32),
        smallest=float(np.finfo(kind).smallest_subnormal),
        absolute_error=float(np.finfo(kind).smallest_subnormal) / 2,
        relative_error=float(np.finfo(kind).eps) / 2,
    )


def _quantised(values: Float32, levels: int) -> npt.NDArray[np.uint8]:
    """Return round(levels * v), halves rounded to even."""
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError("the codecs uint8 and uint4 carry numbers in [0, 1] only: use float16 or float32")
    out: npt.NDArray[np.uint8] = np.rint(values.reshape(-1) * levels).astype(np.uint8)
    return out


def _encode_uint4(values: Float32) -> bytes:
    """Return two numbers per byte, the first in the upper half of the byte."""
    quantised = _quantised(values, 15)
    pairs = np.concatenate([quantised, np.zeros(len(quantised) % 2, np.uint8)]).reshape(-1, 2)
    out: bytes = (pairs[:, 0] << 4 | pairs[:, 1]).tobytes()
    return out


def _decode_uint4(data: bytes, count: int) -> Float32:
    pairs = np.frombuffer(data, np.uint8)
    quantised = np.stack([pairs >> 4, pairs & 15], 1).reshape(-1)[:count]
    return quantised.astype(np.float32) / np.float32(15)


NUMBER_CODECS = {
    "float32": _float_codec("float32", "<f4"),
    "float16": _float_codec("float16", "<f2"),
    "uint8": NumberCodec(
        "uint8",
        8,
        encode=lambda v: _quantised(v, 255).tobytes(),
        decode=lambda b, count: np.frombuffer(b, np.uint8, count).astype(np.float32) / np.float32(255),
        smallest=1 / 255,
        absolute_error=0.5 / 255,
        unit=True,
    ),
    "uint4": NumberCodec(
        "uint4",
        4,
        encode=_encode_uint4,
        decode=_decode_uint4,
        smallest=1 / 15,
        absolute_error=0.5 / 15,
        unit=True,
    ),
    "int8": NumberCodec(
        "int8",
        8,
        encode=blocks.encode,
        decode=blocks.decode,
        smallest=1 / blocks.LEVELS,
        absolute_error=0.5 / blocks.LEVELS,
        block=blocks.BLOCK,
    ),
}
CODECS: dict[str, NumberCodec | SimplexCodec] = {**NUMBER_CODECS, SIMPLEX15.name: SIMPLEX15}
"""all codecs by name"""
BLOCKED = frozenset(name for name, codec in NUMBER_CODECS.items() if codec.block is not None)
"""names of the codecs whose rows share scales, so that rows alone are rounded otherwise than among others"""
AUTO = "auto"
"""name that a config gives instead of a codec's to have one chosen by `codec_for`"""


def codec_for(name: str, values: ValueRange, n_classes: int) -> str:
    """Return the name of the codec of a method's messages, which is `name` itself unless that is auto.

    auto is simplex15 for soft labels of at most 15 classes. A row with more classes than parts of simplex15 can lose
    most of them, so these have float16, as have the values that are no soft labels.

    >>> from edgefd.federation.values import LOGITS, SOFT_LABELS
    >>> codec_for("auto", SOFT_LABELS, 10), codec_for("auto", SOFT_LABELS, 100), codec_for("auto", LOGITS, 10)
    ('simplex15', 'float16', 'float16')
    >>> codec_for("uint8", SOFT_LABELS, 10)
    'uint8'
    """
    if name != AUTO:
        return name
    return SIMPLEX15.name if values.sums_to_one and n_classes <= PARTS else "float16"


def pack_labels(labels: Int64, n_classes: int) -> bytes:
    """Return the labels as bytes, each in the fewest bits that can hold n_classes - 1, most significant bit first.

    >>> pack_labels(np.array([1, 9, 4]), 10).hex()
    '1940'
    """
    shifts = np.arange(_bits(n_classes))[::-1]
    return np.packbits((labels[:, None] >> shifts & 1).astype(np.uint8)).tobytes()


def unpack_labels(data: bytes, n: int, n_classes: int) -> Int64:
    """Return the `n` labels that `pack_labels` wrote.

    Raises:
        ValueError: if the data are longer or shorter than `n` labels, or a label is not a class.
    """
    bits, size = _bits(n_classes), labels_size(n, n_classes)
    if len(data) != size:
        raise ValueError(f"the labels have {len(data)} bytes where {size} are expected")
    rows = np.unpackbits(np.frombuffer(data, np.uint8), count=n * bits).reshape(n, bits)
    labels: Int64 = np.zeros(n, np.int64)
    for bit in rows.T:  # one bit of all labels at a time: the product of all bits would need 64 times their memory
        labels = labels << 1 | bit
    if n and labels.max() >= n_classes:
        raise ValueError(f"label {labels.max()} is not a class: there are {n_classes} classes")
    return labels


def labels_size(n: int, n_classes: int) -> int:
    """Return the number of bytes of `n` packed labels."""
    return -(-n * _bits(n_classes) // 8)


def _bits(n_classes: int) -> int:
    return max(n_classes - 1, 0).bit_length()
