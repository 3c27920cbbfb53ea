"""The grid of images: a valid PNG with the right pixels."""

import struct
import zlib

import numpy as np
import pytest

from edgefd.auditing.report.image_grid import grid


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_is_a_png_of_its_images(channels: int) -> None:
    images = np.random.default_rng(5).random((2, 3, channels, 4, 5)).astype(np.float32)
    blob = grid(images)
    assert blob.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, offset = {}, 8
    while offset < len(blob):
        (n,) = struct.unpack(">I", blob[offset : offset + 4])
        name, data = blob[offset + 4 : offset + 8], blob[offset + 8 : offset + 8 + n]
        assert struct.unpack(">I", blob[offset + 8 + n : offset + 12 + n])[0] == zlib.crc32(name + data)
        chunks[name], offset = data, offset + 12 + n
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (width, height, depth, colour) == (3 * 7, 2 * 6, 8, {1: 0, 3: 2}[channels])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    pixels = lines[:, 1:].reshape(height, width, channels)
    np.testing.assert_array_equal(pixels[6:10, 14:19], np.rint(255 * images[1, 2]).transpose(1, 2, 0))
    assert (pixels[:, 5:7] == 255).all()
    with pytest.raises(ValueError, match="not 2"):
        grid(np.zeros((1, 1, 2, 4, 4), np.float32))
