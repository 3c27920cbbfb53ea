"""Start a Flower SuperLink, call it, and end it together with all processes that it has started.

Flower's command line could make the same calls, but needs 2 s for each. This module uses the client inside the command
line, which is private: therefore the extra `flower` allows only a narrow range of flwr versions.

Two secrets, which are new for each start, keep out web pages and other users of this machine. The calls of this module
have a token, which the SuperLink gets in its environment. The SuperExec, which runs the ServerApp, signs its calls with
the content of a file that only its owner can read.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from edgefd.core.addresses import Address
from edgefd.core.errors import RunError, UserError
from edgefd.core.files import os_errors, put
from edgefd.core.processes import FLOWER_QUIET, end, last_line, module_path
from edgefd.core.proxies import direct_to_this_machine
from edgefd_server.certs import plaintext_error
from edgefd_server.grpc_link.server import ListenAddress

APP = Path(__file__).parent / "app"
"""folder of the Flower app that is submitted; it holds only a pyproject.toml, and its code is the installed edgefd"""
TOKEN_HEADER, TOKEN_VARIABLE = "x-edgefd-token", "EDGEFD_SUPERLINK_TOKEN"
"""header of the calls of this module, and the environment variable of the SuperLink that holds the same token"""
START_SECONDS = 180.0  # while other processes used the cores, the start took more than 60 s
_LOG = "superlink.log"
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class SuperLinkAddress(ListenAddress):
    """Address on which the SuperLink listens, and its certificates."""

    OPTION: ClassVar[str] = "--superlink"

    @property
    def local(self) -> str:
        """Address for calls from this machine."""
        address = self.parsed
        return str(Address(_WILDCARDS.get(address.host, address.host), address.port))


@dataclass(eq=False)
class SuperLink:
    """A SuperLink that runs. Use `run_superlink` to start one."""

    address: SuperLinkAddress
    process: subprocess.Popen[bytes]
    log: Path
    token: str
    """is in every call of this module"""

    def register(self, keys: Iterable[bytes]) -> None:
        """Accept the SuperNodes with these public keys (PEM, NIST EC), and no others.

        Raises:
            RunError: if the SuperLink does not answer.
        """
        from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest

        accepted = set(keys)
        with self._control() as control:
            nodes = control.ListNodes(ListNodesRequest()).nodes_info
            registered = {n.public_key: n.node_id for n in nodes if n.status != "unregistered"}
            for key in accepted - set(registered):
                control.RegisterNode(RegisterNodeRequest(public_key=key))
            for key in set(registered) - accepted:
                control.UnregisterNode(UnregisterNodeRequest(node_id=registered[key]))

    def submit(self, settings: dict[str, str]) -> int:
        """Start a run of the app with the run config `settings`, and return Flower's number of the run.

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

        certs = self.address.certs
        os.environ.update(direct_to_this_machine())  # the client takes its proxies from the environment
        client = ControlHttpClient.from_server_address(
            server_address=self.address.local,
            insecure=certs is None,
            root_certificates=None if certs is None else (certs / "ca.pem").read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _WithToken(self.token)],
        )
        try:
            yield client
        except httpx.HTTPError as error:
            raise RunError(f"the SuperLink does not answer: {error} (see {self.log})") from error
        finally:
            client.close()


@dataclass(frozen=True)
class _WithToken:
    """An interceptor of Flower that adds the token to each call."""

    token: str

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        """Implement `flwr.supercore.protobuf.client.ProtobufClientInterceptor`."""
        context.request.headers[TOKEN_HEADER] = self.token
        return call_next(context)


def check_address(requested: SuperLinkAddress) -> SuperLinkAddress:
    """Check that a SuperLink can listen there, and return the address with a free port for port 0, and absolute paths.

    Raises:
        UserError: if it cannot listen there, a certificate is missing, or other machines could connect without TLS.
    """
    address, certs = requested.parsed, requested.certs
    if certs is None and not (requested.insecure or address.is_loopback):
        raise plaintext_error(requested.address)
    for path in [] if certs is None else [certs / name for name in ("server.pem", "server.key", "ca.pem")]:
        if not path.is_file():
            raise UserError(f"cannot read {path}: create it with `edgefd certs init`")
    family, where = socket.AF_INET6 if ":" in address.host else socket.AF_INET, (address.host, address.port)
    with os_errors(f"listen on {requested.address}"), socket.create_server(where, family=family) as listener:
        free = Address(address.host, listener.getsockname()[1])
    return replace(requested, address=str(free), certs=certs and certs.resolve())


