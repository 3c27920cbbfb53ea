"""The command that collects a proxy set from devices."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Annotated

import typer

from edgefd.cli.common import Certs, ConfigFile, Insecure, MetricsPort, Overrides, console, require_server
from edgefd.config.load import load_config
from edgefd.core.errors import UserError


def collect(
    config: ConfigFile,
    listen: Annotated[
        str,
        typer.Option("--listen", metavar="HOST:PORT", help="the address for devices to call (port 0: any free port)"),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="the folder for contributions, and for proxy.npz at the end")
    ],
    shape: Annotated[
        str, typer.Option("--shape", metavar="N,N,...", help="the shape of one raw sample, such as 1,28,28")
    ],
    dtype: Annotated[str, typer.Option("--dtype", help="the type of the values of a sample: uint8 or float32")],
    overrides: Overrides = None,
    clients: Annotated[
        int | None,
        typer.Option("--clients", metavar="N", help="the number of clients (default: partition.n_clients of CONFIG)"),
    ] = None,
    low: Annotated[
        float | None, typer.Option("--low", help="the smallest accepted value; needed with float32 (uint8: 0)")
    ] = None,
    high: Annotated[
        float | None, typer.Option("--high", help="the largest accepted value; needed with float32 (uint8: 255)")
    ] = None,
    certs: Certs = None,
    insecure: Insecure = False,
    deadline: Annotated[
        float | None,
        typer.Option("--deadline", metavar="S", help="wait at most S seconds for all clients (default: no limit)"),
    ] = None,
    least: Annotated[
        int | None,
        typer.Option(
            "--least", metavar="N", help="the clients that must have contributed at the deadline (default: all)"
        ),
    ] = None,
    most: Annotated[
        int, typer.Option("--most", metavar="N", min=1, help="the most samples that a client may contribute")
    ] = 10_000,
    metrics: MetricsPort = None,
) -> None:
    """Collect RAW private samples that devices contribute to the proxy set (`edgefd-client contribute`), before a run.

    Example: edgefd collect config.yaml --listen 0.0.0.0:50051 --certs certs --shape 1,28,28 --dtype uint8 --out proxy
    """
    if (deadline is not None and not deadline > 0) or (least is not None and deadline is None):
        raise UserError("--deadline must be above 0, and --least goes with it")
    require_server()
    from edgefd_server.grpc_link.server import ListenAddress
    from edgefd_server.proxy_collection.serve import Collecting, wanted_of
    from edgefd_server.proxy_collection.serve import collect as collect_contributions

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wanted = wanted_of(load_config(config, overrides or []), clients, shape, dtype, low, high)
    options = Collecting(ListenAddress(listen, certs, insecure), most, deadline or math.inf, least, metrics)
    collected = collect_contributions(wanted, options, out)
    line = f"{collected.samples} raw private samples of {collected.clients} clients are in {collected.path}"
    console.print(f"{line}: every client of a federation that uses it sees them", highlight=False, soft_wrap=True)
    console.print(f"next: edgefd export CONFIG proxy.source=contributed proxy.path={collected.path}", soft_wrap=True)
