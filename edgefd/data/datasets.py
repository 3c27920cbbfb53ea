"""Data sets by name, or anybody's npz. What was used is always named: source, size and sha256 go into every result."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError
from edgefd.data.formats import (
    FASHION_MNIST_MD5,
    IDX_FILES,
    MNIST_MD5,
    cifar10_tar,
    decode_jpegs,
    idx_files,
    windows,
)
from edgefd.data.npz import channels_first, finite_samples, read_npz, whole_labels

DATASETS = {
    "mnist_mini": "6,000 + 1,000 MNIST digits, class-balanced, 28x28; shipped with edgefd",
    "mnist": "60,000 + 10,000 handwritten digits, 28x28",
    "fashion_mnist": "60,000 + 10,000 articles of clothing, 28x28",
    "cifar10": "50,000 + 10,000 photographs of 10 kinds, 32x32 in colour",
    "digits": "1,797 handwritten digits, 8x8; from scikit-learn",
    "watch": "smartwatch motion, 10 people, 7 exercises, windows of 6 channels x 100 steps; 2 people are the test",
}
WATCH_TEST = (8, 9)
"""Who is the test of `watch` unless told otherwise: one of the pairs that moved alike, see docs/guides/sensors.md."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test samples in model layout: uint8 or float32 [n, C, H, W], [n, C, L] or [n, d]; labels int64 [n].

    `group_train` (int64 [n]) says which group, such as a person, a sample is of, where the data set knows. `source`
    says where it came from, `sha256` what exactly it was.
    """

    name: str
    x_train: npt.NDArray[Any]
    y_train: Int64
    x_test: npt.NDArray[Any]
    y_test: Int64
    n_classes: int
    group_train: Int64 | None
    source: str
    sha256: str


def load_dataset(name: str, root: Path | None = None, test_people: Sequence[int] | None = None) -> Dataset:
    """The data set of that name, or in the npz of that path.

    Looked for in `root` (default $EDGEFD_DATA), then in the cache folder of `edgefd datasets --download`. Nothing is
    ever downloaded, substituted or made up here. `test_people`: who is the test of `watch`; others train.

    Raises:
        UserError: if there is no such data set, it is not at hand, it is not well-formed, or has not those people.
    """
    if test_people is not None and name != "watch":
        raise UserError(f"data.test_people chooses people of watch; {name} has a test set of its own: leave it out")
    if name.endswith(".npz"):
        return _from_arrays(Path(name).stem, _user_npz(Path(name)), f"file {name}")
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(DATASETS)}, or the path of an npz"
        raise UserError(f"unknown data set {name!r}: {hint}")
    found = _find(name, root)
    if found is None:
        raise UserError(f"{name} is not here: {download_hint(name)}")
    path, read = found
    title = "CIFAR-10 (JPEG re-encoded)" if path.name == "cifar10_jpeg.npz" else name
    arrays = read(path) if test_people is None else _watch(path, test_people)
    return _from_arrays(title, arrays, "packaged with edgefd" if name == "mnist_mini" else str(path))


def find_dataset(name: str, root: Path | None = None) -> str | None:
    """Where the data set is, or None."""
    found = _find(name, root)
    return None if found is None else str(found[0])


def cache_folder(name: str) -> Path:
    """Where downloads of that data set are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgefd" / name


Read = Callable[[Path], dict[str, npt.NDArray[Any]]]


def _find(name: str, root: Path | None) -> tuple[Path, Read] | None:
    """The first place that has the data set, and how to read it."""
    if name == "mnist_mini":
        return Path(str(resources.files("edgefd.data") / "mnist_mini.npz")), _user_npz
    if name == "digits":
        return Path("scikit-learn"), _digits
    given = root or (Path(os.environ["EDGEFD_DATA"]) if os.environ.get("EDGEFD_DATA") else None)
    places = [given / name, given] if given else []  # the MNISTs' files have the same names
    for folder in [*places, cache_folder(name)]:
        for file, read in _FILES[name]:
            if (folder / file).exists():
                return folder / file, read
    return None


def _user_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    arrays = read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
    return arrays | {k: channels_first(arrays[k]) for k in ("x_train", "x_test")}


