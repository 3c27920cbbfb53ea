"""Options of a command from its line and from a YAML file with the same names."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from edgefd.core.errors import UserError, hint

_KINDS = {
    int: (int, "a whole number"),
    bool: (bool, "true or false"),
    str: (str, "text"),
    Path: (str, "a path"),
}


def settings(
    options: Mapping[str, tuple[type, str]],
    args: argparse.Namespace,
    file: Path | None,
    optional: Collection[str] = (),
) -> dict[str, Any]:
    """The value of each option: from the command line, or else from the file; None for an optional one in neither.

    Options are named as on the command line; in what is found, a name has an underscore for a dash.

    Raises:
        UserError: for an option that neither gives, a key that is no option, or a value of the wrong kind.
    """
    found = {} if file is None else read_options(options, file)
    found |= {name: value for name in options if (value := getattr(args, _python(name))) is not None}
    found |= {name: None for name in optional if name not in found}
    if missing := [f"--{name}" for name in options if name not in found]:
        raise UserError(f"{', '.join(missing)} must be given, on the command line or in --config FILE.yaml")
    return {_python(name): value for name, value in found.items()}


def _python(name: str) -> str:
    return name.replace("-", "_")


def read_options(options: Mapping[str, tuple[type, str]], file: Path) -> dict[str, Any]:
    """What a YAML file says. Paths in it are as on the command line, relative to the working directory."""
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{file} must hold options such as bundle: DIR")
    return {key: _value(key, value, options, file) for key, value in raw.items()}


def _value(key: object, value: object, options: Mapping[str, tuple[type, str]], file: Path) -> Any:
    if key not in options:
        raise UserError(f"{file}: unknown key {key!r}, {hint(str(key), options)}")
    kind = options[str(key)][0]
    wanted, called = _KINDS[kind]
    if type(value) is not wanted:
        raise UserError(f"{file}: {key} must be {called}, not {value!r}")
    return kind(value)
