"""Readers of original file formats: IDX (MNIST, Fashion-MNIST), CIFAR's tar, JPEG copies, windows of recordings."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError, require

Arrays = dict[str, npt.NDArray[Any]]

IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
# md5 of the uncompressed files: gzip headers differ between mirrors and distributions
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c629615203637",
}
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
CIFAR10_MD5 = "c58f30108f718f92721af3b95e74349a"


def idx_files(folder: Path, md5: Mapping[str, str]) -> Arrays:
    """Read the four IDX files of MNIST or Fashion-MNIST in `folder`, plain or .gz.

    Raises:
        UserError: if a file is missing, damaged, or not the original.
    """
    out = {key: _read_idx(folder, file, md5[file]) for key, file in IDX_FILES.items()}
    return out | {key: out[key][:, None] for key in ("x_train", "x_test")}


def cifar10_tar(path: Path, md5: str = CIFAR10_MD5) -> Arrays:
    """Read the original cifar-10-python.tar.gz.

    Its members are pickles: the archive's md5 is checked first, and only numpy arrays and plain containers are loaded.

    Raises:
        UserError: if the archive is not the original.
    """
    actual = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if actual != md5:
        raise UserError(f"{path} is not the original: its md5 is {actual}, not {md5}; download it again")
    batches = [f"cifar-10-batches-py/{name}" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")]
    with tarfile.open(path) as tar:
        pickles = [file.read() for name in batches if (file := tar.extractfile(name))]
    members = [_ArraysOnly(io.BytesIO(blob), encoding="bytes").load() for blob in pickles]
    images = [np.asarray(b[b"data"], np.uint8).reshape(-1, 3, 32, 32) for b in members]
    labels = [np.asarray(b[b"labels"], np.int64) for b in members]
    return {
        "x_train": np.concatenate(images[:-1]),
        "y_train": np.concatenate(labels[:-1]),
        "x_test": images[-1],
        "y_test": labels[-1],
    }


def decode_jpegs(packed: Arrays) -> Arrays:
    """Decode concatenated JPEG files with their offsets: `jpeg_train`, `offsets_train`, `y_train`, and those for test.

    Raises:
        UserError: if Pillow is not installed, or an image cannot be decoded.
    """
    require("images", "PIL")
    from PIL import Image

    def images(part: str) -> npt.NDArray[np.uint8]:
        data, ends = packed[f"jpeg_{part}"], packed[f"offsets_{part}"]
        files = (data[a:b].tobytes() for a, b in pairwise(ends))
        try:
            decoded = np.stack([np.asarray(Image.open(io.BytesIO(f)).convert("RGB")) for f in files])
        except (OSError, ValueError) as error:
            raise UserError(f"this JPEG copy of CIFAR-10 is damaged: {error}") from error
        return np.ascontiguousarray(decoded.transpose(0, 3, 1, 2))

    labels = {f"y_{part}": packed[f"y_{part}"].astype(np.int64) for part in ("train", "test")}
    return {"x_train": images("train"), "x_test": images("test"), **labels}


def windows(recordings: Arrays, length: int, step: int, test_subjects: Sequence[int]) -> Arrays:
    """Cut windows [n, channels, length] from recordings, one every `step` steps, split by person before cutting.

    Overlapping windows of one recording are therefore never in both the training and the test set. Each channel is
    standardised with the mean and standard deviation of the training people. `recordings` holds x float32
    [steps, channels], all recordings concatenated, and lengths, y and subject, one entry for each recording.

    Raises:
        UserError: if the arrays do not fit together, or the test people or the training people have no window.
    """
    lengths, y, subject = (recordings[key].astype(np.int64) for key in ("lengths", "y", "subject"))
    if not (
        recordings["x"].ndim == 2
        and lengths.ndim == 1
        and lengths.shape == y.shape == subject.shape
        and (lengths > 0).all()
        and lengths.sum() == len(recordings["x"])
    ):
        raise UserError(
            "recordings need x [steps, channels] with as many steps as the sum of lengths, and one y and subject each"
        )
    x = np.split(recordings["x"], np.cumsum(lengths)[:-1])
    test = np.isin(subject, test_subjects)
    for part, selected in (("test", test), ("training", ~test)):
        if not (lengths[selected] >= length).any():
            raise UserError(f"no recording of the {part} people is as long as a window of {length} steps")
    training = np.concatenate([r for r, t in zip(x, test, strict=True) if not t])
    mean, std = training.mean(0), training.std(0)

    def cut(selected: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], ...]:
        pieces, labels, people = [], [], []
        for i in np.flatnonzero(selected):
            starts = range(0, len(x[i]) - length + 1, step)
            pieces += [((x[i][s : s + length] - mean) / std).T for s in starts]
            labels += [y[i]] * len(starts)
            people += [subject[i]] * len(starts)
        return np.stack(pieces).astype(np.float32), np.array(labels), np.array(people)

    x_train, y_train, group = cut(~test)
    x_test, y_test, _ = cut(test)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, "group_train": group}


def convert_seglearn(pickled: Path, out: Path) -> None:
    """Convert seglearn's watch_dataset.npy to watch.npz; only arrays and plain containers of the pickle are loaded.

    Raises:
        UserError: if `pickled` is not that file.
    """
    try:
        with pickled.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            d = _ArraysOnly(file).load().item()
        if not {"X", "y", "subject"} <= d.keys():
            raise UserError(f"{pickled} lacks X, y or subject: it is not seglearn's watch_dataset.npy")
    except UserError:
        raise
    except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(f"{pickled} is not seglearn's watch_dataset.npy: {error}") from error
    lengths = np.array([len(x) for x in d["X"]], np.int64)
    np.savez_compressed(
        out,
        x=np.concatenate(list(d["X"])).astype(np.float32),
        lengths=lengths,
        y=np.asarray(d["y"], np.int8),
        subject=np.asarray(d["subject"], np.int64),
    )


def _read_idx(folder: Path, file: str, md5: str) -> npt.NDArray[np.uint8]:
    plain, packed = folder / file, folder / f"{file}.gz"
    try:
        data = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder} lacks {file} (or {file}.gz): download the data set again") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{packed} is damaged: {error}; download it again") from error
    actual = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise UserError(
            f"{file} in {folder} is not the original: its md5 is {actual}, not {md5}; delete it and download it again"
        )
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape).copy()


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that loads numpy arrays and plain containers and refuses everything else."""

    _ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype"})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in old pickle protocols
            return super().find_class(module, name)
        if module.partition(".")[0] == "numpy" and name in self._ALLOWED:
            return super().find_class("numpy._core.multiarray" if name == "_reconstruct" else "numpy", name)
        raise UserError(f"the file holds {module}.{name}, which is never loaded")
