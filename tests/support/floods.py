"""Connections that a hostile device makes: idle ones, calls that are sent in half, and streams that are never read."""

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SERVICE = "/edgefd.v1.DeviceLink/"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4  # kinds of frames
_PIECE = 2**14  # bytes that a frame may have


class RawConnection:
    """An HTTP/2 connection to a gRPC server that sends what it is told to, and reads nothing by itself.

    Args:
        port: of the server on this machine.
        certs: folder of a device's certificate; None = plaintext.
        window: bytes of each reply that the server may send before anything is read.
    """

    def __init__(self, port: int, certs: Path | None = None, window: int = 65535) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket: socket.socket = raw if certs is None else _tls(certs).wrap_socket(raw, server_hostname="127.0.0.1")
        self._stream = 1
        settings = struct.pack(">HI", 4, window)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, settings))

    def call(self, method: str, message: bytes, length: int | None = None) -> None:
        """Begin a call. `length` is the announced length of its message: if it is larger, the message is not complete.

        Args:
            method: of the device link, or the whole path of another service.
            message: the bytes that are sent of it.
            length: None = the message is complete, and the call too.
        """
        path = method if method.startswith("/") else SERVICE + method
        headers = {":method": "POST", ":scheme": "http", ":path": path, "te": "trailers"}
        headers |= {":authority": "localhost", "content-type": "application/grpc"}
        ordered = sorted(headers.items(), key=lambda item: not item[0].startswith(":"))
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in ordered)
        prefix = struct.pack(">BI", 0, len(message) if length is None else length)
        frames = _frame(_HEADERS, 4, self._stream, block)
        data = prefix + message
        pieces = [data[i : i + _PIECE] for i in range(0, len(data), _PIECE)]
        for piece in pieces:
            last = length is None and piece is pieces[-1]
            frames += _frame(_DATA, 1 if last else 0, self._stream, piece)
        self._stream += 2
        self.socket.sendall(frames)

    def closed(self, seconds: float) -> bool:
        """Return whether the server closes the connection within that time."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(2**16):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


def _tls(certs: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certs / "ca.pem"))
    context.load_cert_chain(certs / "device.pem", certs / "device.key")
    context.set_alpn_protocols(["h2"])
    return context


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(text: str) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text.encode()


@contextmanager
def raw_connections(
    port: int, count: int, certs: Path | None = None, window: int = 65535
) -> Iterator[list[RawConnection]]:
    """Open that many connections, and close them with the context."""
    with ExitStack() as stack:
        connections = [RawConnection(port, certs, window) for _ in range(count)]
        for connection in connections:
            stack.enter_context(connection.socket)
        yield connections


@contextmanager
def idle_connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Open that many TCP connections that send nothing, and close them with the context."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(count)]
