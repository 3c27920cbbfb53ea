"""The status page over HTTP: one page, and a stream of events (server-sent events) that keeps it up to date.

One event loop in a thread of its own, which only reads the board: nobody who looks, or who is slow to, can hold the run
back. Requests are bounded in size, time and number. Beyond this machine a token is needed.
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

from edgefd.core.errors import UserError
from edgefd.wire.device_link import is_loopback
from edgefd.wire.exchange_folder import COMPLETE
from edgefd_server.monitoring.status import StatusBoard

HEAD_BYTES = 16 * 2**10
HEAD_SECONDS = 5.0
SEND_SECONDS = 10.0
"""after which somebody who does not read is left"""
CONNECTIONS, LISTENERS = 128, 32
LOOK = 0.5
"""seconds between two looks at the board"""
BEAT = 5.0
"""seconds after which the stream says that it is alive, if nothing else"""
FAREWELL = 3.0
"""seconds that listeners have to take the last status"""


class _Answer(Exception):
    """An answer of one line, instead of the page."""

    def __init__(self, status: HTTPStatus, line: str, **headers: str) -> None:
        super().__init__(line)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


def page() -> tuple[bytes, str]:
    """The page with its style and script inside, and the policy (CSP) that lets these two run and nothing else."""
    folder = files("edgefd_server.monitoring") / "page"
    html, style, script = ((folder / f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    policy = (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script).encode(), policy


class StatusServer:
    """Serves a board. Use `shown`.

    Args:
        board: to serve.
        token: that everybody needs; None: nobody.
    """

    def __init__(self, board: StatusBoard, token: str | None) -> None:
        self.port = 0
        self._board, self._token = board, token
        self._page, self._policy = page()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="status-page", daemon=True)
        self._open: set[asyncio.Task[None]] = set()
        self._listeners = 0
        self._body, self._looked = b"", 0.0
        self._last = asyncio.Event()
        """what listeners get next is the last they get"""

    def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: if it cannot.
        """
        self._thread.start()
        try:
            work = asyncio.run_coroutine_threadsafe(self._start(host, port), self._loop)
            self._server = work.result()
        except BaseException:
            self._stop_loop()
            raise
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Send listeners the status once more, and close."""
        work = asyncio.run_coroutine_threadsafe(self._finish(), self._loop)
        with suppress(TimeoutError):  # it looks at a folder that hangs: the run does not wait for that
            work.result(2 * FAREWELL)
        self._stop_loop()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(FAREWELL)
        if not self._thread.is_alive():
            self._loop.close()

    # in the loop

    async def _start(self, host: str, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._connected, host, port, limit=HEAD_BYTES)

    async def _finish(self) -> None:
        self._server.close()
        self._last.set()
        if self._open:
            _, slow = await asyncio.wait(self._open, timeout=FAREWELL)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        writer.transport.set_write_buffer_limits(0)  # so that a drained stream is one that was sent
        try:
            with suppress(ConnectionError):
                await self._answer(reader, writer)
        finally:
            self._open.discard(task)
            writer.transport.abort()  # does nothing to what was sent and taken

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head_only = False
        try:
            if len(self._open) > CONNECTIONS:
                raise _Answer(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", Retry_After="5")
            method, target, headers = await _request(reader)
            head_only = method == "HEAD"
            path = self._admitted(target, headers)
            if path == "/events":
                await self._stream(reader, writer, head_only)
                return
            if path != "/":
                raise _Answer(HTTPStatus.NOT_FOUND, "there is only one page here: /")
            answer = self._head(HTTPStatus.OK, len(self._page), "text/html"), self._page
        except _Answer as found:
            body = f"{found}\n".encode()
            answer = self._head(found.status, len(body), "text/plain", found.headers), body
        await _send(writer, answer[0] if head_only else b"".join(answer))
        await _hang_up(reader, writer)

    def _admitted(self, target: str, headers: Mapping[str, str]) -> str:
        """The path asked for, by somebody who may."""
        try:
            url = urlsplit(target)
        except ValueError as error:
            raise _Answer(HTTPStatus.BAD_REQUEST, f"this is not an address: {error}") from error
        cookie = f"edgefd-status-{self.port}"  # a browser has one jar for all ports of a host
        if self._token is None:
            if not is_loopback(_with_port(headers.get("host", ""))):  # another site's name that leads here
                raise _Answer(HTTPStatus.FORBIDDEN, "this page is for this machine: open it as localhost or 127.0.0.1")
        elif given := parse_qs(url.query).get("token"):
            self._compare(given[0])
            here = f"{cookie}={self._token}; HttpOnly; SameSite=Lax; Path=/"
            raise _Answer(HTTPStatus.SEE_OTHER, "the token is now in a cookie", Location="/", Set_Cookie=here)
        else:
            jar = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
            self._compare(next((value for name, _, value in jar if name == cookie), ""))
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and url.path != "/":
            raise _Answer(HTTPStatus.FORBIDDEN, "not for the pages of other sites")
        return url.path

    def _compare(self, given: str) -> None:
        assert self._token is not None
        if not hmac.compare_digest(given.encode(errors="replace"), self._token.encode()):
            raise _Answer(HTTPStatus.FORBIDDEN, "open the whole address that the coordinator printed, with its token")

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
        """`data:` with the status whenever it has changed, and a `beat` when nothing else was sent for a while."""
        if self._listeners >= LISTENERS:
            raise _Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{LISTENERS} look at this page already", Retry_After="5")
        self._listeners += 1
        try:
            await _send(writer, self._head(HTTPStatus.OK, None, "text/event-stream"))
            sent, at, last = b"", 0.0, head_only
            while not last and not reader.at_eof():  # nobody is there any more
                last = self._last.is_set()
                body, now = self._status(fresh=last), time.monotonic()
                if body != sent:
                    await _send(writer, b'data: {"now":%.3f,"status":%s}\n\n' % (time.time(), body))
                    sent, at = body, now
                elif now - at > BEAT:
                    await _send(writer, b"event: beat\ndata: %.3f\n\n" % time.time())
                    at = now
                if not last:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._last.wait(), LOOK)
            writer.write_eof()
        finally:
            self._listeners -= 1

    def _status(self, fresh: bool) -> bytes:
        """The status, of one look for all who ask at the time."""
        if fresh or time.monotonic() - self._looked >= LOOK / 2:
            self._body, self._looked = self._board.status().to_json(), time.monotonic()
        return self._body


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]]:
    """Method, target and headers of a GET or HEAD."""
    try:
        async with asyncio.timeout(HEAD_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"at most {HEAD_BYTES} bytes are read") from None
    except TimeoutError:
        raise _Answer(HTTPStatus.REQUEST_TIMEOUT, f"no request in {HEAD_SECONDS:g} s") from None
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("hung up before it asked") from error
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not parts[1].startswith("/"):
        raise _Answer(HTTPStatus.BAD_REQUEST, "this is not a request of HTTP/1")
    if parts[0] not in ("GET", "HEAD"):
        raise _Answer(HTTPStatus.METHOD_NOT_ALLOWED, "this page is only for reading", Allow="GET, HEAD")
    pairs = (line.partition(":") for line in lines)
    return parts[0], parts[1], {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    try:
        async with asyncio.timeout(SEND_SECONDS):
            writer.write(data)
            await writer.drain()
    except TimeoutError:
        raise ConnectionAbortedError("it does not read") from None


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close when the other end has, or after a second: what it still sends would otherwise destroy our answer."""
    writer.write_eof()
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            while await reader.read(HEAD_BYTES):
                pass


