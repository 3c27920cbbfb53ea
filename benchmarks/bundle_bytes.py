"""Bytes of proxy sets in several lossless forms, and the time to unpack them: `python -m benchmarks.bundle_bytes`.

Data sets that are neither packaged nor in EDGEFD_DATA are left out. The column zstd needs the package zstandard.
"""

from __future__ import annotations

import importlib
import time
import zlib

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError
from edgefd.core.npz import npz_bytes
from edgefd.data.datasets import load_dataset
from edgefd.federation.clients import scale_of
from edgefd.wire.packing import pack, pack_samples, unpack_samples

ROWS = {"mnist_mini": 600, "mnist": 1500, "fashion_mnist": 1500, "cifar10": 500}
Pixels = npt.NDArray[np.uint8]


def png_rows(x: Pixels) -> bytes:
    """Return the residuals of the filter of PNG that has the smallest sum in each row of pixels, and the filters."""
    z = x.astype(np.int16)
    left, up, corner = np.zeros_like(z), np.zeros_like(z), np.zeros_like(z)
    left[..., 1:], up[..., 1:, :], corner[..., 1:, 1:] = z[..., :-1], z[..., :-1, :], z[..., :-1, :-1]
    distances = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
    by_up_or_corner = np.where(distances[1] <= distances[2], up, corner)
    paeth = np.where((distances[0] <= distances[1]) & (distances[0] <= distances[2]), left, by_up_or_corner)
    guesses = [np.zeros_like(z), left, up, (left + up) // 2, paeth]
    residuals = np.stack([(z - guess).astype(np.uint8) for guess in guesses])
    best = np.abs(residuals.view(np.int8).astype(np.int32)).sum(-1).argmin(0)
    rows: bytes = np.take_along_axis(residuals, best[None, ..., None], 0)[0].tobytes()
    return rows + best.astype(np.uint8).tobytes()


def zstd(blob: bytes) -> int | None:
    """Return the bytes of zstd at level 19, or None without the package."""
    try:
        compressor = importlib.import_module("zstandard").ZstdCompressor(19)
    except ImportError:
        return None
    return len(compressor.compress(blob))


def main() -> None:
    """Print one line for each data set."""
    print("bytes of a sample: pixels | npz of float32 | zlib | zstd | xz | PNG filters: zlib, zstd, xz | proxy.xz")
    for name, rows in ROWS.items():
        try:
            x = load_dataset(name).x_train
        except UserError as error:
            print(f"{name}: {error}")
            continue
        pixels: Pixels = x[np.random.default_rng(0).permutation(len(x))[:rows]]
        scale = scale_of(pixels)
        packed, blob = pack_samples(scale(pixels), scale)
        started = time.process_time()
        assert np.array_equal(unpack_samples(blob, packed, pixels.shape[1:], scale, 2**29), scale(pixels))
        seconds = time.process_time() - started
        plain, png = pixels.tobytes(), png_rows(pixels)
        sizes = [len(plain), len(npz_bytes({"x": scale(pixels)})), len(zlib.compress(plain, 9)), zstd(plain)]
        sizes += [len(pack(plain)), len(zlib.compress(png, 9)), zstd(png), len(pack(png)), len(blob)]
        columns = " | ".join("-" if size is None else f"{size / rows:.1f}" for size in sizes)
        print(f"{name}, {rows} rows: {columns}; differences {list(packed.differences)}, {seconds:.3f} s to unpack")


if __name__ == "__main__":
    main()
