"""`python -m edgefd_server.flower.superlink_process ...`: `flower-superlink` with its options, behind two guards of our own.

Flower serves everything on one port, and asks nobody who he is but SuperNodes: whoever reaches it may submit a run,
which is code, and register a key. Here those calls are answered to this machine only; SuperNodes may call from
anywhere. And it ends when its standard input does: with the process that started it, however that one ends.

Started by `edgefd_server.flower.superlink`. The hook for the first guard is a private one of Flower: a test holds it.
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

from edgefd.wire.device_link import is_loopback

OPEN = "/v1/fleet/"
"""the paths that SuperNodes call"""
BEGIN = "/v1/control/start-run"
_PATIENCE = 5.0
_HOLD = 20.0  # a SuperNode hangs up after 30 s

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


class Gate:
    """ASGI middleware that refuses whatever is not for SuperNodes to callers from another machine.

    SuperNodes wait until a run is submitted: one that calls before its key is registered would end, and not try again.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._begun = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, now or later, or answer 403 or 503."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["path"].startswith(OPEN):
            try:
                await asyncio.wait_for(self._begun.wait(), _HOLD)
            except TimeoutError:
                await _answer(send, 503, b"no run has begun yet: come back\n")  # a SuperNode does
            else:
                await self._app(scope, receive, send)
            return
        if is_local(scope):
            await self._app(scope, receive, send)
            if scope["path"] == BEGIN:
                self._begun.set()
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await _answer(send, 403, b"this is answered on the coordinator's machine only\n")


async def _answer(send: Send, status: int, line: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": line})


def is_local(scope: Scope) -> bool:
    """Whether the call comes from this machine: over loopback, or from the very address that it goes to."""
    client, server = scope.get("client"), scope.get("server")
    if not client or not server:
        return False
    host = str(client[0]).removeprefix("::ffff:")
    return is_loopback(f"{host}:0") or host == str(server[0]).removeprefix("::ffff:")


def end_with_stdin() -> None:
    """Wait for the end of standard input, then end this process."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(1)  # calls that do not end keep the server waiting


if __name__ == "__main__":
    os.environ.pop("FORWARDED_ALLOW_IPS", None)  # or a caller could say where he calls from
    extensions.get_middleware = lambda: (Middleware(Gate),)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    flower_superlink()
