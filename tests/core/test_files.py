"""Files in folders in which others can write; what a failed command leaves; locks of files."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from edgefd.core.errors import UserError
from edgefd.core.files import (
    PRIVATE,
    SHARED,
    append,
    exclusive_lock,
    get,
    identities,
    make_folder,
    put,
    read,
    remove,
    removed_on_error,
    replacing,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file outside the folder that others can write."""
    path = tmp_path / "victim"
    path.write_text("untouched")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which others can write."""
    path = tmp_path / "folder"
    path.mkdir()
    return path


def link_to(target: Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def listening_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))  # a short path: the address of a socket has at most 108 bytes


NOT_FILES: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": link_to(Path("/dev/zero")),
    "socket": listening_socket,
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": link_to(Path("/absent")),
}


@pytest.mark.parametrize("kind", NOT_FILES)
def test_what_is_not_a_plain_file_is_never_read(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    path = folder / "report"
    NOT_FILES[kind](path)
    with pytest.raises(ValueError, match=r"^report is not a plain file$"):
        get(path, 100)
    with pytest.raises(UserError, match=r"^cannot read .*report: report is not a plain file: copy it again$"):
        read(path, 100, "copy it again")


def test_a_link_to_a_file_is_not_read_or_written(folder: Path, victim: Path) -> None:
    path = folder / "state"
    path.symlink_to(victim)
    with pytest.raises(ValueError, match="not a plain file"):
        get(path, 100)
    with pytest.raises(OSError, match="symbolic links"):
        append(path, b"more")
    put(path, b"new")  # replaces the link
    assert (path.read_text(), victim.read_text()) == ("new", "untouched")
    assert not path.is_symlink()


def test_links_to_folders_below_the_shared_one_are_not_followed(folder: Path, victim: Path) -> None:
    (folder / "rounds").symlink_to(victim.parent)
    for write in (
        lambda path: put(path, b"new", SHARED, folder),
        lambda path: remove(path, folder),
        lambda path: make_folder(path.with_name("made"), SHARED, folder),
        lambda path: get(path, 100, folder),
        lambda path: identities(path.parent, [path.name], folder),
    ):
        with pytest.raises(OSError, match="Not a directory"):
            write(folder / "rounds" / "victim")
    assert victim.read_text() == "untouched"
    assert {path.name for path in victim.parent.iterdir()} == {"victim", "folder"}


def test_prepared_links_at_the_names_of_temporary_files_do_nothing(folder: Path, victim: Path) -> None:
    for name in (".4.refused.part", "4.refused.part", f"4.refused.{os.getpid()}.part"):
        (folder / name).symlink_to(victim)
    put(folder / "4.refused", b"the reason")
    assert (folder / "4.refused").read_bytes() == b"the reason"
    assert victim.read_text() == "untouched"


def test_a_file_that_is_too_large_is_not_read(folder: Path) -> None:
    path = folder / "huge"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="huge is larger than 1000 bytes"):
        get(path, 1000)
    assert get(folder / "absent", 1000) is None
    path.write_bytes(b"x" * 1000)
    assert get(path, 1000) == b"x" * 1000


def test_a_file_that_changes_while_it_is_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "report"
    path.write_bytes(b"x" * 100)
    original = os.fdopen

    def grows(handle: int, *arguments: str) -> object:
        with path.open("ab") as file:
            file.write(b"y")
        return original(handle, *arguments)

    status = os.stat(path)
    states = iter([status, status, os.stat_result((*status[:6], 100, *status[7:9], status.st_mtime + 1))])
    monkeypatch.setattr(os, "fstat", lambda _: next(states))
    with pytest.raises(ValueError, match="report changed while it was read"):
        get(path, 1000)
    monkeypatch.undo()
    monkeypatch.setattr(os, "fstat", lambda _: status)
    monkeypatch.setattr(os, "fdopen", grows)
    with pytest.raises(ValueError, match="report changed while it was read"):
        get(path, 1000)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_private_files_are_for_their_owner_from_the_first_moment(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        put(tmp_path / "new" / "state" / "a", b"secret")
        append(tmp_path / "new" / "log", b"secret")
        put(tmp_path / "exchange" / "plan", b"", SHARED)
        with replacing(tmp_path / "new" / "b") as file:
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == PRIVATE
        with exclusive_lock(tmp_path / "locked" / "lock", "", ""):
            pass
    finally:
        os.umask(before)
    for path in ("new/state/a", "new/log", "new/b", "locked/lock"):
        assert mode(tmp_path / path) == 0o600
    for path in ("new", "new/state", "locked"):
        assert mode(tmp_path / path) == 0o700
    assert (mode(tmp_path / "exchange"), mode(tmp_path / "exchange" / "plan")) == (0o777 & ~umask, 0o666 & ~umask)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    put(tmp_path / "a", b"old")

    def fail() -> None:
        with replacing(tmp_path / "a") as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("error", [UserError("x"), OSError(28, "x"), KeyboardInterrupt(), SystemExit(0)])
def test_a_failure_removes_what_was_made_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "exchange").mkdir()
    (tmp_path / "exchange" / "mine").write_text("")
    (tmp_path / "old.html").write_text("old")
    before = sorted(tmp_path.rglob("*"))
    run, page = tmp_path / "runs" / "deep" / "run", tmp_path / "exchange" / "page.html"

    def fail() -> None:
        with removed_on_error(run, page, tmp_path / "exchange", tmp_path / "old.html"):
            put(run / "models" / "0.npz", b"")
            put(page, b"")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert sorted(tmp_path.rglob("*")) == before


def test_parents_that_others_use_by_now_and_results_are_kept(tmp_path: Path) -> None:
    def fail(*paths: Path, unless: Callable[[], bool]) -> None:
        with removed_on_error(paths[0], unless=unless):
            for path in paths:
                put(path / "x", b"")
            raise UserError("x")

    with pytest.raises(UserError):
        fail(tmp_path / "runs" / "a", tmp_path / "runs" / "b", unless=lambda: False)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["b"]
    with pytest.raises(UserError):
        fail(tmp_path / "c", unless=(tmp_path / "c" / "x").exists)
    assert (tmp_path / "c" / "x").exists()


def test_the_link_that_a_failure_leaves_is_removed_without_its_target(tmp_path: Path, victim: Path) -> None:
    def fail() -> None:
        with removed_on_error(tmp_path / "out"):
            (tmp_path / "out").symlink_to(victim.parent)
            raise UserError("x")

    with pytest.raises(UserError):
        fail()
    assert victim.exists()
    assert not (tmp_path / "out").is_symlink()


def test_a_locked_file_is_refused_until_the_lock_ends(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "lock"
    with (
        exclusive_lock(lock, "another process uses it", "cannot write it"),
        pytest.raises(UserError, match=r"^another process uses it$"),
        exclusive_lock(lock, "another process uses it", "cannot write it"),
    ):
        pass
    with exclusive_lock(lock, "another process uses it", "cannot write it"):
        pass


def test_a_file_that_cannot_be_opened_is_reported_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    for path, reason in ((tmp_path / "file" / "lock", "Not a directory|File exists"), (tmp_path / "link", "Too many")):
        with (
            pytest.raises(UserError, match=rf"^cannot write it: ({reason})"),
            exclusive_lock(path, "another process uses it", "cannot write it"),
        ):
            pass


def test_what_killed_processes_left_is_removed_with_the_next_lock(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        with replacing(tmp_path / "state.a"):
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".state.a.")
    with exclusive_lock(tmp_path / "lock", "", ""):
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_the_lock_ends_with_the_process(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    pid = os.fork()
    if pid == 0:
        exclusive_lock(lock, "", "").__enter__()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    with exclusive_lock(lock, "another process uses it", "cannot write it"):
        pass
