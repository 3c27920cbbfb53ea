"""The HTTP server of the status page: one page, and a stream of server-sent events that keeps it up to date.

The server runs one event loop in its own thread and only reads the status board, so a reader, even a slow one, cannot
delay the run. Requests are limited in size, time and number. Access from other machines requires a token.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

from edgefd.core.addresses import Address, is_loopback, parse_address
from edgefd.core.errors import UserError
from edgefd.wire.exchange_folder import COMPLETE
from edgefd_server.monitoring.status import StatusBoard

HEAD_BYTES = 16 * 2**10
HEAD_SECONDS = 5.0
SEND_SECONDS = 10.0
"""seconds after which the server closes the connection of a client that does not read"""
CONNECTIONS, LISTENERS = 128, 32
"""most open connections; most connections among them that read the event stream"""
POLL_SECONDS = 0.5
"""seconds between two reads of the status board"""
BEAT = 5.0
"""seconds without another event after which the stream sends a `beat` event"""
SHUTDOWN_SECONDS = 3.0
"""seconds that listeners have to receive the last status"""


class _ShortReply(Exception):
    """A reply of one line that is sent instead of the page."""

    def __init__(self, status: HTTPStatus, line: str, **headers: str) -> None:
        super().__init__(line)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


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


class StatusServer:
    """HTTP server of the status page in its own thread. Use `status_server` to run one.

    Args:
        board: status board that the page shows.
        token: token that every request must present; None = no token is required.
    """

    def __init__(self, board: StatusBoard, token: str | None) -> None:
        self.port = 0
        self._board, self._token = board, token
        self._page, self._policy = page()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="status-page", daemon=True)
        self._open: set[asyncio.Task[None]] = set()
        self._listeners = 0
        self._body, self._read_at = b"", 0.0
        self._last = asyncio.Event()  # set: the next status that listeners receive is the last one

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
        """Send the last status to the listeners, and close all connections."""
        future = asyncio.run_coroutine_threadsafe(self._finish(), self._loop)
        with suppress(TimeoutError):  # the snapshot may hang, for example on a network folder: the run does not wait
            future.result(2 * SHUTDOWN_SECONDS)
        self._stop_loop()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SHUTDOWN_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    # Methods that run in the event loop.

    async def _finish(self) -> None:
        self._server.close()
        self._last.set()
        if self._open:
            _, slow = await asyncio.wait(self._open, timeout=SHUTDOWN_SECONDS)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
                raise _ShortReply(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", Retry_After="5")
            method, target, headers = await _request(reader)
            head_only = method == "HEAD"
            path = self._authorised_path(target, headers)
            if path == "/events":
                await self._stream(reader, writer, head_only)
                return
            if path != "/":
                raise _ShortReply(HTTPStatus.NOT_FOUND, "page not found: the only page is /")
            head, body = self._head(HTTPStatus.OK, len(self._page), "text/html"), self._page
        except _ShortReply as reply:
            body = f"{reply}\n".encode()
            head = self._head(reply.status, len(body), "text/plain", reply.headers)
        await _send(writer, head if head_only else head + body)
        await _close_after_peer(reader, writer)

    def _authorised_path(self, target: str, headers: Mapping[str, str]) -> str:
        """Return the path of the request if its sender may read it."""
        try:
            url = urlsplit(target)
        except ValueError as error:
            raise _ShortReply(HTTPStatus.BAD_REQUEST, f"invalid request target: {error}") from error
        cookie = f"edgefd-status-{self.port}"  # a browser shares the cookies of all ports of a host
        if self._token is None:
            # Another site can let its own host name resolve to this machine (DNS rebinding).
            if not is_loopback(_host_of(headers.get("host", ""))):
                raise _ShortReply(
                    HTTPStatus.FORBIDDEN, "this page is for this machine only: open it as localhost or 127.0.0.1"
                )
        elif tokens := parse_qs(url.query).get("token"):
            self._check_token(tokens[0])
            value = f"{cookie}={self._token}; HttpOnly; SameSite=Lax; Path=/"
            raise _ShortReply(HTTPStatus.SEE_OTHER, "the token is now in a cookie", Location="/", Set_Cookie=value)
        else:
            cookies = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
            self._check_token(next((value for name, _, value in cookies if name == cookie), ""))
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and url.path != "/":
            raise _ShortReply(HTTPStatus.FORBIDDEN, "pages of other sites may not read this address")
        return url.path

    def _check_token(self, token: str) -> None:
        assert self._token is not None
        if not hmac.compare_digest(token.encode(errors="replace"), self._token.encode()):
            raise _ShortReply(
                HTTPStatus.FORBIDDEN,
                "missing or wrong token: open the whole address that the coordinator printed, including its token",
            )

    def _head(self, status: HTTPStatus, length: int | None, kind: str, more: Mapping[str, str] | None = None) -> bytes:
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
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

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head_only: bool) -> None:
        """Send the status whenever it has changed, and a `beat` event after `BEAT` seconds without another event."""
        if self._listeners >= LISTENERS:
            raise _ShortReply(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the limit of {LISTENERS} readers is reached", Retry_After="5"
            )
        self._listeners += 1
        try:
            await _send(writer, self._head(HTTPStatus.OK, None, "text/event-stream"))
            sent, sent_at, last = b"", 0.0, head_only
            while not last and not reader.at_eof():  # at_eof: the client has closed the connection
                last = self._last.is_set()
                body, now = self._status(fresh=last), time.monotonic()
                if body != sent:
                    await _send(writer, b'data: {"now":%.3f,"status":%s}\n\n' % (time.time(), body))
                    sent, sent_at = body, now
                elif now - sent_at > BEAT:
                    await _send(writer, b"event: beat\ndata: %.3f\n\n" % time.time())
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


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]]:
    """Read a GET or HEAD request, and return its method, target and headers."""
    try:
        async with asyncio.timeout(HEAD_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _ShortReply(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request is larger than {HEAD_BYTES} bytes"
        ) from None
    except TimeoutError:
        raise _ShortReply(HTTPStatus.REQUEST_TIMEOUT, f"no request in {HEAD_SECONDS:g} s") from None
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("the connection was closed before the request was complete") from error
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not parts[1].startswith("/"):
        raise _ShortReply(HTTPStatus.BAD_REQUEST, "this is not an HTTP/1 request")
    if parts[0] not in ("GET", "HEAD"):
        raise _ShortReply(HTTPStatus.METHOD_NOT_ALLOWED, "this page is read-only: use GET or HEAD", Allow="GET, HEAD")
    pairs = (line.partition(":") for line in lines)
    return parts[0], parts[1], {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
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


def _host_of(header: str) -> str:
    """Return the host in the value of a Host header, without its port and brackets.

    >>> [_host_of(h) for h in ("localhost", "localhost:80", "[::1]", "[::1]:80")]
    ['localhost', 'localhost', '::1', '::1']
    """
    host, _, port = header.rpartition(":")
    return (host if port.isdigit() else header).strip("[]")


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
    try:
        server.start(address.host, address.port)
    except OSError as error:
        raise UserError(f"cannot serve the status page at {where}: {error.strerror}") from error
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
