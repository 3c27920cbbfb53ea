"""Locks of files."""

import os
from pathlib import Path

import pytest

from edgefd.core.errors import UserError
from edgefd.core.files import exclusive_lock


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
    with (
        pytest.raises(UserError, match=r"^cannot write it: (Not a directory|File exists)$"),
        exclusive_lock(tmp_path / "file" / "lock", "another process uses it", "cannot write it"),
    ):
        pass


def test_the_lock_ends_with_the_process(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    pid = os.fork()
    if pid == 0:
        exclusive_lock(lock, "", "").__enter__()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    with exclusive_lock(lock, "another process uses it", "cannot write it"):
        pass
