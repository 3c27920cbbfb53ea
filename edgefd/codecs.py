"""How numbers travel: each codec writes a float32 array as bytes and reads it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgefd.knowledge import Float32


@dataclass(frozen=True)
class Codec:
    """A way to write numbers. `decode(encode(v))` is v within `error` (relative for floats), and a fixed point.

    >>> CODECS["uint8"].decode(CODECS["uint8"].encode(np.array([0, 0.5, 1], np.float32))).round(3)
    array([0.   , 0.502, 1.   ], dtype=float32)
    """

    name: str
    bytes_each: int
    encode: Callable[[Float32], bytes]
    decode: Callable[[bytes], Float32]
    smallest: float
    """least positive number it can write: surer than not at all"""


def _float_codec(name: str, dtype: str) -> Codec:
    kind = np.dtype(dtype)
    return Codec(
        name,
        kind.itemsize,
        encode=lambda v: v.astype(kind).tobytes(),
        decode=lambda b: np.frombuffer(b, kind).astype(np.float32),
        smallest=float(np.finfo(kind).smallest_subnormal),
    )


def _encode_uint8(values: Float32) -> bytes:
    if len(values) and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError("codec uint8 carries numbers in [0, 1] only")
    return np.rint(values * 255).astype(np.uint8).tobytes()


CODECS = {
    "float32": _float_codec("float32", "<f4"),
    "float16": _float_codec("float16", "<f2"),
    "uint8": Codec(
        "uint8",
        1,
        encode=_encode_uint8,
        decode=lambda b: np.frombuffer(b, np.uint8).astype(np.float32) / np.float32(255),
        smallest=1 / 255,
    ),
}
