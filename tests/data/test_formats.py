"""Readers of the original files of MNIST and CIFAR-10."""

import gzip
import hashlib
import io
import os
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.data import formats
from edgefd.data.datasets import load_dataset
from edgefd.data.sources import named
from tests.support.data_files import arrays, idx


@pytest.fixture(autouse=True)
def no_data_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide all data sets except those that a test writes."""
    monkeypatch.delenv("EDGEFD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_idx(folder: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    folder.mkdir(exist_ok=True)
    a = arrays()
    md5 = {}
    for key, file in formats.IDX_FILES.items():
        data = idx(a[key])
        md5[file] = hashlib.md5(data).hexdigest()
        (folder / (file + ".gz" if packed else file)).write_bytes(gzip.compress(data) if packed else data)
    monkeypatch.setitem(named._FILES, "mnist", [(f, named._idx(md5)) for f in named._FIRST_IDX])


@pytest.mark.parametrize("packed", [True, False])
def test_the_original_mnist_files_are_read_plain_and_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    write_idx(tmp_path / "d", monkeypatch, packed)
    d = load_dataset("mnist", tmp_path / "d")
    assert d.x_train.shape == (20, 1, 8, 8)
    name = "t10k-labels-idx1-ubyte" + (".gz" if packed else "")
    (tmp_path / "d" / name).unlink()
    with pytest.raises(UserError, match="lacks t10k-labels"):
        load_dataset("mnist", tmp_path / "d")


def test_damaged_and_foreign_idx_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "d", monkeypatch, packed=True)
    path = tmp_path / "d" / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(UserError, match="damaged"):
        load_dataset("mnist", tmp_path / "d")
    path.write_bytes(gzip.compress(idx(np.zeros((20, 8, 8)))))
    with pytest.raises(UserError, match="not the original"):
        load_dataset("mnist", tmp_path / "d")


def write_cifar(path: Path, content: object = None) -> str:
    batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 3]}
    with tarfile.open(path, "w:gz") as tar:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            file = path.with_name(name)
            file.write_bytes(pickle.dumps(content or batch, protocol=2))
            tar.add(file, f"cifar-10-batches-py/{name}")
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_the_original_cifar_archive_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    md5 = write_cifar(path)
    a = formats.cifar10_tar(path, md5)
    assert a["x_train"].shape == (20, 3, 32, 32)
    assert a["y_test"].tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="not the original"):
        formats.cifar10_tar(path)


def test_a_cifar_archive_with_other_objects_than_arrays_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "cifar-10-python.tar.gz"
    md5 = write_cifar(path, {b"data": Bomb()})
    with pytest.raises(UserError, match="which is never loaded"):
        formats.cifar10_tar(path, md5)
    assert not (tmp_path / "exploded").exists()


def write_jpegs(folder: Path, damaged: bool = False) -> np.ndarray:
    """Write a small cifar10_jpeg.npz; return the grey level of each of its images."""
    image = pytest.importorskip("PIL.Image")
    grey = np.arange(8) * 30
    files = []
    for level in grey:
        out = io.BytesIO()
        image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(out, "JPEG", quality=95)
        files.append(b"damaged" if damaged else out.getvalue())
    packed = {}
    for part, chosen in (("train", files[:6]), ("test", files[6:])):
        packed[f"jpeg_{part}"] = np.frombuffer(b"".join(chosen), np.uint8)
        packed[f"offsets_{part}"] = np.cumsum([0, *map(len, chosen)])
        packed[f"y_{part}"] = np.arange(len(chosen)) % 2
    np.savez(folder / "cifar10_jpeg.npz", **packed)
    return grey


def test_the_jpeg_copy_of_cifar_is_decoded_once_and_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = write_jpegs(tmp_path)
    d = load_dataset("cifar10", tmp_path)
    assert d.name == "CIFAR-10 (JPEG re-encoded)"
    assert d.x_train.shape == (6, 3, 32, 32)
    assert np.abs(np.concatenate([d.x_train, d.x_test]).mean((1, 2, 3)) - grey).max() < 3
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert load_dataset("cifar10", tmp_path).sha256 == d.sha256  # from the cache, without Pillow
    for cached in (tmp_path / "cache" / "edgefd" / "cifar10_jpeg").iterdir():
        cached.unlink()
    with pytest.raises(UserError, match=r"pip install .edgefd\[images\]"):
        load_dataset("cifar10", tmp_path)


def test_damaged_jpegs_are_refused_and_not_cached(tmp_path: Path) -> None:
    write_jpegs(tmp_path, damaged=True)
    with pytest.raises(UserError, match="damaged"):
        load_dataset("cifar10", tmp_path)
    np.savez(tmp_path / "cifar10_jpeg.npz", jpeg_train=np.zeros(3))
    with pytest.raises(UserError, match="lacks offsets_train, y_train, jpeg_test, offsets_test, y_test"):
        load_dataset("cifar10", tmp_path)
    assert not list((tmp_path / "cache").rglob("*.npz"))


def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    write_jpegs(tmp_path)
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        load_dataset("cifar10", tmp_path)
