"""Web servers of a folder on a free port: an honest one with ranges, and others that break off, lie or redirect."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote


@dataclass(eq=False)
class WebServer:
    """An open server."""

    folder: Path
    manner: str
    """ranges, no ranges, wrong range, other file, breaks, endless, encoded, missing, loop, to a file"""
    port: int = 0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """file and header Range of each request"""
    sent: int = 0

    @property
    def url(self) -> str:
        """Address of the folder."""
        return f"http://127.0.0.1:{self.port}/files"


def _answer(server: WebServer, handler: BaseHTTPRequestHandler) -> None:
    name = handler.path.rpartition("/")[2]
    wanted = handler.headers.get("Range")
    server.requests.append((name, wanted))
    path = server.folder / name
    if server.manner == "missing" or not path.exists():
        handler.send_error(404)
        return
    if server.manner in ("loop", "to a file"):
        handler.send_response(302)
        to = handler.path + "/." if server.manner == "loop" else f"file://{quote(str(path))}"
        handler.send_header("Location", to)
        handler.end_headers()
        return
    blob = path.read_bytes()
    if server.manner == "other file":
        blob = bytes(len(blob))
    start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.manner != "no ranges" else 0
    body = blob[start:]
    handler.send_response(206 if start else 200)
    if start:
        stated = start + 7 if server.manner == "wrong range" else start
        handler.send_header("Content-Range", f"bytes {stated}-{len(blob) - 1}/{len(blob)}")
    if server.manner == "encoded":
        handler.send_header("Content-Encoding", "gzip")
    if server.manner != "endless":
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if server.manner in ("breaks", "wrong range", "no ranges") and not (server.manner == "no ranges" and wanted):
        body = body[: max(len(body) // 2, min(len(body), 3000))]  # and the connection ends
    while True:
        handler.wfile.write(body)
        server.sent += len(body)
        if server.manner != "endless":
            break
        body = bytes(2**16)
    handler.close_connection = True


@contextmanager
def web_server(folder: Path, manner: str = "ranges") -> Iterator[WebServer]:
    """Serve the files of a folder while the context lasts."""
    server = WebServer(folder, manner)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                _answer(server, self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield server
        http.shutdown()
