"""The codec int8: numbers of any size in 8 bits, in blocks that have one scale each.

The scale of a block is its largest absolute value a. A number v is sent as q = round(127 v / a), from -127 to 127, and
read as a q / 127, which differs from v by at most a (1 / 254 + 2^-22). The second term is the rounding of float32, in
which all of this is computed. The size of parameters differs from layer to layer: docs/results/bytes.md compares sizes
of blocks. docs/reference/wire-format.md specifies the bytes.
"""

from __future__ import annotations

import numpy as np

from edgefd.core.arrays import Float32

BLOCK = 128
"""count of consecutive numbers that share a scale"""
LEVELS = 127
"""largest absolute value of q"""
SCALE_BYTES = 4
"""bytes of a scale: a little-endian float32"""
_SHARES = (np.arange(256, dtype=np.uint8).view(np.int8) / np.float32(LEVELS)).astype(np.float32)  # q / 127 by its byte


def encode(values: Float32, block: int = BLOCK) -> bytes:
    """Return the scales of all blocks, then a byte for each number, row after row.

    Raises:
        ValueError: if a number is not finite.

    >>> encode(np.array([0.5, -1, 0.25], np.float32)).hex()
    '0000803f408120'
    """
    numbers = values.reshape(-1)
    if not np.isfinite(numbers).all():
        raise ValueError("the codec int8 carries finite numbers only")
    blocks = np.zeros((-(-len(numbers) // block), block), np.float32)
    blocks.reshape(-1)[: len(numbers)] = numbers
    scales = np.abs(blocks).max(1)
    blocks /= np.where(scales > 0, scales, 1)[:, None]
    steps = np.rint(LEVELS * blocks).astype(np.int8)
    out: bytes = scales.astype("<f4").tobytes() + steps.reshape(-1)[: len(numbers)].tobytes()
    return out


def decode(data: bytes, count: int, block: int = BLOCK) -> Float32:
    """Return `count` numbers. The data must have exactly the size of these numbers.

    Raises:
        ValueError: if a scale is negative or not finite, or q is -128.
    """
    n_blocks = -(-count // block)
    scales = np.frombuffer(data, "<f4", n_blocks)
    steps = np.frombuffer(data, np.uint8, count, offset=SCALE_BYTES * n_blocks)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise ValueError("a scale of int8 is negative or not finite")
    if (steps == LEVELS + 1).any():
        raise ValueError(f"a number of int8 is -128: it must be from -{LEVELS} to {LEVELS}")
    numbers: Float32 = _SHARES[steps]
    numbers *= np.repeat(scales, block)[:count]
    return numbers
