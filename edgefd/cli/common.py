"""Arguments, options and consoles that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edgefd.core.errors import require

console = Console()
errors = Console(stderr=True, soft_wrap=True)

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


def require_simulation() -> None:
    """Check that the packages of a simulation are installed: torch and those for estimators and statistics.

    Raises:
        UserError: if one is missing.
    """
    require("sim", "torch", "numba", "sklearn", "scipy")


def require_server() -> None:
    """Check that the packages of a coordinator are installed.

    Raises:
        UserError: if one is missing.
    """
    require("server", "grpc", "grpc_health", "cryptography", "prometheus_client")
