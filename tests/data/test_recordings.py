"""Recordings of people: windows, the data set watch, and its conversion from seglearn."""

import os
from pathlib import Path

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.data import formats
from edgefd.data.datasets import Source, load_dataset
from edgefd.data.sources import named
from tests.support.data_files import RNG

SHARED = os.environ.get("EDGEFD_DATA")


@pytest.fixture(autouse=True)
def no_data_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide all data sets except those that a test writes."""
    monkeypatch.delenv("EDGEFD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def recordings(**other: np.ndarray) -> dict[str, np.ndarray]:
    x = RNG.normal(0, 1, (400, 2)).astype(np.float32)
    people = {"lengths": np.array([150, 100, 150]), "y": np.array([0, 1, 1]), "subject": np.array([1, 2, 9])}
    return {"x": x} | people | other


def test_a_window_never_crosses_recordings_or_people() -> None:
    lengths = np.array([250, 130, 300])
    x = np.concatenate([np.full((n, 2), i, np.float32) for i, n in enumerate(lengths)])
    x += RNG.normal(0, 0.01, x.shape)
    recordings = {"x": x, "lengths": lengths, "y": np.array([0, 1, 1]), "subject": np.array([1, 1, 9])}
    w = formats.windows(recordings, length=100, step=50, test_subjects=(9, 10))
    assert w["x_train"].shape == (4 + 1, 2, 100)
    assert w["x_test"].shape == (5, 2, 100)
    assert w["group_train"].tolist() == [1] * 5
    assert w["x_train"].std(2).max() < 0.2  # a window that crossed recordings would jump


@pytest.mark.parametrize(
    ("other", "message"),
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
def test_inconsistent_recordings_are_refused(tmp_path: Path, other: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "watch.npz", **recordings(**other))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        load_dataset("watch", tmp_path)


def test_watch_is_standardised_with_the_training_people(tmp_path: Path) -> None:
    x = recordings()["x"] * 3 + 5
    x[250:] += 100  # the test person has another offset
    np.savez(tmp_path / "watch.npz", **recordings(x=x))  # type: ignore[arg-type]
    d = load_dataset("watch", tmp_path)
    expected = (x[:100] - x[:250].mean(0)) / x[:250].std(0)
    np.testing.assert_allclose(d.x_train[0], expected.T, rtol=1e-4, atol=1e-5)
    assert d.x_test.mean() > 10


def test_the_chosen_people_form_the_test_set_of_watch(tmp_path: Path) -> None:
    np.savez(tmp_path / "watch.npz", **recordings())  # type: ignore[arg-type]
    d = load_dataset(Source("watch", test_people=(2,)), tmp_path)
    assert (len(d.x_train), len(d.x_test), d.y_test.tolist()) == (4, 1, [1])
    assert d.group_train is not None
    assert d.group_train.tolist() == [0, 0, 1, 1]  # people 1 and 9
    assert d.sha256 != load_dataset("watch", tmp_path).sha256


@pytest.mark.parametrize(
    ("name", "people", "message"),
    [
        ("watch", [2, 3], r"test_people must be among \[1, 2, 9\], not \[2, 3\]"),
        ("watch", [1, 2, 9], "no recording of the training people"),
        ("mnist_mini", [1], "data.test_people is not for data sets such as mnist_mini: remove it"),
    ],
)
def test_people_that_cannot_form_a_test_set_are_refused(
    tmp_path: Path, name: str, people: list[int], message: str
) -> None:
    np.savez(tmp_path / "watch.npz", **recordings())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        load_dataset(Source(name, test_people=people), tmp_path)


def seglearn(path: Path, content: object) -> Path:
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    return path


def test_the_seglearn_file_is_converted_and_other_pickles_are_refused(tmp_path: Path) -> None:
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


@pytest.mark.skipif(SHARED is None, reason="EDGEFD_DATA is not set")
def test_watch_is_split_by_person() -> None:
    d = load_dataset("watch", Path(str(SHARED)))
    assert d.x_train.shape[1:] == (6, 100)
    assert d.group_train is not None
    assert len(np.unique(d.group_train)) == 8
    assert d.n_classes == 7
    assert len(d.x_train) + len(d.x_test) == 4677


@pytest.mark.skipif(SHARED is None, reason="EDGEFD_DATA is not set")
def test_the_default_test_people_of_watch_are_a_pair_with_similar_motion() -> None:
    with np.load(Path(str(SHARED)) / "watch.npz", allow_pickle=False) as z:
        lengths = np.zeros((10, 7, 2))
        lengths[z["subject"] - 1, z["y"], z["side"].astype(int)] = z["lengths"]
    log = np.log(lengths.reshape(10, 14))
    distance = np.abs(log[:, None] - log).mean(2) + np.eye(10)
    assert (distance.argmin(1) + 1).tolist() == [2, 1, 4, 3, 6, 5, 10, 9, 8, 7]
    assert distance.min(1).max() < 0.07 < 0.09 < np.sort(distance, 1)[:, 1].min()
    assert named.WATCH_TEST == (8, 9)
