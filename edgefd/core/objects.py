"""A user's own objects by name: "package.module:attribute", as configs name methods, models and partitions."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from edgefd.core.errors import UserError


def load_object(path: str, kind: str) -> Any:
    """Import the object that `path` ("package.module:attribute") names; errors call it a `kind`.

    Raises:
        UserError: if the path has another form, or the import fails.
    """
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise UserError(f"{kind} {path!r} must look like package.module:ATTRIBUTE")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise UserError(f"cannot load {kind} {path!r}: {one_line(error)}") from error


def importable_name(value: object, *owners: object) -> str | None:
    """Return "package.module:attribute" if another process can import the object by it, otherwise None.

    The object is looked up in its module, and in the modules of `owners`. The main script and the cells of a notebook
    cannot be imported.
    """
    for owner in (value, *owners):
        module = sys.modules.get(str(getattr(owner, "__module__", None)))
        if module is None or module.__name__ == "__main__":
            continue
        for attribute, other in vars(module).items():
            if other is value:
                return f"{module.__name__}:{attribute}"
    return None


def one_line(error: BaseException) -> str:
    """Return the kind and the message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
