"""Options of a command, from the command line and from a YAML file with the same names."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefd.core.addresses import parse_address
from edgefd.core.errors import UserError, hint
from edgefd.core.paths import user_path
from edgefd.core.yaml_files import read_yaml

_TYPES = {
    int: (int, "a whole number"),
    bool: (bool, "true or false"),
    str: (str, "text"),
    Path: (str, "a path"),
}


@dataclass(frozen=True)
class DeviceOptions:
    """Options that `edgefd-client run` and `edgefd-client contribute` share."""

    server: str | None
    """HOST:PORT of the coordinator"""
    certs: Path | None
    """folder with ca.pem, device.pem and device.key; None = no TLS"""
    insecure: bool | None
    """allow a connection to another machine without TLS"""
    client: int | None
    """number of this client; None if its certificate determines it"""
    data: Path
    """private data"""
    state: Path
    """folder of the durable state"""
    give_up: int | None
    """seconds without an answer after which the command stops; None = the default"""

    def check(self) -> None:
        """Check the numbers and the address.

        Raises:
            UserError: if one is missing, out of range or malformed.
        """
        if self.server is not None:
            parse_address(self.server, "--server", least_port=1)
        if self.client is not None and self.client < 0:
            raise UserError(
                f"--client must be 0, 1, ...: the number of this client in the federation, not {self.client}"
            )
        if self.client is None and self.certs is None:
            raise UserError("--client must be given: the number of this client in the federation, 0, 1, ...")
        if self.give_up is not None and self.give_up < 1:
            raise UserError(f"--give-up must be at least 1 second, not {self.give_up}")


def with_user_paths(args: argparse.Namespace) -> argparse.Namespace:
    """Return arguments in whose paths `~` stands for the home folder.

    Raises:
        UserError: if that home folder is not known.
    """
    return argparse.Namespace(**{k: user_path(v) if isinstance(v, Path) else v for k, v in vars(args).items()})


def settings(
    options: Mapping[str, tuple[type, str]], args: argparse.Namespace, file: Path | None, optional: Collection[str] = ()
) -> dict[str, Any]:
    """Return the value of each option: from the command line, else from the file; None for an optional one in neither.

    Options have the names of the command line. In the result, an underscore replaces each dash of a name.

    Raises:
        UserError: if a required option is in neither, a key is not an option, or a value has the wrong type.
    """
    values = {} if file is None else read_options(options, file)
    values |= {name: value for name in options if (value := getattr(args, _python(name))) is not None}
    values |= {name: None for name in optional if name not in values}
    if missing := [f"--{name}" for name in options if name not in values]:
        raise UserError(f"{', '.join(missing)} must be given, on the command line or in --config FILE.yaml")
    return {_python(name): value for name, value in values.items()}


def _python(name: str) -> str:
    return name.replace("-", "_")


def read_options(options: Mapping[str, tuple[type, str]], file: Path) -> dict[str, Any]:
    """Read options from a YAML file. Its paths are relative to the working directory, as on the command line."""
    raw = read_yaml(file) or {}
    if not isinstance(raw, dict):
        raise UserError(f"{file} must hold options such as bundle: DIR")
    return {key: _value(key, value, options, file) for key, value in raw.items()}


def _value(key: object, value: object, options: Mapping[str, tuple[type, str]], file: Path) -> Any:
    if key not in options:
        raise UserError(f"{file}: unknown key {key!r}, {hint(str(key), options)}")
    kind = options[str(key)][0]
    yaml_type, description = _TYPES[kind]
    if type(value) is not yaml_type:
        raise UserError(f"{file}: {key} must be {description}, not {value!r}")
    return user_path(str(value)) if kind is Path else value
