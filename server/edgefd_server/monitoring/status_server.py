"""The HTTP server of the status page: one page, and a stream of server-sent events that keeps it up to date.

The server only reads the status board. `HttpServer` holds its limits. Access from other machines requires a token.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from importlib.resources import files

from edgefd.core.addresses import Address, parse_address
from edgefd.core.files import os_errors
from edgefd.wire.exchange_folder import COMPLETE
from edgefd_server.monitoring.http_server import HttpServer, ShortReply, send
from edgefd_server.monitoring.status import StatusBoard

LISTENERS = 32
"""most connections that read the event stream"""
POLL_SECONDS = 0.5
"""seconds between two reads of the status board"""
BEAT = 5.0
"""seconds without another event after which the stream sends a `beat` event"""


def page() -> tuple[bytes, str]:
    """Return the page with its style and script inline, and the content-security policy that allows only these two."""
    folder = files("edgefd_server.monitoring") / "page"
    html, style, script = ((folder / f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    policy = (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script).encode(), policy


class StatusServer(HttpServer):
    """HTTP server of the status page in its own thread. Use `status_server` to run one.

    Args:
        board: status board that the page shows.
        token: token that every request must present; None = no token is required.
    """

    def __init__(self, board: StatusBoard, token: str | None) -> None:
        self._page, policy = page()
        super().__init__("status-page", token, policy)
        self._board = board
        self._listeners = 0
        self._body, self._read_at = b"", 0.0
        self._last = asyncio.Event()  # set: the next status that listeners receive is the last one

    async def _finish(self) -> None:
        self._last.set()
        await super()._finish()

    async def respond(
        self, path: str, head_only: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[bytes, str] | None:
        """Return the page, or send the stream of events."""
        if path == "/events":
            await self._stream(reader, writer, head_only)
            return None
        if path != "/":
            raise ShortReply(HTTPStatus.NOT_FOUND, "page not found: the only page is /")
        return self._page, "text/html; charset=utf-8"

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head_only: bool) -> None:
        """Send the status whenever it has changed, and a `beat` event after `BEAT` seconds without another event."""
        if self._listeners >= LISTENERS:
            raise ShortReply(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the limit of {LISTENERS} readers is reached", Retry_After="5"
            )
        self._listeners += 1
        try:
            await send(writer, self.head(HTTPStatus.OK, None, "text/event-stream; charset=utf-8"))
            sent, sent_at, last = b"", 0.0, head_only
            while not last and not reader.at_eof():  # at_eof: the client has closed the connection
                last = self._last.is_set()
                body, now = self._status(fresh=last), time.monotonic()
                if body != sent:
                    await send(writer, b'data: {"now":%.3f,"status":%s}\n\n' % (time.time(), body))
                    sent, sent_at = body, now
                elif now - sent_at > BEAT:
                    await send(writer, b"event: beat\ndata: %.3f\n\n" % time.time())
                    sent_at = now
                if not last:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._last.wait(), POLL_SECONDS)
            writer.write_eof()
        finally:
            self._listeners -= 1

    def _status(self, fresh: bool) -> bytes:
        """Return the status as JSON. Requests within half a polling interval share one read of the board."""
        if fresh or time.monotonic() - self._read_at >= POLL_SECONDS / 2:
            self._body, self._read_at = self._board.status().to_json(), time.monotonic()
        return self._body


def parse_status_address(where: str) -> Address:
    """Read [HOST:]PORT.

    Raises:
        UserError: if the text has another form.
    """
    return parse_address(where, "--status", default_host="127.0.0.1")


@contextmanager
def status_server(board: StatusBoard, where: str | None) -> Iterator[None]:
    """Serve the status page while the context lasts. At its end, send the outcome of the run to the listeners.

    Args:
        board: status board that the page shows.
        where: [HOST:]PORT on which to listen (port 0 = any free port); None = do not serve the page.

    Raises:
        UserError: if it cannot listen there.
    """
    if where is None:
        yield
        return
    address = parse_status_address(where)
    token = None if address.is_loopback else secrets.token_urlsafe(32)
    server = StatusServer(board, token)
    with os_errors(f"serve the status page at {where}"):
        server.start(address.host, address.port)
    name = socket.gethostname() if address.host in ("0.0.0.0", "::") else address.host
    print(f"status page: http://{Address(name, server.port)}/" + (f"?token={token}" if token else ""), flush=True)
    try:
        yield
    except BaseException as error:
        board.end(str(error) or "the run was interrupted")
        raise
    else:
        board.end(COMPLETE)
    finally:
        server.stop()
