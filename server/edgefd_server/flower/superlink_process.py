"""Process that runs Flower's `flower-superlink` behind safeguards.

Flower serves all its calls on one port and authenticates SuperNodes only: without these safeguards, anyone who reaches
the port could submit a run, which is code, or register a key. A web page could do it too: its name can resolve to this
machine (DNS rebinding). This process accepts those calls from this machine only, and only with the token of the process
that started it. SuperNodes may call from anywhere. No call may come from a web page. The process ends when its standard
input is closed, which happens when the process that started it ends for any reason.

`edgefd_server.flower.superlink` runs `python -m edgefd_server.flower.superlink_process` with the options of
`flower-superlink`. The safeguards use private hooks of Flower; tests check that the hooks still work.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
from flwr.superlink import extensions
from flwr.superlink.cli import flower_superlink
from starlette.middleware import Middleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgefd.core.addresses import host_of, ip_address, is_loopback
from edgefd.core.descriptors import file_limit, raise_file_limit
from edgefd_server.flower.superlink import TOKEN_HEADER, TOKEN_VARIABLE

SUPERNODE_PATHS = "/v1/fleet/"
"""prefix of the paths that SuperNodes call"""
RUNTIME_PATHS = "/v1/runtime/"
"""prefix of the paths that the processes of an app call; Flower requires a signature or a token in each of them"""
HEALTH_PATH, START_RUN_PATH = "/health", "/v1/control/start-run"
"""path that tells whether the SuperLink is ready; path of the call that submits a run"""
FIRST_REQUEST_SECONDS = 20.0
"""seconds within which a new connection must have sent a request"""
_SHUTDOWN_SECONDS = 5.0
_HOLD_SECONDS = 20.0  # a SuperNode closes its connection after 30 s

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


class Gate:
    """ASGI middleware that refuses all calls from other machines except those of SuperNodes, and calls of web pages.

    It holds the calls of SuperNodes until a run is submitted: a SuperNode that calls before its key is registered would
    end, and would not try again.

    Args:
        app: answers the calls that are not refused.
        token: is needed for all calls except those of SuperNodes, of the processes of an app and for health.
        host: the host that the SuperLink listens on, which a caller on this machine may name.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], token: str, host: str) -> None:
        self._app, self._token, self._host = app, token, host
        self._run_started = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, at once or after the run is submitted, or reply with 403 or 503."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif reason := self._reason_to_refuse(scope):
            await _reply(send, 403, f"{reason}\n".encode())
        elif scope["path"].startswith(SUPERNODE_PATHS):
            try:
                await asyncio.wait_for(self._run_started.wait(), _HOLD_SECONDS)
            except TimeoutError:
                await _reply(send, 503, b"no run has started yet: try again\n")  # a SuperNode does
            else:
                await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)
            if scope["path"] == START_RUN_PATH:
                self._run_started.set()

    def _reason_to_refuse(self, scope: Scope) -> str:
        """Return why a call is refused; "" if it is not."""
        path, local = scope["path"], is_local(scope)
        if _header(scope, b"origin") or _header(scope, b"sec-fetch-site"):
            return "this call comes from a web page, and no web page may make it"
        # Over TLS, the name is in the certificate, and no web page has one for a name of its own.
        if local and scope["scheme"] == "http" and not names_this_machine(_header(scope, b"host"), self._host):
            return "over plaintext on this machine, use localhost or an IP address, and no other name"
        if path.startswith(SUPERNODE_PATHS):
            return ""
        if not local:
            return "this call is allowed on the coordinator's machine only"
        if path == HEALTH_PATH or path.startswith(RUNTIME_PATHS):
            return ""
        if not hmac.compare_digest(_header(scope, TOKEN_HEADER.encode()), self._token):
            return "only `edgefd serve flower` may make this call: it has no valid token"
        return ""


def _header(scope: Scope, name: bytes) -> str:
    """Return the value of a header, in ASCII; "" without it, and "?" if the header is repeated."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("ascii", "replace").replace("\ufffd", "?") if len(values) == 1 else "?" * len(values)


def names_this_machine(host: str, own: str = "") -> bool:
    """Return whether the value of a header Host cannot be a name that another party lets resolve to this machine.

    It can be `own`, which is a name that the user of this machine has chosen.

    >>> [names_this_machine(h) for h in ("localhost:80", "127.0.0.1", "[::1]:9092", "192.0.2.7:9", "evil.test", "")]
    [True, True, True, True, False, False]
    """
    name = host_of(host)
    return ip_address(name) is not None or (bool(name) and name in ("localhost", own))


async def _reply(send: Send, status: int, line: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": line})


def is_local(scope: Scope) -> bool:
    """Return whether the call comes from this machine: over loopback, or from the same address that it is sent to."""
    client, server = scope.get("client"), scope.get("server")
    if not client or not server:
        return False
    host = str(client[0]).removeprefix("::ffff:")
    return is_loopback(host) or host == str(server[0]).removeprefix("::ffff:")


def end_with_stdin() -> None:
    """Wait until standard input is closed, then end this process."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SHUTDOWN_SECONDS)
    os._exit(1)  # open calls can keep the server from ending


class PunctualProtocol(H11Protocol):
    """Uvicorn's HTTP protocol, with a deadline for the first request of a connection. Uvicorn itself has none."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Implement `asyncio.Protocol`."""
        super().connection_made(transport)
        self._first = self.loop.call_later(FIRST_REQUEST_SECONDS, self._end_without_request)

    def _end_without_request(self) -> None:
        if self.cycle is None:  # no request has come
            self.transport.close()


def run_uvicorn(run: Callable[..., None], **options: Any) -> None:
    """Run Flower's server with limits; its log has no line for a request, not even for one that is not HTTP."""
    most = {"access_log": False, "log_level": "error", "http": PunctualProtocol, "limit_concurrency": file_limit() // 2}
    run(**(options | most))


if __name__ == "__main__":
    os.environ.pop("FORWARDED_ALLOW_IPS", None)  # with it, a caller could forge its own address
    raise_file_limit()
    access_token = os.environ.pop(TOKEN_VARIABLE)  # not for the processes that this one starts
    own_host = sys.argv[sys.argv.index("--host") + 1]
    extensions.get_middleware = lambda: (Middleware(Gate, token=access_token, host=own_host),)
    uvicorn.run = functools.partial(run_uvicorn, uvicorn.run)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    flower_superlink()
