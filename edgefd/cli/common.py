"""Arguments, options and consoles that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from edgefd.core.errors import require
from edgefd.core.paths import user_path
from edgefd.core.terminal import safe_console

Command = TypeVar("Command", bound=Callable[..., Any])

console = safe_console()
errors = safe_console(stderr=True, soft_wrap=True)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file, such as simulations/quickstart.yaml")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="settings that replace those of CONFIG, such as method.quantile=0.9"),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="the run folder (default: runs/<id>)")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders, or folders that contain run folders")]
Certs = Annotated[
    Path | None, typer.Option("--certs", metavar="DIR", help="the folder that `edgefd certs init` created")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="allow plaintext beyond this machine")]
MetricsPort = Annotated[
    int | None, typer.Option("--metrics", metavar="PORT", help="serve Prometheus metrics on 127.0.0.1:PORT")
]


class CommandGroup(typer.Typer):
    """A group of commands, in whose paths `~` stands for the home folder."""

    def command(self, *arguments: Any, **options: Any) -> Callable[[Command], Command]:
        """Register a command."""
        register = super().command(*arguments, **options)

        def decorate(command: Command) -> Command:
            register(_with_user_paths(command))
            return command

        return decorate


def _with_user_paths(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        return command(**{name: _expanded(value) for name, value in arguments.items()})

    return run


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return user_path(value) if isinstance(value, Path) else value


def require_simulation() -> None:
    """Check that the packages of a simulation are installed: torch and those for estimators and statistics.

    Raises:
        UserError: if one is missing.
    """
    require("sim", "torch", "numba", "safetensors", "sklearn", "scipy")


def require_server() -> None:
    """Check that the packages of a coordinator are installed.

    Raises:
        UserError: if one is missing.
    """
    require("server", "grpc", "grpc_health", "cryptography", "prometheus_client")
