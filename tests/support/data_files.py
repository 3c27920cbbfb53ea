"""Small data set files that tests write and read back."""

from pathlib import Path

import numpy as np

RNG = np.random.default_rng(0)


def arrays(**other: np.ndarray) -> dict[str, np.ndarray]:
    """Return 20 training and 10 test images of 3 classes; `other` replaces or adds arrays."""
    x = RNG.integers(0, 255, (30, 8, 8), np.uint8)
    return {"x_train": x[:20], "y_train": np.arange(20) % 3, "x_test": x[20:], "y_test": np.arange(10) % 3} | other


def save_npz(folder: Path, **other: np.ndarray) -> str:
    """Write mine.npz with `arrays(**other)` and return its path."""
    path = folder / "mine.npz"
    np.savez(path, **arrays(**other))  # type: ignore[arg-type]
    return str(path)


def idx(array: np.ndarray) -> bytes:
    """Return an array as the bytes of an IDX file."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()
