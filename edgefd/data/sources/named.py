"""Data sets by their names, from the files of their authors; nothing is downloaded here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError, hint
from edgefd.core.paths import user_path
from edgefd.data import formats
from edgefd.data.cache import cache_folder, cached_arrays
from edgefd.data.npz import read_npz
from edgefd.data.sources.source import Samples, Source

DATASETS = {
    "mnist_mini": "6,000 + 1,000 MNIST digits, class-balanced, 28x28; shipped with edgefd",
    "mnist": "60,000 + 10,000 handwritten digits, 28x28",
    "fashion_mnist": "60,000 + 10,000 articles of clothing, 28x28",
    "cifar10": "50,000 + 10,000 photographs of 10 kinds, 32x32 in colour",
    "digits": "1,797 handwritten digits, 8x8; from scikit-learn",
    "watch": "smartwatch motion, 10 people, 7 exercises, windows of 6 channels x 100 steps; 2 people are the test",
}
WATCH_TEST = (8, 9)
"""default test people of `watch`: one of the pairs with similar motion, see docs/guides/sensors.md"""

_IMAGES = ("image_size", "channels")


def read_named(source: Source, root: Path | None = None) -> tuple[Samples, str, str]:
    """Return the samples of a named data set, its title, and the place where it was found.

    Args:
        source: its settings; `name` is a key of `DATASETS`.
        root: folder to search first (None = $EDGEFD_DATA); then comes the cache folder of `edgefd datasets --download`.

    Raises:
        UserError: if there is no such data set, its files are missing or malformed, or it does not have those people.
    """
    name, people = source.name, source.test_people
    if name not in DATASETS:
        other = "the path of a folder or of a .npz, .parquet or .csv file, or hf:NAME"
        raise UserError(f"unknown data set {name!r}: {hint(name, DATASETS, other)}")
    source.check_used(("test_people",) if name == "watch" else _IMAGES, "data sets")
    location = _find(name, root)
    if location is None:
        raise UserError(f"data set {name} was not found: {download_hint(name)}")
    path, read = location
    title = "CIFAR-10 (JPEG re-encoded)" if path.name == "cifar10_jpeg.npz" else name
    a = read(path) if people is None else _watch(path, people)
    samples = Samples(a["x_train"], a["y_train"], a["x_test"], a["y_test"], a.get("group_train"))
    return samples, title, "packaged with edgefd" if name == "mnist_mini" else str(path)


def find_dataset(name: str, root: Path | None = None) -> str | None:
    """Return the location of a data set, or None if it was not found."""
    location = _find(name, root)
    return None if location is None else str(location[0])


Read = Callable[[Path], dict[str, npt.NDArray[Any]]]


def _find(name: str, root: Path | None) -> tuple[Path, Read] | None:
    """Return the first location that has the data set, and its reader."""
    if name == "mnist_mini":
        return Path(str(resources.files("edgefd.data") / "mnist_mini.npz")), _arrays
    if name == "digits":
        return Path("scikit-learn"), _digits
    first = root or (user_path(os.environ["EDGEFD_DATA"]) if os.environ.get("EDGEFD_DATA") else None)
    folders = [first / name, first] if first else []  # MNIST and Fashion-MNIST have the same file names
    with suppress(UserError):  # without a folder for caches, nothing is in it
        folders.append(cache_folder(name))
    for folder in folders:
        for file, read in _FILES[name]:
            if (folder / file).exists():
                return folder / file, read
    return None


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    return read_npz(path, ("x_train", "y_train", "x_test", "y_test"))


def _jpegs(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the JPEG copy, decoded once and cached by its sha256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    keys = [f"{key}_{part}" for part in ("train", "test") for key in ("jpeg", "offsets", "y")]
    return dict(cached_arrays("cifar10_jpeg", digest, lambda: formats.decode_jpegs(read_npz(path, keys))))


def _watch(path: Path, test_people: Sequence[int] = WATCH_TEST) -> dict[str, npt.NDArray[Any]]:
    recordings = read_npz(path, ("x", "lengths", "y", "subject"))
    people = np.unique(recordings["subject"]).tolist()
    if test_people is not WATCH_TEST and not set(test_people) <= set(people):
        raise UserError(f"data.test_people must be among {people}, not {list(test_people)}")
    return formats.windows(recordings, length=100, step=50, test_subjects=test_people)


def _digits(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Load the digits of scikit-learn; a fifth of each class, drawn with seed 0, is the test set."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise UserError("the data set digits needs scikit-learn: pip install scikit-learn") from None

    bunch = load_digits()
    x = (bunch.images[:, None] * 15).astype(np.uint8)  # 0..16 to 0..240
    x_train, x_test, y_train, y_test = train_test_split(
        x, bunch.target, test_size=0.2, stratify=bunch.target, random_state=0
    )
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def _idx(md5: Mapping[str, str]) -> Read:
    return lambda path: formats.idx_files(path.parent, md5)


_FIRST_IDX = (f"{formats.IDX_FILES['x_train']}.gz", formats.IDX_FILES["x_train"])
_FILES: dict[str, list[tuple[str, Read]]] = {
    "mnist": [("mnist.npz", _arrays), *((f, _idx(formats.MNIST_MD5)) for f in _FIRST_IDX)],
    "fashion_mnist": [("fashion_mnist.npz", _arrays), *((f, _idx(formats.FASHION_MNIST_MD5)) for f in _FIRST_IDX)],
    "cifar10": [
        ("cifar-10-python.tar.gz", formats.cifar10_tar),
        ("cifar10.npz", _arrays),
        ("cifar10_jpeg.npz", _jpegs),
    ],
    "watch": [("watch.npz", _watch)],
}


def download_hint(name: str) -> str:
    """Return the instruction to get a data set that was not found."""
    if name == "watch":
        return (
            "install seglearn, convert its watch_dataset.npy to watch.npz with edgefd.data.formats.convert_seglearn, "
            "and set EDGEFD_DATA to the folder of watch.npz"
        )
    return f"run edgefd datasets --download {name}, or set EDGEFD_DATA to the folder that holds it"
