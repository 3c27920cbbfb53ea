"""Paths that a user gives."""

from __future__ import annotations

import os
from pathlib import Path

from edgefd.core.errors import UserError


def user_path(text: str | os.PathLike[str]) -> Path:
    """Return the path that a user gives; `~` or `~name` at its start stands for a home folder.

    Raises:
        UserError: if that home folder is not known, or the path holds a null character.
    """
    path = Path(text)
    if "\0" in str(path):
        raise UserError(f"the path {str(path)!r} holds a null character: remove it")
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"the home folder in {path} is not known: write the whole path") from None