def _with_port(host: str) -> str:
    """A Host header always with a port.

    >>> [_with_port(h) for h in ("localhost", "localhost:80", "[::1]", "[::1]:80")]
    ['localhost:80', 'localhost:80', '[::1]:80', '[::1]:80']
    """
    return host if host.rpartition(":")[2].isdigit() else f"{host}:80"


def address(where: str) -> tuple[str, int]:
    """Host and port of [HOST:]PORT.

    >>> address("8080"), address("0.0.0.0:80"), address("[::1]:0")
    (('127.0.0.1', 8080), ('0.0.0.0', 80), ('::1', 0))

    Raises:
        UserError: if it is something else.
    """
    host, _, port = where.rpartition(":")
    if not port.isdecimal() or int(port) > 65535 or where.startswith(":"):
        raise UserError(f"--status is [HOST:]PORT, such as 8080 or 0.0.0.0:8080, not {where!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


@contextmanager
def status_server(board: StatusBoard, where: str | None) -> Iterator[None]:
    """Serve the board while the context lasts, and then how that ended.

    Args:
        board: to serve.
        where: [HOST:]PORT (port 0: any); None: nowhere.

    Raises:
        UserError: if it cannot listen there.
    """
    if where is None:
        yield
        return
    host, port = address(where)
    token = None if is_loopback(f"{host}:{port}") else secrets.token_urlsafe(32)
    server = StatusServer(board, token)
    try:
        server.start(host, port)
    except OSError as error:
        raise UserError(f"cannot serve the status page at {where}: {error.strerror}") from error
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    print(f"status page: http://{name}:{server.port}/" + (f"?token={token}" if token else ""), flush=True)
    try:
        yield
    except BaseException as error:
        board.end(str(error) or "it was interrupted")
        raise
    else:
        board.end(COMPLETE)
    finally:
        server.stop()
