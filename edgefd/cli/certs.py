"""`edgefd certs`: certificates of a federation's coordinator and devices. See `edgefd_server.certs`."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from edgefd.core.errors import require

app = typer.Typer(no_args_is_help=True, help="Certificates of a federation's coordinator and devices.")

Folder = Annotated[Path, typer.Option("--certs", metavar="DIR", help="the folder that `init` made")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="of the device")]
Days = Annotated[int, typer.Option("--days", min=1, help="how long it is valid")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new folder")],
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="name or address by which devices reach the coordinator (repeat for more)"),
    ] = None,
    days: Days = 825,
) -> None:
    """Make a certificate authority, the coordinator's certificate and an empty allow-list.

    Example: edgefd certs init certs --host fleet.example.org --host 192.0.2.7
    """
    require("server", "cryptography")
    from edgefd_server import certs

    hosts = list(dict.fromkeys(["localhost", "127.0.0.1", socket.gethostname(), *(host or [])]))
    certs.init(folder, hosts, days)
    print(f"{folder}: a certificate authority, and a certificate for {', '.join(hosts)}")
    print("ca.key signs new devices: keep it safe; the coordinator does not need it")


@app.command()
def device(
    name: Name,
    client: Annotated[int, typer.Option("--client", metavar="N", help="which client of the federation it is")],
    folder: Folder = Path("certs"),
    days: Days = 825,
) -> None:
    """Make a device's certificate and enter it in the allow-list; a coordinator that runs notices.

    Example: edgefd certs device camera-3 --client 3
    """
    require("server", "cryptography")
    from edgefd_server import certs

    out = certs.add_device(folder, name, client, days)
    print(f"{out}: bring it to the device, for `edgefd-client run --certs`, and remove it here")


@app.command()
def node(
    name: Name,
    client: Annotated[int, typer.Option("--client", metavar="N", help="which client of the federation it is")],
    folder: Folder = Path("certs"),
) -> None:
    """Make the key of a Flower SuperNode and enter it in the allow-list; a coordinator that runs notices.

    Example: edgefd certs node gateway-1 --client 4
    """
    require("server", "cryptography")
    from edgefd_server import certs

    out = certs.add_node(folder, name, client)
    print(f"{out}: bring it to the device, for `flower-supernode --auth-supernode-private-key`, and remove it here")


@app.command()
def revoke(name: Name, folder: Folder = Path("certs")) -> None:
    """Shut a device out; a coordinator that runs notices.

    Example: edgefd certs revoke camera-3
    """
    require("server", "cryptography")
    from edgefd_server import certs

    certs.revoke(folder, name)
    print(f"{name}: revoked")


@app.command("list")
def list_devices(folder: Folder = Path("certs")) -> None:
    """List the devices of the allow-list.

    Example: edgefd certs list
    """
    require("server", "cryptography")
    from edgefd_server import certs

    for name, device in certs.read_devices(folder).items():
        valid = "SuperNode" if device.node_key else f"until {device.expires}"
        state = f"revoked {device.revoked}" if device.revoked else valid
        print(f"{name}  client {device.client}  {state}  sha256 {device.sha256[:16]}")
