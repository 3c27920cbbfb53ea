"""Data sets by name and from npz files."""

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.data import formats
from edgefd.data.datasets import find_dataset, load_dataset
from tests.support.data_files import RNG, arrays, idx, save_npz

SHARED = os.environ.get("EDGEFD_DATA")
MINI_SHA = "6fdbf52febc21fc5"


@pytest.fixture(autouse=True)
def no_data_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide all data sets except those that a test writes."""
    monkeypatch.delenv("EDGEFD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_mnist_mini_has_its_documented_size_and_digest() -> None:
    d = load_dataset("mnist_mini")
    assert d.x_train.shape == (6000, 1, 28, 28)
    assert np.bincount(d.y_train).tolist() == [600] * 10
    assert np.bincount(d.y_test).tolist() == [100] * 10
    assert d.sha256.startswith(MINI_SHA)
    assert d.source == "packaged with edgefd"


def test_digits_are_complete_and_stratified() -> None:
    d = load_dataset("digits")
    assert len(d.x_train) + len(d.x_test) == 1797
    assert np.bincount(d.y_test).min() >= 34
    assert d.x_train.max() == 240


def test_a_npz_file_of_a_user_is_loaded_with_its_groups(tmp_path: Path) -> None:
    d = load_dataset(save_npz(tmp_path, group_train=np.repeat([7, 3], 10)))
    assert d.x_train.shape == (20, 1, 8, 8)
    assert d.n_classes == 3
    assert d.group_train is not None
    assert d.group_train.tolist() == [1] * 10 + [0] * 10


def test_colour_images_are_converted_to_channels_first(tmp_path: Path) -> None:
    x = RNG.integers(0, 255, (30, 8, 9, 3), np.uint8)
    d = load_dataset(save_npz(tmp_path, x_train=x[:20], x_test=x[20:]))
    assert d.x_train.shape == (20, 3, 8, 9)
    assert d.x_train[2, 1, 4, 5] == x[2, 4, 5, 1]


def test_the_digest_depends_on_the_data_and_not_on_the_file(tmp_path: Path) -> None:
    changed = arrays()
    np.savez(tmp_path / "mine.npz", **changed)  # type: ignore[arg-type]
    first = load_dataset(str(tmp_path / "mine.npz")).sha256
    np.savez_compressed(tmp_path / "mine.npz", **changed)  # type: ignore[arg-type]
    assert load_dataset(str(tmp_path / "mine.npz")).sha256 == first
    changed["x_test"] = changed["x_test"] + 1
    np.savez(tmp_path / "mine.npz", **changed)  # type: ignore[arg-type]
    assert load_dataset(str(tmp_path / "mine.npz")).sha256 != first


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"y_test": np.full(10, 3)}, r"the test label 3 is not among the training labels, .* \(0, 1, 2\)"),
        ({"y_train": np.full(20, -1)}, r"1 value \(-1\): two or more classes"),
        ({"y_train": np.linspace(0, 1, 20)}, "20 values .* ids or measurements, not classes"),
        ({"y_train": np.zeros(20, int)}, r"1 value \(0\): two or more classes"),
        ({"y_train": np.arange(19)}, "20 samples need 20 labels"),
        ({"x_train": np.full((20, 5), np.nan), "x_test": np.zeros((10, 5))}, "NaN"),
        ({"x_train": np.zeros((20, 5)), "x_test": np.full((10, 5), np.inf)}, "NaN or infinite"),
        ({"x_train": np.zeros((20, 5)), "x_test": np.zeros((10, 4))}, r"\[5\], test samples float32 \[4\]"),
        ({"x_train": np.zeros((20, 5), int), "x_test": np.zeros((10, 5), int)}, "uint8 or floating"),
        ({"x_train": np.zeros(20), "x_test": np.zeros(10)}, "rows of samples"),
        ({"y_train": np.r_[np.inf, np.arange(19) % 3]}, r"label of sample 0 \(from 0\) is inf"),
        ({"y_train": np.r_[np.nan, np.arange(19) % 3]}, r"label of sample 0 \(from 0\) is nan"),
        ({"y_train": np.r_[np.uint64(2**63), (np.arange(19) % 3).astype(np.uint64)]}, "which names no class"),
        ({"y_train": np.array(["a"] * 19 + [" "])}, r"label of sample 19 \(from 0\) is .*, not a text"),
        ({"y_train": np.arange(20) * 10**9}, "ids or measurements, not classes"),
        ({"x_train": np.full((20, 5), 1e300), "x_test": np.zeros((10, 5))}, "too large for float32"),
        ({"x_train": np.zeros((20, 0)), "x_test": np.zeros((10, 0))}, "rows of samples"),
        ({"x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0)}, "rows of samples"),
        ({"group_train": np.zeros(3)}, "20 samples need 20 groups"),
        ({"group_train": np.zeros((20, 2))}, "20 samples need 20 groups"),
        ({"group_train": np.array(3)}, "20 samples need 20 groups"),
        ({"group_train": np.full(20, np.nan)}, "the group of sample 0"),
        ({"x_train": np.array([{}] * 20)}, "Python objects"),
        (
            {"x_test": np.full((10, 1, 8, 8), 0.5)},
            "x_test .* are uint8 from 0 to 2.., but these are float from",
        ),
        ({"x_test": np.full((10, 8, 8), 9, np.int64)}, r"x_test: .*not int64 from 9 to 9: save x\.astype\('uint8'\)"),
        (
            {"x_train": np.ones((20, 5)), "x_test": np.full((10, 5), 9, np.uint8)},
            "float32 .* these are uint8 from 9",
        ),
        (
            {"x_train": RNG.random((20, 5)), "x_test": RNG.random((10, 5)) * 255},
            "other units than x_train: column 0",
        ),
        (
            {"x_train": RNG.random((20, 5)) * 255, "x_test": RNG.random((10, 5))},
            "other units than x_train: column 0",
        ),
        (
            {"x_train": np.ones((20, 5), bool), "x_test": np.ones((10, 5), bool)},
            r"not bool .*save x\.astype\('uint8'\)",
        ),
        ({"x_train": np.ones((20, 5), complex)}, "uint8 or floating point, not complex128"),
        ({"y_train": np.eye(3)[np.arange(20) % 3]}, r"not an array of shape \[20, 3\]: .* give y\.argmax\(1\)"),
        ({"y_train": np.zeros((20, 0))}, r"20 labels, not an array of shape \[20, 0\]"),
        (
            {"x_test": np.ones((10, 8, 8), np.float32)},
            r"train samples are uint8 \[1, 8, 8\], test samples float32 \[8, 8\]: give both in the same kind and shape",
        ),
        ({"y_train": np.array(3)}, r"20 labels, not an array of shape \[\]"),
        ({"y_test": np.r_[np.full(9, 1.0), 1.5]}, r"test label 1\.5 is not among the training labels"),
        ({"y_train": np.array(["2026-01-01"] * 20, "datetime64[D]")}, "not datetime64"),
    ],
)
def test_malformed_arrays_are_refused(tmp_path: Path, other: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_dataset(save_npz(tmp_path, **other))


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", ">f8", "<f8"])
def test_floats_of_any_size_and_byte_order_are_the_same_samples(tmp_path: Path, dtype: str) -> None:
    x = np.round(RNG.normal(size=(30, 5)) * 8) / 8  # exact in all these types
    for part in (x.astype(np.float32), x.astype(dtype)):
        d = load_dataset(save_npz(tmp_path, x_train=part[:20], x_test=part[20:]))
        assert d.x_train.dtype == np.dtype("=f4")
        np.testing.assert_array_equal(d.x_test, x[20:])


@pytest.mark.parametrize(
    "y",
    [
        np.arange(20, dtype=">i8") % 2,
        np.arange(20) % 2 == 1,
        np.arange(20) % 2.0,
        (np.arange(20) % 2)[:, None],
        np.arange(20, dtype=np.uint8) % 2,
    ],
)
def test_labels_in_other_forms_are_the_same_labels(tmp_path: Path, y: np.ndarray) -> None:
    d = load_dataset(save_npz(tmp_path, y_train=y, y_test=y[:10]))
    assert d.y_train.dtype == np.dtype("=i8")
    assert d.y_train.tolist() == [0, 1] * 10


def test_damaged_or_foreign_npz_files_are_refused(tmp_path: Path) -> None:
    path = Path(save_npz(tmp_path))
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
    with pytest.raises(UserError, match="lacks y_train: it must hold"):
        load_dataset(str(path))
    with pytest.raises(UserError, match="there is no file"):
        load_dataset(str(tmp_path / "none.npz"))
    path.write_text("neither a zip nor a pickle")
    with pytest.raises(UserError, match="not a whole npz file"):
        load_dataset(str(path))
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="not a whole npz file"):
        load_dataset(str(path))


def test_a_damaged_npz_directory_raises_nothing_but_user_errors(tmp_path: Path) -> None:
    path = Path(save_npz(tmp_path))
    whole = path.read_bytes()
    directory = whole.rindex(b"PK\x01\x02")  # of the last member: version, flags and method follow
    for at in range(directory, directory + 46):
        damaged = bytearray(whole)
        damaged[at] ^= 255
        path.write_bytes(damaged)
        with suppress(UserError):
            load_dataset(str(path))
    damaged = bytearray(whole)
    damaged[directory + 10] = 99  # an unknown method of compression
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="not a whole npz file"):
        load_dataset(str(path))


def test_a_pickle_in_an_npz_file_is_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    with pytest.raises(UserError, match="pickles"):
        load_dataset(save_npz(tmp_path, y_train=np.array([Bomb()] * 20)))
    assert not (tmp_path / "exploded").exists()


def test_errors_of_unknown_and_missing_data_sets_name_the_remedy() -> None:
    with pytest.raises(UserError, match="did you mean 'mnist'"):
        load_dataset("mnits")
    with pytest.raises(UserError, match="edgefd datasets --download fashion_mnist, or set EDGEFD_DATA"):
        load_dataset("fashion_mnist")
    with pytest.raises(UserError, match="seglearn"):
        load_dataset("watch")
    assert find_dataset("mnist") is None


def test_digits_without_scikit_learn_name_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        load_dataset("digits")


def test_the_given_folder_is_searched_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, given = tmp_path / "cache" / "edgefd" / "mnist", tmp_path / "given"
    for folder in (cache, given):
        folder.mkdir(parents=True)
        np.savez(folder / "mnist.npz", **arrays())  # type: ignore[arg-type]
    assert load_dataset("mnist").source == str(cache / "mnist.npz")
    monkeypatch.setenv("EDGEFD_DATA", str(given))
    assert load_dataset("mnist").source == str(given / "mnist.npz")
    monkeypatch.setenv("EDGEFD_DATA", str(tmp_path / "nothing"))
    assert load_dataset("mnist", given).source == str(given / "mnist.npz")


@pytest.mark.skipif(SHARED is None, reason="EDGEFD_DATA is not set")
def test_mnist_and_fashion_mnist_are_the_originals() -> None:
    for name, md5 in (("mnist", formats.MNIST_MD5), ("fashion_mnist", formats.FASHION_MNIST_MD5)):
        d = load_dataset(name, Path(str(SHARED)))
        for array, key in ((d.x_train[:, 0], "x_train"), (d.y_train, "y_train"), (d.x_test[:, 0], "x_test")):
            assert hashlib.md5(idx(array)).hexdigest() == md5[formats.IDX_FILES[key]]


@pytest.mark.skipif(SHARED is None, reason="EDGEFD_DATA is not set")
def test_mnist_mini_is_part_of_mnist() -> None:
    mini, whole = load_dataset("mnist_mini"), load_dataset("mnist", Path(str(SHARED)))
    for part in ("train", "test"):
        seen = {x.tobytes(): y for x, y in zip(*(getattr(whole, f"{v}_{part}") for v in "xy"), strict=True)}
        pairs = zip(*(getattr(mini, f"{v}_{part}") for v in "xy"), strict=True)
        assert all(seen.get(x.tobytes()) == y for x, y in pairs)
