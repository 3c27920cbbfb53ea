"""Command group `edgefd certs`: the certificates of a federation's coordinator and devices (`edgefd_server.certs`)."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from edgefd.cli.common import CommandGroup
from edgefd.core.errors import require
from edgefd.core.text import escaped

app = CommandGroup(no_args_is_help=True, help="Manage the certificates of a federation's coordinator and devices.")

Folder = Annotated[Path, typer.Option("--certs", metavar="DIR", help="the folder that `edgefd certs init` created")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="the name of the device")]
Client = Annotated[int, typer.Option("--client", metavar="N", help="the number of the device's client, from 0")]
Days = Annotated[int, typer.Option("--days", min=1, help="the validity of the certificate, in days")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new folder")],
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="a host name or address of the coordinator, as devices call it (repeatable)"),
    ] = None,
    days: Days = 825,
) -> None:
    """Create a certificate authority, the coordinator's certificate and an empty allow-list.

    Example: edgefd certs init certs --host fleet.example.org --host 192.0.2.7
    """
    require("server", "cryptography")
    from edgefd_server import certs

    hosts = list(dict.fromkeys(["localhost", "127.0.0.1", socket.gethostname(), *(host or [])]))
    certs.init(folder, hosts, days)
    print(f"{folder}: a certificate authority, and a certificate for {', '.join(hosts)}")
    print("ca.key signs the certificates of new devices: keep it secret; the coordinator does not need it")


@app.command()
def device(
    name: Name,
    client: Client,
    folder: Folder = Path("certs"),
    days: Days = 825,
) -> None:
    """Create a device's certificate and add it to the allow-list. A running coordinator applies the change.

    Example: edgefd certs device camera-3 --client 3
    """
    require("server", "cryptography")
    from edgefd_server import certs

    out = certs.add_device(folder, name, client, days)
    print(f"{out}: move this folder to the device, for `edgefd-client run --certs`, and delete it here")


@app.command()
def node(
    name: Name,
    client: Client,
    folder: Folder = Path("certs"),
) -> None:
    """Create the key of a Flower SuperNode and add it to the allow-list. A running coordinator applies the change.

    Example: edgefd certs node gateway-1 --client 4
    """
    require("server", "cryptography")
    from edgefd_server import certs

    out = certs.add_node(folder, name, client)
    print(
        f"{out}: move this folder to the device, for `flower-supernode --auth-supernode-private-key`, "
        "and delete it here"
    )


@app.command()
def revoke(name: Name, folder: Folder = Path("certs")) -> None:
    """Revoke the certificate or key of a device. A running coordinator applies the change.

    Example: edgefd certs revoke camera-3
    """
    require("server", "cryptography")
    from edgefd_server import certs

    certs.revoke(folder, name)
    print(f"{name}: revoked")


@app.command("list")
def list_devices(folder: Folder = Path("certs")) -> None:
    """List the devices of the allow-list, and mark certificates that have expired or expire within 30 days.

    Example: edgefd certs list
    """
    require("server", "cryptography")
    from edgefd_server import certs

    for name, device in certs.read_devices(folder).items():
        valid = "SuperNode" if device.node_key else f"until {device.expires}{certs.expiry_mark(device)}"
        state = f"revoked {device.revoked}" if device.revoked else valid
        print(escaped(f"{name}  client {device.client}  {state}  sha256 {device.sha256[:16]}"))
