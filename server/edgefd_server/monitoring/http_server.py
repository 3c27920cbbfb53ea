"""A small HTTP server for pages of a coordinator, with limits in size, time and number. It is read-only.

It runs one event loop in its own thread, so a reader, even a slow one, cannot delay the run. Access from other machines
requires a token. A page of another site cannot read anything: it knows no token, and its host name is refused.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edgefd.core.addresses import host_of, is_loopback
from edgefd.core.descriptors import SHORTAGES, is_shortage
from edgefd.core.text import shown

HEAD_BYTES = 16 * 2**10
HEAD_SECONDS = 5.0
SEND_SECONDS = 10.0
"""seconds after which the server closes the connection of a client that does not read"""
CONNECTIONS, MORE_CONNECTIONS = 128, 64
"""most open connections; most connections that are open at the same time to be told so"""
SHUTDOWN_SECONDS = 3.0
"""seconds that open connections have to end"""

logger = logging.getLogger(__name__)


class ShortReply(Exception):
    """A reply of one line that is sent instead of a page."""

    def __init__(self, status: HTTPStatus, line: str, **headers: str) -> None:
        super().__init__(line)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


class HttpServer:
    """Base of the HTTP servers of a coordinator. A subclass answers the requests with `respond`.

    Args:
        name: of the server's thread.
        token: token that every request must present; None = no token is required.
        policy: the content-security policy of all replies.
    """

    _cookie = "edgefd-status"

    def __init__(self, name: str, token: str | None, policy: str = "default-src 'none'") -> None:
        self.port = 0
        self._token, self._policy = token, policy
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_report)
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._open: set[asyncio.Task[None]] = set()

    def start(self, host: str, port: int) -> None:
        """Listen for connections.

        Raises:
            OSError: if it cannot listen there.
        """
        self._thread.start()
        try:
            listening = asyncio.start_server(self._connected, host, port, limit=HEAD_BYTES)
            self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        except BaseException:
            self._stop_loop()
            raise
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """End the replies that are being sent, and close all connections."""
        future = asyncio.run_coroutine_threadsafe(self._finish(), self._loop)
        with suppress(TimeoutError):  # a reply may hang, for example on a network folder: the run does not wait
            future.result(2 * SHUTDOWN_SECONDS)
        self._stop_loop()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SHUTDOWN_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    # Methods that run in the event loop.

    async def respond(
        self, path: str, head_only: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[bytes, str] | None:
        """Return the page at that path and its media type; None if the reply has been sent to `writer` already.

        Raises:
            ShortReply: if there is no such page.
        """
        raise NotImplementedError

    async def _finish(self) -> None:
        self._server.close()
        if self._open:
            _, slow = await asyncio.wait(self._open, timeout=SHUTDOWN_SECONDS)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS + MORE_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        writer.transport.set_write_buffer_limits(0)  # so that drain() returns after the data was sent
        try:
            with suppress(ConnectionError):
                await self._answer(reader, writer)
        finally:
            self._open.discard(task)
            writer.transport.abort()  # data that was sent and received is not affected

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head_only = False
        try:
            if len(self._open) > CONNECTIONS:
                raise ShortReply(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", Retry_After="5")
            method, target, headers = await _request(reader)
            head_only = method == "HEAD"
            page = await self.respond(self._authorised_path(target, headers), head_only, reader, writer)
            if page is None:
                return
            body, kind = page
            head = self.head(HTTPStatus.OK, len(body), kind)
        except ShortReply as reply:
            body = f"{reply}\n".encode()
            head = self.head(reply.status, len(body), "text/plain; charset=utf-8", reply.headers)
        await send(writer, head if head_only else head + body)
        await _close_after_peer(reader, writer)

    def _authorised_path(self, target: str, headers: Mapping[str, str]) -> str:
        """Return the path of the request if its sender may read it."""
        try:
            url = urlsplit(target)
        except ValueError as error:
            raise ShortReply(HTTPStatus.BAD_REQUEST, f"invalid request target: {error}") from error
        cookie = f"{self._cookie}-{self.port}"  # a browser shares the cookies of all ports of a host
        if self._token is None:
            # Another site can let its own host name resolve to this machine (DNS rebinding).
            if not is_loopback(host_of(headers.get("host", ""))):
                raise ShortReply(
                    HTTPStatus.FORBIDDEN, "this page is for this machine only: open it as localhost or 127.0.0.1"
                )
        elif tokens := parse_qs(url.query).get("token"):
            self._check_token(tokens[0])
            value = f"{cookie}={self._token}; HttpOnly; SameSite=Lax; Path=/"
            raise ShortReply(HTTPStatus.SEE_OTHER, "the token is now in a cookie", Location="/", Set_Cookie=value)
        else:
            cookies = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
            self._check_token(next((value for name, _, value in cookies if name == cookie), ""))
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and url.path != "/":
            raise ShortReply(HTTPStatus.FORBIDDEN, "pages of other sites may not read this address")
        return url.path

    def _check_token(self, token: str) -> None:
        assert self._token is not None
        if not hmac.compare_digest(token.encode(errors="replace"), self._token.encode()):
            raise ShortReply(
                HTTPStatus.FORBIDDEN,
                "missing or wrong token: open the whole address that the coordinator printed, including its token",
            )

    def head(self, status: HTTPStatus, length: int | None, kind: str, more: Mapping[str, str] | None = None) -> bytes:
        """Return the head of a reply. `length` is None for a stream; `more` are more headers than the usual ones."""
        headers = {
            "Content-Type": kind,
            "Content-Security-Policy": self._policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Connection": "close",
            **({} if length is None else {"Content-Length": str(length)}),
            **(more or {}),
        }
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong in the event loop. If all file descriptors are in use, it accepts again after a second."""
    error = context.get("exception")
    if isinstance(error, OSError) and is_shortage(error):
        SHORTAGES.count += 1
    logger.warning("%s: %s", context["message"], shown(error))


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]]:
    """Read a GET or HEAD request, and return its method, target and headers."""
    try:
        async with asyncio.timeout(HEAD_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise ShortReply(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request is larger than {HEAD_BYTES} bytes"
        ) from None
    except TimeoutError:
        raise ShortReply(HTTPStatus.REQUEST_TIMEOUT, f"no request in {HEAD_SECONDS:g} s") from None
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("the connection was closed before the request was complete") from error
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not parts[1].startswith("/"):
        raise ShortReply(HTTPStatus.BAD_REQUEST, "this is not an HTTP/1 request")
    if parts[0] not in ("GET", "HEAD"):
        raise ShortReply(HTTPStatus.METHOD_NOT_ALLOWED, "this page is read-only: use GET or HEAD", Allow="GET, HEAD")
    pairs = (line.partition(":") for line in lines)
    return parts[0], parts[1], {name.strip().lower(): value.strip() for name, _, value in pairs}


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send data. Raise `ConnectionAbortedError` if the client does not take them in `SEND_SECONDS`."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            writer.write(data)
            await writer.drain()
    except TimeoutError:
        raise ConnectionAbortedError("the client does not read") from None


async def _close_after_peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Finish sending, then wait until the client has closed the connection, at most one second.

    If the server closed first while the client still sends, the reply could be lost.
    """
    writer.write_eof()
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            while await reader.read(HEAD_BYTES):
                pass
