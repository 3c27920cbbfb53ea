"""Commands that coordinate devices: a federation's rounds, and the collection of its proxy set."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefd.cli.common import Certs, ConfigFile, MetricsPort, Out, Overrides, console
from edgefd.config.load import load_config
from edgefd.config.schema import Config
from edgefd.core.errors import UserError, require

Exchange = Annotated[
    Path | None,
    typer.Option("--exchange", metavar="DIR", help="serve devices through DIR, a new folder that they can access"),
]
Listen = Annotated[
    str | None,
    typer.Option("--listen", metavar="HOST:PORT", help="serve devices over gRPC (port 0: any free port)"),
]
Flower = Annotated[
    str | None,
    typer.Option("--flower", metavar="HOST:PORT", help="serve Flower SuperNodes, alone or together with --listen"),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="with --listen or --flower: allow plaintext beyond this machine")
]
Bundles = Annotated[
    list[Path] | None,
    typer.Option("--bundle", metavar="DIR", help="a bundle for devices to download; repeat it, one for each model"),
]
Status = Annotated[
    str | None,
    typer.Option("--status", metavar="[HOST:]PORT", help="serve a status page of the run (port 0: any free port)"),
]
Timeout = Annotated[float, typer.Option("--timeout", metavar="S", help="the longest time of a round, in seconds")]
Resume = Annotated[bool, typer.Option("--resume", help="resume the run in --exchange or --out, if there is one")]


def server(
    config: ConfigFile,
    overrides: Overrides = None,
    exchange: Exchange = None,
    listen: Listen = None,
    flower: Flower = None,
    certs: Certs = None,
    insecure: Insecure = False,
    bundle: Bundles = None,
    metrics: MetricsPort = None,
    status: Status = None,
    timeout: Timeout = 600,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Coordinate a federation of devices: `edgefd-client run` over gRPC or through a folder, or Flower SuperNodes.

    Example: edgefd server simulations/quickstart.yaml --listen 0.0.0.0:50051 --certs certs --bundle bundle
    """
    if not timeout > 0:
        raise UserError("--timeout must be above 0")
    if (exchange is None) == (listen is None and flower is None):
        raise UserError("give --listen HOST:PORT, --flower HOST:PORT or both, or --exchange DIR")
    loaded = load_config(config, overrides or [])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped service tells its devices, as Ctrl-C does
    if exchange is None:
        folder, summary = _serve_network(
            loaded, listen, flower, certs, insecure, bundle or [], metrics, status, timeout, out, resume
        )
    else:
        from edgefd_server.serve.folder import serve

        if certs is not None or insecure or bundle or metrics is not None:
            raise UserError("--certs, --insecure, --bundle and --metrics go with --listen or --flower")
        folder, summary = serve(loaded, exchange, timeout, out, resume, status)
    if (heldout := summary["heldout_accuracy_mean"]) is not None:
        console.print(f"final accuracy, mean over the clients' own held-out data: {heldout:.3f}", highlight=False)
    console.print(f"run folder: {folder}")


def _serve_network(
    config: Config,
    listen: str | None,
    flower: str | None,
    certs: Path | None,
    insecure: bool,
    bundles: list[Path],
    metrics: int | None,
    status: str | None,
    timeout: float,
    out: Path | None,
    resume: bool,
) -> tuple[Path, dict[str, Any]]:
    """Serve devices over gRPC, Flower SuperNodes, or both; return the run folder and the summary."""
    extra = "server" if flower is None else "flower"
    packages = ("grpc", "grpc_health", "cryptography", "prometheus_client")
    require(extra, *(() if flower is None else ("flwr",)), *packages)
    if bundles and listen is None:
        raise UserError("--bundle goes with --listen: SuperNodes have their own, see docs/guides/flower.md")
    from edgefd_server.grpc_link.server import ListenAddress
    from edgefd_server.serve.options import ServeOptions

    address = None if listen is None else ListenAddress(listen, certs, insecure)
    options = ServeOptions(address, bundles, metrics, timeout, status, certs)
    if flower is None:
        from edgefd_server.serve.grpc import serve_link

        return serve_link(config, options, out, resume)
    from edgefd_server.flower.serve import serve_flower
    from edgefd_server.flower.superlink import SuperLinkAddress

    return serve_flower(config, SuperLinkAddress(flower, certs, insecure), options, out, resume)


def collect(
    config: ConfigFile,
    listen: Annotated[
        str,
        typer.Option("--listen", metavar="HOST:PORT", help="the address for devices to call (port 0: any free port)"),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="the folder for contributions, and for proxy.npz at the end")
    ],
    overrides: Overrides = None,
    certs: Certs = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="allow plaintext beyond this machine")] = False,
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

    Example: edgefd collect config.yaml --listen 0.0.0.0:50051 --certs certs --out collected
    """
    if (deadline is not None and not deadline > 0) or (least is not None and deadline is None):
        raise UserError("--deadline must be above 0, and --least goes with it")
    require("server", "grpc", "grpc_health", "cryptography", "prometheus_client")
    from edgefd_server.grpc_link.server import ListenAddress
    from edgefd_server.proxy_collection.serve import Collecting
    from edgefd_server.proxy_collection.serve import collect as collect_contributions

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    loaded = load_config(config, overrides or [])
    options = Collecting(ListenAddress(listen, certs, insecure), most, deadline or math.inf, least, metrics)
    collected = collect_contributions(loaded, options, out)
    line = f"{collected.samples} raw private samples of {collected.clients} clients are in {collected.path}"
    console.print(f"{line}: every client of a federation that uses it sees them", highlight=False, soft_wrap=True)
    console.print(f"next: edgefd export CONFIG proxy.source=contributed proxy.path={collected.path}", soft_wrap=True)
