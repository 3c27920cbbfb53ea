"""A user's own objects by name: "package.module:ATTRIBUTE", as configs name methods, models and partitions."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from edgefd.core.errors import UserError


def load_object(path: str, kind: str) -> Any:
    """Import the object that `path` ("package.module:ATTRIBUTE" or "file.py:ATTRIBUTE") names; errors call it a `kind`.

    A module is looked for among the installed ones and on PYTHONPATH, then in the folders of the configs that were read
    (`look_in`), then in the current folder. A file is looked for in these folders, and then where modules are: a
    process of a cluster runs in another folder, and has those of its driver on PYTHONPATH.

    Raises:
        UserError: if the path has another form, or the import fails.
    """
    module, _, attribute = path.rpartition(":")
    if not module or not attribute:
        raise UserError(f"{kind} {path!r} must look like package.module:ATTRIBUTE or file.py:ATTRIBUTE")
    look_in(Path())
    try:
        loaded = _load_file(module, kind) if module.endswith(".py") else importlib.import_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        missing = isinstance(error, ModuleNotFoundError) and module.startswith(str(error.name))
        where = f" (looked in {_looked_in()}, and on PYTHONPATH)" if missing else ""
        raise UserError(f"cannot load {kind} {path!r}: {one_line(error)}{where}") from error
    try:
        return getattr(loaded, attribute)
    except AttributeError as error:
        place = getattr(loaded, "__file__", None) or module
        raise UserError(f"cannot load {kind} {path!r}: {place} has no {attribute}: name another object") from error


def look_in(folder: Path) -> None:
    """Let modules that configs name be found in a folder, after all other places where Python looks."""
    if (text := str(folder.resolve())) not in sys.path:
        sys.path.append(text)
        _FOLDERS.append(text)


_FOLDERS: list[str] = []
"""folders that `look_in` added to sys.path"""


def _looked_in() -> str:
    return ", ".join(dict.fromkeys([*_FOLDERS, str(Path().resolve())]))


def _load_file(module: str, kind: str) -> ModuleType:
    """Import a file as a module of the name of the file, so that other processes can import its objects.

    Raises:
        UserError: if there is no such file, or Python knows another module of this name.
    """
    wanted = Path(module)
    places = [folder / wanted for folder in (Path(), *map(Path, reversed(_FOLDERS)), *map(Path, sys.path))]
    file = next((place.resolve() for place in places if place.is_file()), None)
    if file is None:
        raise UserError(f"there is no file {module} of {kind}: looked in {_looked_in()}")
    look_in(file.parent)
    loaded = importlib.import_module(file.stem)
    if Path(loaded.__file__ or "").resolve() != file:
        raise UserError(
            f"{kind} {module!r}: Python has another module {file.stem}, {loaded.__file__ or 'a built-in one'}: rename "
            "the file"
        )
    return loaded


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
