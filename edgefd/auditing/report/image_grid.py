"""A grid of images as one PNG, written without an imaging library."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from edgefd.core.arrays import Float32

_GAP = 2  # white pixels between images


def grid(rows: Float32) -> bytes:
    """Return a PNG of images in [0, 1], float32 [rows, columns, channels, height, width].

    One channel is grey, three channels are colours.

    Raises:
        ValueError: for another number of channels.
    """
    n, m, channels, height, width = rows.shape
    if channels not in (1, 3):
        raise ValueError(f"a PNG has 1 or 3 channels, not {channels}")
    cell_height, cell_width = height + _GAP, width + _GAP
    canvas = np.ones((n, m, channels, cell_height, cell_width))
    canvas[..., :height, :width] = rows
    pixels = canvas.transpose(0, 3, 1, 4, 2).reshape(n * cell_height, m * cell_width, channels)
    return png(np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8))


def png(pixels: np.ndarray) -> bytes:
    """Return a PNG file of uint8 [height, width, 1 or 3] (ISO/IEC 15948)."""
    height, width, channels = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # each line begins with its filter type; 0 is none
    head = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
