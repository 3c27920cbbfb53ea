"""A SuperLink of our own: started, asked, and ended with everything that it has started.

Flower's command line would do the asking too, at 2 s a call; this module uses the client inside it, which is private:
hence the narrow bound of flwr in the extra `flower`.
"""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefd.core.errors import RunError, UserError
from edgefd.core.processes import FLOWER_QUIET, end, last_line
from edgefd.wire.device_link import is_loopback

APP = Path(__file__).parent / "app"
"""the Flower app that is submitted: a pyproject.toml; its code is the installed edgefd"""
START_SECONDS = 180.0  # where other processes wanted its cores, it took more than 60
_ANY = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


@dataclass(frozen=True)
class SuperLinkAddress:
    """Where SuperNodes call, and with which certificates. Without, nothing is encrypted and nobody proves who he is."""

    address: str
    """HOST:PORT"""
    certs: Path | None
    insecure: bool = False

    @property
    def near(self) -> str:
        """The address for calls from this machine."""
        host, _, port = self.address.rpartition(":")
        return f"{_ANY.get(host, host)}:{port}"


@dataclass(eq=False)
class SuperLink:
    """One that runs. Use `started`."""

    fleet: SuperLinkAddress
    process: subprocess.Popen[bytes]
    log: Path

    def register(self, keys: Iterable[bytes]) -> None:
        """Let the SuperNodes with those public keys (PEM, NIST EC) in, and no others.

        Raises:
            RunError: if the SuperLink does not answer.
        """
        from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest

        wanted = set(keys)
        with self._control() as control:
            nodes = control.ListNodes(ListNodesRequest()).nodes_info
            there = {n.public_key: n.node_id for n in nodes if n.status != "unregistered"}
            for key in wanted - set(there):
                control.RegisterNode(RegisterNodeRequest(public_key=key))
            for key in set(there) - wanted:
                control.UnregisterNode(UnregisterNodeRequest(node_id=there[key]))

    def submit(self, settings: dict[str, str]) -> int:
        """Start a run of the app with that run config: Flower's number for it.

        Raises:
            RunError: if the SuperLink does not answer.
        """
        from flwr.cli.build import build_fab_from_disk
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        built = build_fab_from_disk(APP)
        fab = fab_to_proto(Fab(hashlib.sha256(built).hexdigest(), built, {}))
        with self._control() as control:
            reply = control.StartRun(StartRunRequest(fab=fab, override_config=user_config_to_proto(dict(settings))))
        return int(reply.run_id)

    @contextmanager
    def _control(self) -> Iterator[Any]:
        import httpx
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        certs = self.fleet.certs
        client = ControlHttpClient.from_server_address(
            server_address=self.fleet.near,
            insecure=certs is None,
            root_certificates=None if certs is None else (certs / "ca.pem").read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )
        try:
            yield client
        except httpx.HTTPError as error:
            raise RunError(f"the SuperLink does not answer: {error} (see {self.log})") from error
        finally:
            client.close()


def checked(fleet: SuperLinkAddress) -> SuperLinkAddress:
    """Where a SuperLink can listen; port 0 becomes a free one.

    Raises:
        UserError: if it cannot, certificates are missing, or it would be plaintext beyond this machine.
    """
    host, _, port = fleet.address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"--flower {fleet.address}: must be HOST:PORT, such as 0.0.0.0:9092 (port 0: any)")
    if fleet.certs is None and not (fleet.insecure or is_loopback(fleet.address)):
        raise UserError(
            f"without --certs everybody can read and answer what passes at {fleet.address}: "
            "give --certs DIR (`edgefd certs init` makes one), or --insecure to have it so"
        )
    for name in () if fleet.certs is None else ("server.pem", "server.key", "ca.pem"):
        if not (fleet.certs / name).is_file():  # type: ignore[operator]
            raise UserError(f"cannot read {fleet.certs}/{name}; `edgefd certs init` makes it")
    try:
        with socket.create_server((host.strip("[]"), int(port)), family=_family(host)) as free:
            return SuperLinkAddress(f"{host}:{free.getsockname()[1]}", fleet.certs, fleet.insecure)
    except OSError as error:
        raise UserError(f"cannot listen on {fleet.address}: {error.strerror}") from error


@contextmanager
def started(fleet: SuperLinkAddress, work: Path, family: set[int]) -> Iterator[SuperLink]:
    """A SuperLink that listens while the context lasts, with its database, log and Flower's own files in `work`.

    Args:
        fleet: from `checked`.
        work: a folder; a database that is there already is used again.
        family: of processes that the SuperLink has started, as they become known: they are ended with it.

    Raises:
        RunError: if it does not start.
    """
    log = work / "superlink.log"
    (work / "home").mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgefd_server.flower.superlink_process", *_options(fleet, work)],
            env=_environment(work),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(fleet, process, log)
        yield SuperLink(fleet, process, log)
    finally:
        end(process, others=family)
        assert process.stdin is not None
        process.stdin.close()


def _options(fleet: SuperLinkAddress, work: Path) -> list[str]:
    host, _, port = fleet.address.rpartition(":")
    options = ["--host", host.strip("[]"), "--port", port, "--database", str((work / "superlink.db").resolve())]
    options += ["--disable-runtime-dependency-installation"]
    if fleet.certs is None:
        return [*options, "--insecure"]
    files = {"--ssl-certfile": "server.pem", "--ssl-keyfile": "server.key", "--ssl-ca-certfile": "ca.pem"}
    tls = [text for flag, name in files.items() for text in (flag, str((fleet.certs / name).resolve()))]
    return [*options, *tls, "--enable-supernode-auth"]


def _environment(work: Path) -> dict[str, str]:
    """Flower finds its other commands by name, and the ServerApp its code by PYTHONPATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = {"FLWR_HOME": str((work / "home").resolve()), "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    return os.environ | FLOWER_QUIET | found


def _wait(fleet: SuperLinkAddress, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers."""
    url = f"{'http' if fleet.certs is None else 'https'}://{fleet.near}/health"
    trusted = None if fleet.certs is None else ssl.create_default_context(cafile=str(fleet.certs / "ca.pem"))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted))
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    ended = "did not answer" if process.poll() is None else f"ended (exit code {process.returncode})"
    raise RunError(f"the SuperLink {ended}: {last_line(log)} (see {log})")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if host.startswith("[") else socket.AF_INET