def _jpegs(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The JPEG copy, decoded once and kept in the cache by its sha256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    kept = cache_folder("cifar10_jpeg") / f"{digest[:16]}.npz"
    if not kept.exists():
        keys = [f"{key}_{part}" for part in ("train", "test") for key in ("jpeg", "offsets", "y")]
        arrays = decode_jpegs(read_npz(path, keys))
        part = kept.with_name(f"{os.getpid()}.part.npz")
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(part, allow_pickle=False, **arrays)
            os.replace(part, kept)
        except OSError as error:
            raise UserError(f"cannot keep the decoded images in {kept.parent}: {error}; set XDG_CACHE_HOME") from error
        finally:
            with suppress(OSError):
                part.unlink()
    return _user_npz(kept)


def _watch(path: Path, test_people: Sequence[int] = WATCH_TEST) -> dict[str, npt.NDArray[Any]]:
    recordings = read_npz(path, ("x", "lengths", "y", "subject"))
    known = np.unique(recordings["subject"]).tolist()
    if test_people is not WATCH_TEST and not set(test_people) <= set(known):
        raise UserError(f"data.test_people must be among {known}, not {list(test_people)}")
    return windows(recordings, length=100, step=50, test_subjects=test_people)


def _digits(path: Path) -> dict[str, npt.NDArray[Any]]:
    """A fifth of each class, drawn with seed 0, is the test set."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise UserError("digits come with scikit-learn, which is not installed: pip install scikit-learn") from None

    bunch = load_digits()
    x = (bunch.images[:, None] * 15).astype(np.uint8)  # 0..16 to bytes
    x_train, x_test, y_train, y_test = train_test_split(
        x, bunch.target, test_size=0.2, stratify=bunch.target, random_state=0
    )
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def _idx(md5: Mapping[str, str]) -> Read:
    return lambda path: idx_files(path.parent, md5)


_FIRST_IDX = (f"{IDX_FILES['x_train']}.gz", IDX_FILES["x_train"])
_FILES: dict[str, list[tuple[str, Read]]] = {
    "mnist": [("mnist.npz", _user_npz), *((f, _idx(MNIST_MD5)) for f in _FIRST_IDX)],
    "fashion_mnist": [("fashion_mnist.npz", _user_npz), *((f, _idx(FASHION_MNIST_MD5)) for f in _FIRST_IDX)],
    "cifar10": [("cifar-10-python.tar.gz", cifar10_tar), ("cifar10.npz", _user_npz), ("cifar10_jpeg.npz", _jpegs)],
    "watch": [("watch.npz", _watch)],
}


def download_hint(name: str) -> str:
    """What a user can do to have that data set."""
    if name == "watch":
        return (
            "install seglearn, then edgefd.data.formats.convert_seglearn writes watch.npz from its watch_dataset.npy; "
            "set EDGEFD_DATA to the folder that holds it"
        )
    return f"edgefd datasets --download {name}, or set EDGEFD_DATA to a folder that holds it"


def _from_arrays(name: str, arrays: dict[str, npt.NDArray[Any]], source: str) -> Dataset:
    """A checked `Dataset`."""
    x_train, x_test = finite_samples(arrays["x_train"], source), finite_samples(arrays["x_test"], source)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise UserError(f"{source}: train samples are {list(x_train.shape[1:])}, test samples {list(x_test.shape[1:])}")
    y_train = whole_labels(arrays["y_train"], len(x_train), source)
    y_test = whole_labels(arrays["y_test"], len(x_test), source)
    n_classes = int(y_train.max()) + 1
    # more classes than samples are ids or a typing error, and every table of classes would be that wide
    if not 2 <= n_classes <= len(y_train) or y_test.max() >= n_classes:
        raise UserError(
            f"{source}: labels must be 0..C-1 with C of 2 or more, and test labels among the training labels"
        )
    group = arrays.get("group_train")
    if group is not None and (group.shape != y_train.shape or (group.dtype.kind == "f" and np.isnan(group).any())):
        raise UserError(f"{source}: group_train must name a group for each of {len(y_train)} x_train")
    dataset = Dataset(
        name=name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        n_classes=n_classes,
        group_train=None if group is None else np.unique(group, return_inverse=True)[1].astype(np.int64),
        source=source,
        sha256="",
    )
    return replace(dataset, sha256=digest(dataset))


def digest(dataset: Dataset) -> str:
    """sha256 of the arrays, so that the same data has the same digest whatever file it came in."""
    sha256 = hashlib.sha256()
    for array in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test, dataset.group_train):
        if array is not None:
            sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
