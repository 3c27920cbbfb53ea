"""The cache: private, bounded, and computed again where a file is damaged or another process removed it."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.data import cache
from edgefd.data.cache import cache_folder, cached_arrays


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder("features")


def values(key: int) -> dict[str, np.ndarray]:
    return {"features": np.full((10, 10), key, np.float32)}


def refuse() -> dict[str, np.ndarray]:
    raise AssertionError("it is computed although it is in the cache")


def test_arrays_are_computed_once_and_private(folder: Path) -> None:
    before = os.umask(0)
    try:
        cached_arrays("features", "a", lambda: values(1))
    finally:
        os.umask(before)
    assert np.array_equal(cached_arrays("features", "a", refuse)["features"], values(1)["features"])
    assert (folder.stat().st_mode & 0o777, (folder / "a.npz").stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "link", "folder"])
def test_a_damaged_file_is_computed_again(folder: Path, damage: str, tmp_path: Path) -> None:
    cached_arrays("features", "a", lambda: values(1))
    path = folder / "a.npz"
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 1
    path.unlink()
    if damage == "link":
        (tmp_path / "victim").write_bytes(b"untouched")
        path.symlink_to(tmp_path / "victim")
    elif damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"truncated": blob[:100], "flipped": blob, "emptied": b""}[damage])
    if damage == "folder":
        with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
            cached_arrays("features", "a", lambda: values(2))
        return
    assert np.array_equal(cached_arrays("features", "a", lambda: values(2))["features"], values(2)["features"])
    assert np.array_equal(cached_arrays("features", "a", refuse)["features"], values(2)["features"])
    assert damage != "link" or (tmp_path / "victim").read_bytes() == b"untouched"


def test_the_oldest_files_go_first_and_the_newest_one_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_arrays("features", "0", lambda: values(0))
    monkeypatch.setattr(cache, "MAX_BYTES", 3 * (folder / "0.npz").stat().st_size)
    for key in range(1, 6):
        if key > 2:
            cached_arrays("features", "1", refuse)  # what is read counts as new
        cached_arrays("features", str(key), lambda key=key: values(key))
        for i, path in enumerate(sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, (i, i))  # on a coarse clock, all files could have the same time
    assert {path.name for path in folder.iterdir()} == {"1.npz", "4.npz", "5.npz"}
    monkeypatch.setattr(cache, "MAX_BYTES", 10)
    cached_arrays("features", "large", lambda: values(9))
    assert [path.name for path in folder.iterdir()] == ["large.npz"]


def test_threads_that_share_a_small_cache_all_get_their_arrays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 1000)

    def work(start: int) -> bool:
        keys = [(start + i) % 5 for i in range(30)]
        found = [cached_arrays("features", str(key), lambda key=key: values(key))["features"] for key in keys]
        return all((array == key).all() for key, array in zip(keys, found, strict=True))

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(work, range(6)))
    assert all(path.suffix == ".npz" for path in folder.iterdir())


def test_what_a_killed_process_left_is_removed_after_a_day(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_arrays("features", "0", lambda: values(0))
    for name, age in ((".1.npz.x.part", 0), (".2.npz.x.part", 90_000)):
        (folder / name).write_bytes(b"x" * 1000)
        os.utime(folder / name, (time.time() - age,) * 2)
    monkeypatch.setattr(cache, "MAX_BYTES", 10)
    cached_arrays("features", "3", lambda: values(3))
    assert {path.name for path in folder.iterdir()} == {".1.npz.x.part", "3.npz"}
