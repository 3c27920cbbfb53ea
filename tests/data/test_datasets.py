import gzip
import hashlib
import io
import os
import pickle
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.data import datasets, formats
from edgefd.data.datasets import find_dataset, load_dataset

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
        ({"y_train": np.r_[np.inf, np.arange(19) % 3]}, "whole numbers from 0"),
        ({"y_train": np.r_[np.nan, np.arange(19) % 3]}, "whole numbers from 0"),
        ({"y_train": np.r_[np.uint64(2**63), (np.arange(19) % 3).astype(np.uint64)]}, "whole numbers from 0"),
        ({"y_train": np.array(["a"] * 20)}, "whole numbers from 0, not <U1"),
        ({"y_train": np.r_[10**9, np.arange(19) % 3]}, "C of 2 or more"),
        ({"x_train": np.full((20, 5), 1e300), "x_test": np.zeros((10, 5))}, "too large for float32"),
        ({"x_train": np.zeros((20, 0)), "x_test": np.zeros((10, 0))}, "rows of samples"),
        ({"x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0)}, "rows of samples"),
        ({"group_train": np.zeros(3)}, "a group for each of 20"),
        ({"group_train": np.zeros((20, 2))}, "a group for each of 20"),
        ({"group_train": np.array(3)}, "a group for each of 20"),
        ({"group_train": np.full(20, np.nan)}, "a group for each of 20"),
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
    path.write_text("neither a zip nor a pickle")
    with pytest.raises(UserError, match="not a whole npz file"):
        load_dataset(str(path))
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="not a whole npz file"):
        load_dataset(str(path))


def test_no_damage_gets_past_as_another_error(tmp_path: Path) -> None:
    path = Path(saved(tmp_path))
    whole = path.read_bytes()
    directory = whole.rindex(b"PK\x01\x02")  # of the last member: version, flags and method follow
    for at in range(directory, directory + 46):
        damaged = bytearray(whole)
        damaged[at] ^= 255
        path.write_bytes(damaged)
        with suppress(UserError):
            load_dataset(str(path))
    damaged = bytearray(whole)
    damaged[directory + 10] = 99  # a method of compression that there is not
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="not a whole npz file"):
        load_dataset(str(path))


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


def recordings(**other: np.ndarray) -> dict[str, np.ndarray]:
    x = NUMBERS.normal(0, 1, (400, 2)).astype(np.float32)
    people = {"lengths": np.array([150, 100, 150]), "y": np.array([0, 1, 1]), "subject": np.array([1, 2, 9])}
    return {"x": x} | people | other


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"lengths": np.array([150, 100, 149])}, "as many steps as the sum of lengths"),
        ({"lengths": np.array([150, 100, 151])}, "as many steps as the sum of lengths"),
        ({"lengths": np.array([500, -200, 100])}, "as many steps as the sum of lengths"),
        ({"y": np.array([0])}, "as many steps as the sum of lengths"),
        ({"x": np.zeros(400, np.float32)}, "as many steps as the sum of lengths"),
        ({"subject": np.array([1, 2, 3])}, "no recording of the test people"),
        ({"subject": np.array([9, 8, 9])}, "no recording of the training people"),
        ({"lengths": np.array([150, 151, 99])}, "no recording of the test people is as long as a window of 100"),
    ],
)
def test_recordings_that_do_not_fit_are_refused(tmp_path: Path, other: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "watch.npz", **recordings(**other))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=says):
        load_dataset("watch", tmp_path)


def test_watch_is_standardised_with_the_training_people(tmp_path: Path) -> None:
    x = recordings()["x"] * 3 + 5
    x[250:] += 100  # the test person moves otherwise
    np.savez(tmp_path / "watch.npz", **recordings(x=x))  # type: ignore[arg-type]
    d = load_dataset("watch", tmp_path)
    expected = (x[:100] - x[:250].mean(0)) / x[:250].std(0)
    np.testing.assert_allclose(d.x_train[0], expected.T, rtol=1e-4, atol=1e-5)
    assert d.x_test.mean() > 10


def test_people_are_the_test_in_turn(tmp_path: Path) -> None:
    np.savez(tmp_path / "watch.npz", **recordings())  # type: ignore[arg-type]
    d = load_dataset("watch", tmp_path, test_people=[2])
    assert (len(d.x_train), len(d.x_test), d.y_test.tolist()) == (4, 1, [1])
    assert d.group_train is not None
    assert d.group_train.tolist() == [0, 0, 1, 1]  # people 1 and 9
    assert d.sha256 != load_dataset("watch", tmp_path).sha256


