import gzip
import hashlib
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from edgefd.data import datasets, formats
from edgefd.data.datasets import find_dataset, load_dataset
from edgefd.errors import UserError

SHARED = os.environ.get("EDGEFD_DATA")
MINI_SHA = "6fdbf52febc21fc5"
NUMBERS = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data but what a test puts there."""
    monkeypatch.delenv("EDGEFD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def arrays(**other: np.ndarray) -> dict[str, np.ndarray]:
    x = NUMBERS.integers(0, 255, (30, 8, 8), np.uint8)
    return {"x_train": x[:20], "y_train": np.arange(20) % 3, "x_test": x[20:], "y_test": np.arange(10) % 3} | other


def saved(folder: Path, **other: np.ndarray) -> str:
    path = folder / "mine.npz"
    np.savez(path, **arrays(**other))  # type: ignore[arg-type]
    return str(path)


def test_mnist_mini_is_what_it_says() -> None:
    d = load_dataset("mnist_mini")
    assert d.x_train.shape == (6000, 1, 28, 28)
    assert np.bincount(d.y_train).tolist() == [600] * 10
    assert np.bincount(d.y_test).tolist() == [100] * 10
    assert d.sha256.startswith(MINI_SHA)
    assert d.source == "packaged with edgefd"


def test_digits_are_whole_and_stratified() -> None:
    d = load_dataset("digits")
    assert len(d.x_train) + len(d.x_test) == 1797
    assert np.bincount(d.y_test).min() >= 34
    assert d.x_train.max() == 240


def test_a_users_npz(tmp_path: Path) -> None:
    d = load_dataset(saved(tmp_path, group_train=np.repeat([7, 3], 10)))
    assert d.x_train.shape == (20, 1, 8, 8)
    assert d.n_classes == 3
    assert d.group_train is not None
    assert d.group_train.tolist() == [1] * 10 + [0] * 10


def test_colour_images_become_channels_first(tmp_path: Path) -> None:
    x = NUMBERS.integers(0, 255, (30, 8, 9, 3), np.uint8)
    d = load_dataset(saved(tmp_path, x_train=x[:20], x_test=x[20:]))
    assert d.x_train.shape == (20, 3, 8, 9)
    assert d.x_train[2, 1, 4, 5] == x[2, 4, 5, 1]


def test_the_digest_is_of_the_data_not_of_the_file(tmp_path: Path) -> None:
    changed = arrays()
    np.savez(tmp_path / "mine.npz", **changed)  # type: ignore[arg-type]
    first = load_dataset(str(tmp_path / "mine.npz")).sha256
    np.savez_compressed(tmp_path / "mine.npz", **changed)  # type: ignore[arg-type]
    assert load_dataset(str(tmp_path / "mine.npz")).sha256 == first
    changed["x_test"] = changed["x_test"] + 1
    np.savez(tmp_path / "mine.npz", **changed)  # type: ignore[arg-type]
    assert load_dataset(str(tmp_path / "mine.npz")).sha256 != first


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"y_test": np.full(10, 3)}, "test labels among the training labels"),
        ({"y_train": np.full(20, -1)}, "whole numbers from 0"),
        ({"y_train": np.full(20, 0.5)}, "whole numbers from 0"),
        ({"y_train": np.zeros(20, int)}, "C of 2 or more"),
        ({"y_train": np.arange(19)}, "20 samples need 20 labels"),
        ({"x_train": np.full((20, 5), np.nan), "x_test": np.zeros((10, 5))}, "NaN"),
        ({"x_train": np.zeros((20, 5)), "x_test": np.full((10, 5), np.inf)}, "NaN or infinite"),
        ({"x_train": np.zeros((20, 5)), "x_test": np.zeros((10, 4))}, r"\[5\], test samples \[4\]"),
        ({"x_train": np.zeros((20, 5), int), "x_test": np.zeros((10, 5), int)}, "uint8 or floating"),
        ({"x_train": np.zeros(20), "x_test": np.zeros(10)}, "rows of samples"),
        ({"group_train": np.zeros(3)}, "3 group_train for 20"),
        ({"x_train": np.array([{}] * 20)}, "Python objects"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, other: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_dataset(saved(tmp_path, **other))


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path = Path(saved(tmp_path))
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="cannot read"):
            load_dataset(str(path))
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="cannot read"):
        load_dataset(str(path))
    np.savez(path, x_train=np.zeros(3))
    with pytest.raises(UserError, match="lacks y_train, x_test, y_test"):
        load_dataset(str(path))
    with pytest.raises(UserError, match="there is no file"):
        load_dataset(str(tmp_path / "none.npz"))


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    with pytest.raises(UserError, match="pickles"):
        load_dataset(saved(tmp_path, y_train=np.array([Bomb()] * 20)))
    assert not (tmp_path / "exploded").exists()


def test_unknown_and_missing_sets_say_what_to_do() -> None:
    with pytest.raises(UserError, match="did you mean 'mnist'"):
        load_dataset("mnits")
    with pytest.raises(UserError, match="edgefd datasets --download fashion_mnist, or set EDGEFD_DATA"):
        load_dataset("fashion_mnist")
    with pytest.raises(UserError, match="seglearn"):
        load_dataset("watch")
    assert find_dataset("mnist") is None


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    folder.mkdir(exist_ok=True)
    a = arrays()
    md5 = {}
    for key, file in formats.IDX_FILES.items():
        data = idx(a[key])
        md5[file] = hashlib.md5(data).hexdigest()
        (folder / (file + ".gz" if packed else file)).write_bytes(gzip.compress(data) if packed else data)
    monkeypatch.setattr(datasets, "MNIST_MD5", md5)
    monkeypatch.setitem(datasets._FILES, "mnist", [(f, datasets._idx(md5)) for f in datasets._FIRST_IDX])


@pytest.mark.parametrize("packed", [True, False])
def test_original_mnist_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    write_idx(tmp_path / "d", monkeypatch, packed)
    d = load_dataset("mnist", tmp_path / "d")
    assert d.x_train.shape == (20, 1, 8, 8)
    name = "t10k-labels-idx1-ubyte" + (".gz" if packed else "")
    (tmp_path / "d" / name).unlink()
    with pytest.raises(UserError, match="lacks t10k-labels"):
        load_dataset("mnist", tmp_path / "d")


def test_torn_and_foreign_idx_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "d", monkeypatch, packed=True)
    path = tmp_path / "d" / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(UserError, match="torn"):
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


def test_original_cifar_archive(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    md5 = write_cifar(path)
    a = formats.cifar10_tar(path, md5)
    assert a["x_train"].shape == (20, 3, 32, 32)
    assert a["y_test"].tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="not the original"):
        formats.cifar10_tar(path)


def test_a_cifar_archive_that_wants_more_than_arrays_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "cifar-10-python.tar.gz"
    md5 = write_cifar(path, {b"data": Bomb()})
    with pytest.raises(UserError, match="which is never loaded"):
        formats.cifar10_tar(path, md5)
    assert not (tmp_path / "exploded").exists()


def test_windows_never_cross_recordings_or_people() -> None:
    lengths = np.array([250, 130, 300])
    x = np.concatenate([np.full((n, 2), i, np.float32) for i, n in enumerate(lengths)])
    x += NUMBERS.normal(0, 0.01, x.shape)
    recordings = {"x": x, "lengths": lengths, "y": np.array([0, 1, 1]), "subject": np.array([1, 1, 9])}
    w = formats.windows(recordings, length=100, step=50, test_subjects=(9, 10))
    assert w["x_train"].shape == (4 + 1, 2, 100)
    assert w["x_test"].shape == (5, 2, 100)
    assert w["group_train"].tolist() == [1] * 5
    assert w["x_train"].std(2).max() < 0.2  # a window that crossed recordings would jump


@pytest.mark.skipif(SHARED is None, reason="EDGEFD_DATA is not set")
class TestRealData:
    def test_mnist_and_fashion_are_the_originals(self) -> None:
        for name, md5 in (("mnist", formats.MNIST_MD5), ("fashion_mnist", formats.FASHION_MNIST_MD5)):
            d = load_dataset(name, Path(str(SHARED)))
            for array, key in ((d.x_train[:, 0], "x_train"), (d.y_train, "y_train"), (d.x_test[:, 0], "x_test")):
                assert hashlib.md5(idx(array)).hexdigest() == md5[formats.IDX_FILES[key]]

    def test_mnist_mini_is_part_of_mnist(self) -> None:
        mini, whole = load_dataset("mnist_mini"), load_dataset("mnist", Path(str(SHARED)))
        for part in ("train", "test"):
            seen = {x.tobytes(): y for x, y in zip(*(getattr(whole, f"{v}_{part}") for v in "xy"), strict=True)}
            pairs = zip(*(getattr(mini, f"{v}_{part}") for v in "xy"), strict=True)
            assert all(seen.get(x.tobytes()) == y for x, y in pairs)

    def test_watch_is_split_by_person(self) -> None:
        d = load_dataset("watch", Path(str(SHARED)))
        assert d.x_train.shape[1:] == (6, 100)
        assert d.group_train is not None
        assert len(np.unique(d.group_train)) == 8
        assert d.n_classes == 7
        assert len(d.x_train) + len(d.x_test) == 4677
