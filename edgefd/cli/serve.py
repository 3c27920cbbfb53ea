"""Command group `edgefd serve`: coordinate the rounds of a federation of devices, over gRPC, a folder or Flower."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefd.cli.common import (
    Certs,
    CommandGroup,
    ConfigFile,
    Insecure,
    MetricsPort,
    Out,
    Overrides,
    console,
    require_server,
)
from edgefd.config.load import load_config
from edgefd.core.errors import require

if TYPE_CHECKING:
    from edgefd_server.coordinator.open_run import RunRequest

app = CommandGroup(
    no_args_is_help=True,
    help="Coordinate a federation of devices. The coordinator needs the config and the bundles, but no data set.",
)

Listen = Annotated[
    str, typer.Option("--listen", metavar="HOST:PORT", help="the address for devices to call (port 0: any free port)")
]
AlsoListen = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="also serve devices (`edgefd-client run`) over gRPC")
]
SuperLink = Annotated[
    str,
    typer.Option("--superlink", metavar="HOST:PORT", help="the address for SuperNodes to call (port 0: any free port)"),
]
Exchange = Annotated[Path, typer.Argument(metavar="DIR", help="a new folder that the devices can access")]
Bundles = Annotated[
    list[Path] | None,
    typer.Option("--bundle", metavar="BUNDLE", help="the bundle of the devices: required, once for each model"),
]
ProxyLabels = Annotated[
    Path | None,
    typer.Option("--proxy-labels", metavar="FILE", help="an npz with the labels y of the proxy samples, for metrics"),
]
Status = Annotated[
    str | None,
    typer.Option("--status", metavar="[HOST:]PORT", help="serve a status page of the run (port 0: any free port)"),
]
Timeout = Annotated[float, typer.Option("--timeout", metavar="S", help="the longest time of a round, in seconds")]
Resume = Annotated[bool, typer.Option("--resume", help="resume the run in --out, if there is one")]


@app.command()
def grpc(
    config: ConfigFile,
    listen: Listen,
    overrides: Overrides = None,
    bundle: Bundles = None,
    proxy_labels: ProxyLabels = None,
    certs: Certs = None,
    insecure: Insecure = False,
    metrics: MetricsPort = None,
    status: Status = None,
    timeout: Timeout = 600,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Coordinate devices (`edgefd-client run`) over gRPC; they can download their bundle.

    Example: edgefd serve grpc simulations/quickstart.yaml --listen 0.0.0.0:50051 --certs certs --bundle bundle
    """
    require_server()
    from edgefd_server.grpc_link.server import ListenAddress
    from edgefd_server.serve.coordinator import ServeOptions
    from edgefd_server.serve.grpc import serve_grpc

    options = ServeOptions(timeout, status, metrics)
    request = _request(config, overrides, bundle, proxy_labels, out, resume)
    _print_result(*serve_grpc(request, ListenAddress(listen, certs, insecure), options))


@app.command()
def folder(
    config: ConfigFile,
    exchange: Exchange,
    overrides: Overrides = None,
    bundle: Bundles = None,
    proxy_labels: ProxyLabels = None,
    status: Status = None,
    timeout: Timeout = 600,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Coordinate devices (`edgefd-client run`) through a folder, such as one on a network file system.

    Example: edgefd serve folder simulations/quickstart.yaml exchange --bundle bundle
    """
    require_server()
    from edgefd_server.serve.coordinator import ServeOptions
    from edgefd_server.serve.folder import serve_folder

    options = ServeOptions(timeout, status)
    request = _request(config, overrides, bundle, proxy_labels, out, resume)
    _print_result(*serve_folder(request, exchange, options))


@app.command()
def flower(
    config: ConfigFile,
    superlink: SuperLink,
    overrides: Overrides = None,
    listen: AlsoListen = None,
    bundle: Bundles = None,
    proxy_labels: ProxyLabels = None,
    certs: Certs = None,
    insecure: Insecure = False,
    metrics: MetricsPort = None,
    status: Status = None,
    timeout: Timeout = 600,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Coordinate Flower SuperNodes, with --listen also devices over gRPC. The command starts its own SuperLink.

    Example: edgefd serve flower simulations/quickstart.yaml --superlink 0.0.0.0:9092 --certs certs --bundle bundle
    """
    require("flower", "flwr")
    require_server()
    from edgefd_server.flower.serve import serve_flower
    from edgefd_server.flower.superlink import SuperLinkAddress
    from edgefd_server.serve.coordinator import ServeOptions

    options = ServeOptions(timeout, status, metrics)
    request = _request(config, overrides, bundle, proxy_labels, out, resume)
    _print_result(*serve_flower(request, SuperLinkAddress(superlink, certs, insecure), options, listen))


def _request(
    config: Path,
    overrides: list[str] | None,
    bundles: list[Path] | None,
    proxy_labels: Path | None,
    out: Path | None,
    resume: bool,
) -> RunRequest:
    from edgefd_server.coordinator.open_run import RunRequest

    loaded = load_config(config, overrides or [])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped service tells its devices, as Ctrl-C does
    return RunRequest(loaded, bundles or [], proxy_labels, out, resume)


def _print_result(folder: Path, summary: dict[str, Any]) -> None:
    if (heldout := summary["heldout_accuracy_mean"]) is not None:
        console.print(f"final accuracy, mean over the clients' own held-out data: {heldout:.3f}", highlight=False)
    elif summary["epsilon_claimed"] is not None:
        console.print("accuracy: not sent by the clients, because no noise of their defence covers it", highlight=False)
    console.print(f"run folder: {folder}")