@pytest.mark.parametrize(
    ("name", "people", "says"),
    [
        ("watch", [2, 3], r"test_people must be among \[1, 2, 9\], not \[2, 3\]"),
        ("watch", [1, 2, 9], "no recording of the training people"),
        ("mnist_mini", [1], "data.test_people is for watch only, mnist_mini has its own test set"),
    ],
)
def test_people_that_cannot_be_the_test_are_refused(tmp_path: Path, name: str, people: list[int], says: str) -> None:
    np.savez(tmp_path / "watch.npz", **recordings())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=says):
        load_dataset(name, tmp_path, test_people=people)


def seglearn(path: Path, content: object) -> Path:
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    return path


def test_seglearn_is_converted_without_trusting_it(tmp_path: Path) -> None:
    r = recordings()
    content = {"X": np.split(r["x"], [150, 250]), "y": r["y"], "subject": r["subject"], "X_labels": ["a", "b"]}
    formats.convert_seglearn(seglearn(tmp_path / "w.npy", content), tmp_path / "watch.npz")
    with np.load(tmp_path / "watch.npz", allow_pickle=False) as z:
        assert all(np.array_equal(z[key], r[key]) for key in r)
    assert len(load_dataset("watch", tmp_path).x_test) == 2

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    with pytest.raises(UserError, match="which is never loaded"):
        formats.convert_seglearn(seglearn(tmp_path / "w.npy", {"X": Bomb()}), tmp_path / "out.npz")
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(UserError, match="lacks X, y or subject"):
        formats.convert_seglearn(seglearn(tmp_path / "w.npy", {"X": 1}), tmp_path / "out.npz")
    for wrong in (b"", b"no array", (tmp_path / "w.npy").read_bytes()[:-3]):
        (tmp_path / "w.npy").write_bytes(wrong)
        with pytest.raises(UserError, match="is not seglearn's"):
            formats.convert_seglearn(tmp_path / "w.npy", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def write_jpegs(folder: Path, spoil: bool = False) -> np.ndarray:
    """A small cifar10_jpeg.npz; the grey of each of its images."""
    image = pytest.importorskip("PIL.Image")
    grey = np.arange(8) * 30
    files = []
    for level in grey:
        out = io.BytesIO()
        image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(out, "JPEG", quality=95)
        files.append(b"spoilt" if spoil else out.getvalue())
    packed = {}
    for part, chosen in (("train", files[:6]), ("test", files[6:])):
        packed[f"jpeg_{part}"] = np.frombuffer(b"".join(chosen), np.uint8)
        packed[f"offsets_{part}"] = np.cumsum([0, *map(len, chosen)])
        packed[f"y_{part}"] = np.arange(len(chosen)) % 2
    np.savez(folder / "cifar10_jpeg.npz", **packed)
    return grey


def test_the_jpeg_copy_of_cifar_is_decoded_once_and_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = write_jpegs(tmp_path)
    d = load_dataset("cifar10", tmp_path)
    assert d.name == "CIFAR-10 (JPEG re-encoded)"
    assert d.x_train.shape == (6, 3, 32, 32)
    assert np.abs(np.concatenate([d.x_train, d.x_test]).mean((1, 2, 3)) - grey).max() < 3
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert load_dataset("cifar10", tmp_path).sha256 == d.sha256  # from the cache, without Pillow
    for kept in (tmp_path / "cache" / "edgefd" / "cifar10_jpeg").iterdir():
        kept.unlink()
    with pytest.raises(UserError, match="pip install pillow"):
        load_dataset("cifar10", tmp_path)


def test_spoilt_jpegs_are_refused_and_not_kept(tmp_path: Path) -> None:
    write_jpegs(tmp_path, spoil=True)
    with pytest.raises(UserError, match="torn"):
        load_dataset("cifar10", tmp_path)
    np.savez(tmp_path / "cifar10_jpeg.npz", jpeg_train=np.zeros(3))
    with pytest.raises(UserError, match="lacks offsets_train, y_train, jpeg_test, offsets_test, y_test"):
        load_dataset("cifar10", tmp_path)
    assert not list((tmp_path / "cache").rglob("*.npz"))


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    write_jpegs(tmp_path)
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot write the decoded images"):
        load_dataset("cifar10", tmp_path)


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        load_dataset("digits")


def test_the_given_folder_goes_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

    def test_those_who_moved_alike_are_the_test_of_watch_together(self) -> None:
        with np.load(Path(str(SHARED)) / "watch.npz", allow_pickle=False) as z:
            lengths = np.zeros((10, 7, 2))
            lengths[z["subject"] - 1, z["y"], z["side"].astype(int)] = z["lengths"]
        log = np.log(lengths.reshape(10, 14))
        apart = np.abs(log[:, None] - log).mean(2) + np.eye(10)
        assert (apart.argmin(1) + 1).tolist() == [2, 1, 4, 3, 6, 5, 10, 9, 8, 7]
        assert apart.min(1).max() < 0.07 < 0.09 < np.sort(apart, 1)[:, 1].min()
        assert datasets.WATCH_TEST == (8, 9)
