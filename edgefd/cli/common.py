"""Arguments, options and consoles that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
MetricsPort = Annotated[
    int | None, typer.Option("--metrics", metavar="PORT", help="serve Prometheus metrics on 127.0.0.1:PORT")
]
