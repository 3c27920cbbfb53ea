"""Data sets by name, or from an npz file or a folder of images of a user.

Every result names its data: source, size and sha256.
"""

from __future__ import annotations

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
from edgefd.core.errors import UserError, hint
from edgefd.core.paths import user_path
from edgefd.data import formats
from edgefd.data.cache import cache_folder, cached_arrays
from edgefd.data.images import read_images
from edgefd.data.npz import channels_first, finite_samples, read_npz, whole_labels
from edgefd.federation.units import far_from, in_units, some_rows, units_of

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


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test samples in model layout: uint8 or float32 [n, C, H, W], [n, C, L] or [n, d]; labels int64 [n].

    `group_train` (int64 [n]) is the group, such as a person, of each training sample; None if the data set has no
    groups. `group_names` holds the names of the groups 0, 1, ... `source` names the origin of the data, and `sha256` is
    the digest of the arrays.
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
    group_names: tuple[str, ...] | None = None


def load_dataset(name: str, root: Path | None = None, test_people: Sequence[int] | None = None) -> Dataset:
    """Load a data set by its name, or from the path of an npz file or of a folder of images.

    Args:
        name: a key of `DATASETS`, or the path of an npz file, or of a folder with images in train/LABEL and test/LABEL.
        root: folder to search first (None = $EDGEFD_DATA); then comes the cache folder of `edgefd datasets --download`.
            This function never downloads, substitutes or generates data.
        test_people: people who form the test set of `watch`; all others train (None = `WATCH_TEST`).

    Raises:
        UserError: if there is no such data set, its files are missing or malformed, or it does not have those people.
    """
    if test_people is not None and name != "watch":
        raise UserError(f"data.test_people is for watch only, {name} has its own test set: remove it")
    if name.lower().endswith(".npz"):
        return dataset_of(Path(name).stem, _user_npz(Path(name)), f"file {name}")
    if is_path(name):
        return dataset_of(Path(name).resolve().name, _image_folders(Path(name)), f"folder {name}")
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}: {hint(name, DATASETS, otherwise='a path of an npz or a folder')}")
    location = _find(name, root)
    if location is None:
        raise UserError(f"data set {name} was not found: {download_hint(name)}")
    path, read = location
    title = "CIFAR-10 (JPEG re-encoded)" if path.name == "cifar10_jpeg.npz" else name
    arrays = read(path) if test_people is None else _watch(path, test_people)
    return dataset_of(title, arrays, "packaged with edgefd" if name == "mnist_mini" else str(path))


def is_path(name: str) -> bool:
    """Return whether the name of a data set is the path of an npz file or of a folder, and no name in `DATASETS`."""
    folder = os.sep in name or name.startswith("~") or (name != "" and Path(name).is_dir())
    return name.lower().endswith(".npz") or (folder and name not in DATASETS)


def find_dataset(name: str, root: Path | None = None) -> str | None:
    """Return the location of a data set, or None if it was not found."""
    location = _find(name, root)
    return None if location is None else str(location[0])


Read = Callable[[Path], dict[str, npt.NDArray[Any]]]


def _find(name: str, root: Path | None) -> tuple[Path, Read] | None:
    """Return the first location that has the data set, and its reader."""
    if name == "mnist_mini":
        return Path(str(resources.files("edgefd.data") / "mnist_mini.npz")), _user_npz
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


def _user_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    arrays = read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
    return arrays | {k: channels_first(arrays[k]) for k in ("x_train", "x_test")}


def _image_folders(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the images in train/LABEL and test/LABEL, as devices read theirs."""
    if not all((path / part).is_dir() for part in ("train", "test")):
        raise UserError(f"{path} must hold the folders train and test, each with folders 0, 1, ... of images")
    x_train, y_train = read_images(path / "train")
    x_test, y_test = read_images(path / "test", x_train.shape[1:])
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


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
    "mnist": [("mnist.npz", _user_npz), *((f, _idx(formats.MNIST_MD5)) for f in _FIRST_IDX)],
    "fashion_mnist": [("fashion_mnist.npz", _user_npz), *((f, _idx(formats.FASHION_MNIST_MD5)) for f in _FIRST_IDX)],
    "cifar10": [
        ("cifar-10-python.tar.gz", formats.cifar10_tar),
        ("cifar10.npz", _user_npz),
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


def dataset_of(name: str, arrays: Mapping[str, npt.NDArray[Any]], source: str) -> Dataset:
    """Return x_train, y_train, x_test, y_test and, if present, group_train as a `Dataset`; errors begin with `source`.

    Raises:
        UserError: if samples or labels are malformed, or do not belong together.
    """
    x_train, x_test = (finite_samples(arrays[key], f"{source}, {key}") for key in ("x_train", "x_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        train, test = (f"{x.dtype} {list(x.shape[1:])}" for x in (x_train, x_test))
        raise UserError(
            f"{source}: train samples are {train}, test samples {test}: give both in the same kind and shape"
        )
    y_train = whole_labels(arrays["y_train"], len(x_train), source)
    y_test = whole_labels(arrays["y_test"], len(x_test), source)
    n_classes = int(y_train.max()) + 1
    # labels with more classes than samples are ids or an error, and would make every table of classes as wide
    if not 2 <= n_classes <= len(y_train) or y_test.max() >= n_classes:
        raise UserError(
            f"{source}: labels must be 0..C-1 with C of 2 or more, and test labels among the training labels"
        )
    _check_no_gaps(y_train, n_classes, source)
    units = units_of(x_train, some_rows(x_train))
    x_test = in_units(x_test, units, f"{source}, x_test against x_train")
    far_from(x_test, units, n_classes, f"{source}, x_test", "x_train")  # raises for other units
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
        group_names=None if group is None else tuple(map(str, np.unique(group).tolist())),
    )
    return replace(dataset, sha256=digest(dataset))


def _check_no_gaps(y: Int64, n_classes: int, source: str) -> None:
    """Check that every class has a training sample: a class that nobody has would be learned from nothing.

    Labels are not renumbered here: the devices of the federation have labels too, and nothing tells them.
    """
    counts = np.bincount(y, minlength=n_classes)
    if counts.all():
        return
    first = int(counts.argmin())
    ids = np.flatnonzero(counts)
    advice = (
        "subtract 1 from all of them" if np.array_equal(ids, np.arange(1, n_classes)) else "number them without gaps"
    )
    raise UserError(
        f"{source}: labels must be 0..C-1, each with a training sample, but they are from {ids[0]} to {ids[-1]}, and "
        f"none is {first}: {advice}, here and on all devices"
    )


def digest(dataset: Dataset) -> str:
    """Return the sha256 of the arrays: the same data in another file format have the same digest."""
    sha256 = hashlib.sha256()
    for array in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test, dataset.group_train):
        if array is not None:
            sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