@contextmanager
def run_superlink(address: SuperLinkAddress, work: Path, family: set[int]) -> Iterator[SuperLink]:
    """Run a SuperLink while the context lasts.

    Args:
        address: result of `check_address`.
        work: folder for its database, its log and Flower's own files; a database that exists already is used again.
        family: ids of the processes that the SuperLink has started. The caller adds them as they become known, and they
            are ended with the SuperLink.

    Raises:
        RunError: if the SuperLink does not start.
    """
    log, token, secret = work / _LOG, secrets.token_urlsafe(32), work / "home" / "superexec.secret"
    put(secret, secrets.token_bytes(32))
    options = _options(address, work, secret)
    command = [sys.executable, "-m", "edgefd_server.flower.superlink_process", *options]
    process = _started(command, work, subprocess.PIPE, {TOKEN_VARIABLE: token})
    try:
        _wait_until_ready(address, process, log)
        family.add(_start_superexec(address, work, secret, process.pid))
        yield SuperLink(address, process, log, token)
    finally:
        end(process, others=family)
        assert process.stdin is not None
        process.stdin.close()


def _start_superexec(address: SuperLinkAddress, work: Path, secret: Path, superlink: int) -> int:
    """Start the process that runs the ServerApp, and return its id. It ends with the SuperLink."""
    options = ["--runtime-api-address", address.local, "--superexec-auth-secret-file", str(secret.resolve())]
    options += ["--parent-pid", str(superlink)]
    certs = address.certs
    options += ["--insecure"] if certs is None else ["--root-certificates", str(certs / "ca.pem")]
    return _started([str(Path(sys.executable).parent / "flower-superexec"), *options], work, subprocess.DEVNULL, {}).pid


def _started(command: list[str], work: Path, stdin: int, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    environment = _environment(work) | variables
    with (work / _LOG).open("ab") as out:
        return subprocess.Popen(
            command, env=environment, stdin=stdin, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


def _options(address: SuperLinkAddress, work: Path, secret: Path) -> list[str]:
    host, port = address.parsed.host, address.parsed.port
    options = ["--host", host, "--port", str(port), "--database", str((work / "superlink.db").resolve())]
    options += ["--disable-runtime-dependency-installation"]
    options += ["--isolation", "process", "--superexec-auth-secret-file", str(secret.resolve())]
    if address.certs is None:
        return [*options, "--insecure"]
    files = {"--ssl-certfile": "server.pem", "--ssl-keyfile": "server.key", "--ssl-ca-certfile": "ca.pem"}
    tls = [text for flag, name in files.items() for text in (flag, str(address.certs / name))]
    return [*options, *tls, "--enable-supernode-auth"]


def _environment(work: Path) -> dict[str, str]:
    """Return the environment of the SuperLink.

    Flower finds its other commands through PATH, and the ServerApp finds its code through PYTHONPATH.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    variables = {"FLWR_HOME": str((work / "home").resolve()), "PATH": path, "PYTHONPATH": module_path()}
    # gRPC of the ServerApp would report every handshake that fails; other variables would open ports of Flower.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_INTERNAL_")}
    return {"GRPC_VERBOSITY": "ERROR"} | inherited | FLOWER_QUIET | direct_to_this_machine() | variables


def _wait_until_ready(address: SuperLinkAddress, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the SuperLink answers on its health address."""
    url = f"{'http' if address.certs is None else 'https'}://{address.local}/health"
    trusted = None if address.certs is None else ssl.create_default_context(cafile=str(address.certs / "ca.pem"))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted))
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    outcome = "did not answer" if process.poll() is None else f"ended (exit code {process.returncode})"
    raise RunError(f"the SuperLink {outcome}: {last_line(log)}")
