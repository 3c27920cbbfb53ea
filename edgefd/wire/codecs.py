"""How numbers travel: each codec writes a float32 array as bytes and reads it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64


@dataclass(frozen=True)
class Codec:
    """A way to write numbers. `decode(encode(v))` is v within `error` (relative for floats), and a fixed point.

    >>> c, numbers = CODECS["uint8"], np.array([0, 0.5, 1], np.float32)
    >>> c.decode(c.encode(numbers), 3).round(3), c.size(3), CODECS["uint4"].size(3)
    (array([0.   , 0.502, 1.   ], dtype=float32), 3, 2)
    """

    name: str
    bits: int
    """of each number"""
    encode: Callable[[Float32], bytes]
    """of an array of any shape, row after row"""
    decode: Callable[[bytes, int], Float32]
    """so many numbers, of exactly as many bytes as they take"""
    smallest: float
    """least positive number it can write: surer than not at all"""
    unit: bool = False
    """whether it carries numbers in [0, 1] only"""

    def size(self, count: int) -> int:
        """Bytes of so many numbers."""
        return -(-count * self.bits // 8)


def _float_codec(name: str, dtype: str) -> Codec:
    kind = np.dtype(dtype)
    return Codec(
        name,
        8 * kind.itemsize,
        encode=lambda v: v.astype(kind).tobytes(),
        decode=lambda b, count: np.frombuffer(b, kind, count).astype(np.float32),
        smallest=float(np.finfo(kind).smallest_subnormal),
    )


def _steps(values: Float32, most: int) -> npt.NDArray[np.uint8]:
    """round(most v), halves to even."""
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError("codecs uint8 and uint4 carry numbers in [0, 1] only")
    out: npt.NDArray[np.uint8] = np.rint(values.reshape(-1) * most).astype(np.uint8)
    return out


def _encode_uint4(values: Float32) -> bytes:
    """Two numbers a byte, the first in its upper half."""
    steps = _steps(values, 15)
    pairs = np.concatenate([steps, np.zeros(len(steps) % 2, np.uint8)]).reshape(-1, 2)
    out: bytes = (pairs[:, 0] << 4 | pairs[:, 1]).tobytes()
    return out


def _decode_uint4(data: bytes, count: int) -> Float32:
    pairs = np.frombuffer(data, np.uint8)
    steps = np.stack([pairs >> 4, pairs & 15], 1).reshape(-1)[:count]
    return steps.astype(np.float32) / np.float32(15)


CODECS = {
    "float32": _float_codec("float32", "<f4"),
    "float16": _float_codec("float16", "<f2"),
    "uint8": Codec(
        "uint8",
        8,
        encode=lambda v: _steps(v, 255).tobytes(),
        decode=lambda b, count: np.frombuffer(b, np.uint8, count).astype(np.float32) / np.float32(255),
        smallest=1 / 255,
        unit=True,
    ),
    "uint4": Codec("uint4", 4, encode=_encode_uint4, decode=_decode_uint4, smallest=1 / 15, unit=True),
}


def pack_labels(labels: Int64, n_classes: int) -> bytes:
    """Each label in the fewest bits in which n_classes - 1 can be written, most significant first.

    >>> pack_labels(np.array([1, 9, 4]), 10).hex()
    '1940'
    """
    places = np.arange(_bits(n_classes))[::-1]
    return np.packbits((labels[:, None] >> places & 1).astype(np.uint8)).tobytes()


def unpack_labels(data: bytes, n: int, n_classes: int) -> Int64:
    """`n` labels.

    Raises:
        ValueError: if there are more or fewer bytes than they take, or a label is no class.
    """
    bits, size = _bits(n_classes), labels_size(n, n_classes)
    if len(data) != size:
        raise ValueError(f"labels of {len(data)} bytes where {size} were announced")
    found = np.unpackbits(np.frombuffer(data, np.uint8), count=n * bits).reshape(n, bits)
    labels: Int64 = found.astype(np.int64) @ (1 << np.arange(bits)[::-1])
    if n and labels.max() >= n_classes:
        raise ValueError(f"label {labels.max()}; there are {n_classes} classes")
    return labels


def labels_size(n: int, n_classes: int) -> int:
    """Bytes of `n` packed labels."""
    return -(-n * _bits(n_classes) // 8)


def _bits(n_classes: int) -> int:
    return max(n_classes - 1, 0).bit_length()
