"""Process that runs Flower's `flower-superlink` behind two safeguards.

Flower serves all its calls on one port and authenticates SuperNodes only: without these safeguards, anyone who reaches
the port could submit a run, which is code, or register a key. This process accepts those calls from this machine only;
SuperNodes may call from anywhere. The process ends when its standard input is closed, which happens when the process
that started it ends for any reason.

`edgefd_server.flower.superlink` runs `python -m edgefd_server.flower.superlink_process` with the options of
`flower-superlink`. The first safeguard uses a private hook of Flower; a test checks that the hook still works.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from flwr.superlink import extensions
from flwr.superlink.cli import flower_superlink
from starlette.middleware import Middleware

from edgefd.core.addresses import is_loopback

SUPERNODE_PATHS = "/v1/fleet/"
"""prefix of the paths that SuperNodes call"""
START_RUN_PATH = "/v1/control/start-run"
"""path of the call that submits a run"""
_SHUTDOWN_SECONDS = 5.0
_HOLD_SECONDS = 20.0  # a SuperNode closes its connection after 30 s

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


class Gate:
    """ASGI middleware that refuses all calls from other machines except those of SuperNodes.

    It holds the calls of SuperNodes until a run is submitted: a SuperNode that calls before its key is registered would
    end, and would not try again.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._run_started = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, at once or after the run is submitted, or reply with 403 or 503."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["path"].startswith(SUPERNODE_PATHS):
            try:
                await asyncio.wait_for(self._run_started.wait(), _HOLD_SECONDS)
            except TimeoutError:
                await _reply(send, 503, b"no run has started yet: try again\n")  # a SuperNode does
            else:
                await self._app(scope, receive, send)
            return
        if is_local(scope):
            await self._app(scope, receive, send)
            if scope["path"] == START_RUN_PATH:
                self._run_started.set()
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await _reply(send, 403, b"this call is allowed on the coordinator's machine only\n")


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


if __name__ == "__main__":
    os.environ.pop("FORWARDED_ALLOW_IPS", None)  # with it, a caller could forge its own address
    extensions.get_middleware = lambda: (Middleware(Gate),)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    flower_superlink()
