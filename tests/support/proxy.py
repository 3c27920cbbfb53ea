"""An HTTP proxy on this machine that records each call and sends all tunnels to one address."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """A proxy that runs. `calls` holds the first line of each request."""

    def __init__(self, port: int, target: int | None) -> None:
        self.url = f"http://me:secret@127.0.0.1:{port}"
        self.calls: list[str] = []
        self._target = target

    @property
    def variables(self) -> dict[str, str]:
        """Environment in which every call of this machine would go through the proxy."""
        names = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
        return {case(name): self.url for name in names for case in (str.lower, str.upper)}

    def serve(self, client: socket.socket) -> None:
        """Answer one connection."""
        with client, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head and (more := client.recv(65536)):
                head += more
            self.calls.append(head.partition(b"\r\n")[0].decode())
            if self._target is None or not head.startswith(b"CONNECT "):
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                back.start()
                _copy(client, server)
                back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(target: int | None = None) -> Iterator[Proxy]:
    """Run a proxy while the context lasts; tunnels to any address end at the port `target` of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = Proxy(listener.getsockname()[1], target)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=running.serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield running
        finally:
            listener.shutdown(socket.SHUT_RDWR)
