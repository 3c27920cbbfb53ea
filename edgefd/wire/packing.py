"""Lossless packing of the files of a bundle: differences of neighbouring values, or planes of bytes, and then xz.

docs/reference/wire-format.md specifies the bytes. A receiver knows the sizes before anything is unpacked. On proxy sets
of MNIST, Fashion-MNIST and CIFAR-10, xz (standard library) takes 4 to 15 % fewer bytes than zstd, and the filters of
PNG, chosen row by row, take no fewer than one choice for all rows (docs/results/bundle-bytes.md).
"""

from __future__ import annotations

import itertools
import lzma
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32
from edgefd.federation.clients import Scale
from edgefd.learners.graphs import State
from edgefd.wire.bundle_manifest import PackedSamples

_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**23}]
_MEMORY = 2**25  # bytes that unpacking may take besides its result; a stream states how much it needs
_TRIED = 256  # rows on which the choices are compared

UInt8 = npt.NDArray[np.uint8]


def pack(blob: bytes) -> bytes:
    """Return bytes as an xz stream, which any language unpacks with 8 MiB for its dictionary."""
    return lzma.compress(blob, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=_FILTERS)


def unpack(blob: bytes, most: int) -> bytes:
    """Return the bytes of an xz stream.

    Raises:
        ValueError: if it is not one whole stream, needs more than 32 MiB besides its result, or unpacks to more than
            `most` bytes.
    """
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
    try:
        out = stream.decompress(blob, max_length=most + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"it is not an xz stream: {error}") from error
    if len(out) > most:
        raise ValueError(f"it unpacks to more than {most} bytes")
    if not stream.eof or stream.unused_data:
        raise ValueError("it is not one whole xz stream")
    return out


def pack_samples(x: Float32, scale: Scale) -> tuple[PackedSamples, bytes]:
    """Pack scaled samples, so that `unpack_samples` returns them to the bit.

    Samples that are pixels before scaling are packed as pixels, uint8.

    Args:
        x: float32 [n, ...], scaled.
        scale: with which they were scaled.
    """
    pixels = _pixels(x, scale)
    if pixels is None:
        plain, some = np.ascontiguousarray(x, "<f4"), x[:_TRIED]
        planes = len(pack(_planes(some))) < len(pack(plain[:_TRIED].tobytes()))
        return PackedSamples(len(x), "float32", (), planes), pack(_planes(x) if planes else plain.tobytes())
    axes = range(1, x.ndim)
    subsets = [s for n in range(len(axes) + 1) for s in itertools.combinations(axes, n)]
    along = min(subsets, key=lambda axes: len(pack(_differences(pixels[:_TRIED], axes).tobytes())))
    return PackedSamples(len(x), "uint8", along, False), pack(_differences(pixels, along).tobytes())


def unpack_samples(blob: bytes, packed: PackedSamples, shape: Sequence[int], scale: Scale, most: int) -> Float32:
    """Return scaled samples, float32 [n, ...].

    Args:
        blob: of `pack_samples`.
        packed: of `pack_samples`.
        shape: of one sample.
        scale: with which they were scaled.
        most: largest size in bytes of the result.

    Raises:
        ValueError: if it does not hold exactly these samples, or they are larger than `most`.
    """
    values = packed.rows * math.prod(shape)
    if 4 * values > most:
        raise ValueError(f"{packed.rows} samples of shape {list(shape)} take more than {most} bytes")
    raw = _exactly(blob, values * np.dtype(packed.dtype).itemsize)
    if packed.dtype == "float32":
        numbers = _from_planes(raw) if packed.planes else np.frombuffer(raw, "<f4")
        return numbers.astype(np.float32, copy=False).reshape(packed.rows, *shape)
    pixels = np.frombuffer(raw, np.uint8).reshape(packed.rows, *shape)
    for axis in reversed(packed.differences):
        pixels = np.cumsum(pixels, axis=axis, dtype=np.uint8)
    return scale(pixels)


def pack_arrays(arrays: Mapping[str, Float32]) -> bytes:
    """Pack arrays of float32, one after another, in planes of bytes."""
    return pack(_planes(np.concatenate([np.zeros(0, np.float32), *(array.reshape(-1) for array in arrays.values())])))


def unpack_arrays(blob: bytes, shapes: Mapping[str, tuple[int, ...]], most: int) -> State:
    """Return arrays of float32 by name.

    Args:
        blob: of `pack_arrays`.
        shapes: of the arrays, in their order.
        most: largest size in bytes of the result.

    Raises:
        ValueError: if it does not hold exactly these arrays, or they are larger than `most`.
    """
    sizes = [math.prod(shape) for shape in shapes.values()]
    if 4 * sum(sizes) > most:
        raise ValueError(f"the arrays take more than {most} bytes")
    parts = np.split(_from_planes(_exactly(blob, 4 * sum(sizes))), np.cumsum(sizes)[:-1]) if sizes else []
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _exactly(blob: bytes, size: int) -> bytes:
    raw = unpack(blob, size)
    if len(raw) != size:
        raise ValueError(f"it unpacks to {len(raw)} bytes, not {size}")
    return raw


def _pixels(x: Float32, scale: Scale) -> UInt8 | None:
    """Return the pixels that these scaled samples were, or None if they were no pixels from 0 to 255."""
    along = (1, -1, *[1] * (x.ndim - 2))
    mean, std = (np.array(numbers).reshape(along) for numbers in (scale.mean, scale.std))
    raw = np.rint(x * std + mean) if np.isfinite(x).all() else x
    if not x.size or not (raw.min() >= 0 and raw.max() <= 255):
        return None
    pixels: UInt8 = raw.astype(np.uint8)
    return pixels if scale(pixels).tobytes() == x.tobytes() else None


def _differences(x: UInt8, axes: Sequence[int]) -> UInt8:
    """Subtract from each value the one before it along each of the axes, modulo 256; the first ones stay."""
    for axis in axes:
        x = np.diff(x, axis=axis, prepend=np.uint8(0))
    return x


def _planes(x: Float32) -> bytes:
    """Return the first bytes of all numbers, then their second bytes, and so on.

    The bits of each number are rotated to the left by one before, so that one byte holds the whole exponent.
    """
    bits = np.ascontiguousarray(x, "<f4").reshape(-1).view("<u4")
    return np.ascontiguousarray((bits << 1 | bits >> 31).astype("<u4").view(np.uint8).reshape(-1, 4).T).tobytes()


def _from_planes(raw: bytes) -> Float32:
    bits = np.ascontiguousarray(np.frombuffer(raw, np.uint8).reshape(4, -1).T).reshape(-1).view("<u4")
    out: Float32 = (bits >> 1 | bits << 31).astype("<u4").view("<f4").astype(np.float32, copy=False)
    return out
