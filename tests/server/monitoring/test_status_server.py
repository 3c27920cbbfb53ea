"""The HTTP server of the status page: what it serves, what it refuses, and its limits."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from edgefd_server.coordinator.open_run import RunRequest
from edgefd_server.monitoring import http_server
from edgefd_server.monitoring import status_server as status_server_module
from edgefd_server.monitoring.fleet import CoordinatorFleet
from edgefd_server.monitoring.status import FleetSnapshot, StatusBoard
from edgefd_server.monitoring.status_server import LISTENERS, StatusServer, page, parse_status_address, status_server
from edgefd_server.serve.coordinator import ServeOptions
from edgefd_server.serve.folder import serve_folder

from edgefd.core.errors import RunError, UserError
from edgefd.core.text import shown
from tests.support.federations import agents, export_federation, small
from tests.support.status_boards import DESCRIPTION, empty_fleet, round_metrics, small_config
from tests.support.waiting import until

HOSTILE_NAME = "</script><img src=x onerror=alert(1)>\n\ndata: {}\u2028\u202e"
TOKEN = "right-token"


@contextmanager
def served(
    token: str | None = None, snapshot: Callable[[], FleetSnapshot] = empty_fleet
) -> Iterator[tuple[StatusServer, StatusBoard]]:
    board = StatusBoard(DESCRIPTION, snapshot)
    server = StatusServer(board, token)
    server.start("127.0.0.1", 0)
    try:
        yield server, board
    finally:
        server.stop()


Reply = tuple[int, dict[str, str], bytes]


def request(server: StatusServer, path: str = "/", method: str = "GET", **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


def raw_request(server: StatusServer, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as raw:
        raw.sendall(data)
        reply = b""
        while piece := raw.recv(65536):
            reply += piece
        return reply


@contextmanager
def listening(port: int) -> Iterator[Iterator[tuple[str, str]]]:
    """The (event, data) pairs of a stream."""
    with socket.create_connection(("127.0.0.1", port), timeout=15) as raw, raw.makefile("rb") as lines:
        raw.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert lines.readline() == b"HTTP/1.1 200 OK\r\n"
        while lines.readline() != b"\r\n":
            pass

        def events() -> Iterator[tuple[str, str]]:
            event, data = "message", ""
            for line in lines:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "data":
                    data = value
                elif name == "event":
                    event = value
                else:
                    assert line == b"\n"
                    yield event, data
                    event, data = "message", ""

        yield events()


def test_the_page_is_self_contained_and_has_a_strict_security_policy() -> None:
    with served() as (server, _):
        code, headers, body = request(server)
    assert (code, body) == (200, page()[0])
    text = body.decode()
    for outside in ("http:", "https:", "//cdn", "@import", "url(", '<link rel="stylesheet"', " src="):
        assert outside not in text.replace("http://www.w3.org/2000/svg", "")
    assert not any(danger in text for danger in ("innerHTML", "insertAdjacentHTML", "document.write", "eval("))
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("HEAD", "/events", 200),
        ("GET", "/?x=1", 200),
        ("GET", "/other", 404),
        ("GET", "/../page.py", 404),
        ("POST", "/", 405),
        ("PUT", "/events", 405),
        ("OPTIONS", "/", 405),
    ],
)
def test_each_method_and_path_has_its_status_code(method: str, path: str, code: int) -> None:
    with served() as (server, _):
        status, headers, body = request(server, path, method)
    assert status == code
    assert "Content-Security-Policy" in headers
    if method == "HEAD":
        assert body == b""
    if code == 405:
        assert headers["Allow"] == "GET, HEAD"
    if code >= 400:
        assert body.count(b"\n") == 1


def test_a_token_is_required_and_is_then_stored_in_a_cookie() -> None:
    with served(TOKEN) as (server, _):
        name = f"edgefd-status-{server.port}"
        for path in ("/", "/events", "/other", "/?token=", "/?token=wrong", "/?token=%ff%C3%A9", "/?token=right-toke"):
            code, headers, body = request(server, path)
            assert code == 403, path
            assert "Set-Cookie" not in headers
            assert body.count(b"\n") == 1
        code, headers, _ = request(server, f"/?token={TOKEN}")
        assert (code, headers["Location"]) == (303, "/")
        assert headers["Set-Cookie"] == f"{name}={TOKEN}; HttpOnly; SameSite=Lax; Path=/"
        assert request(server, "/", Cookie=f"other=1; {name}={TOKEN}")[0] == 200
        assert request(server, "/events", "HEAD", Cookie=f"{name}={TOKEN}")[0] == 200
        assert request(server, "/", Cookie=f"{name}=wrong")[0] == 403
        assert request(server, "/", Cookie=f"edgefd-status-1={TOKEN}")[0] == 403


def test_requests_for_another_host_name_or_from_another_site_are_refused() -> None:
    with served() as (server, _):
        for host in ("localhost", f"localhost:{server.port}", "127.0.0.1:1", "[::1]:1"):
            assert request(server, Host=host)[0] == 200, host
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
            assert request(server, Host=host)[0] == 403, host
        assert request(server, "/events", "HEAD", Sec_Fetch_Site="cross-site")[0] == 403
        assert request(server, "/events", "HEAD", Sec_Fetch_Site="same-origin")[0] == 200


def test_requests_that_are_too_large_too_slow_or_malformed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.3)
    with served() as (server, _):
        assert b" 431 " in raw_request(
            server, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"
        )
        assert b" 408 " in raw_request(server, b"GET / HTTP/1.1\r\nHost: loc")
        for malformed in (
            b"\x16\x03\x01\x02\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET http://x/ HTTP/1.1\r\n\r\n",
            b"\r\n\r\n",
            b"GET //[ HTTP/1.1\r\n\r\n",
        ):
            assert b" 400 " in raw_request(server, malformed)
        with socket.create_connection(("127.0.0.1", server.port)):  # closes the connection without a request
            pass
        assert request(server)[0] == 200


def test_events_are_single_lines_of_json_even_with_hostile_device_names() -> None:
    seen, before = {0: time.monotonic()}, time.time()
    fleet = CoordinatorFleet(small_config(), 3, lambda: seen, lambda: {0: HOSTILE_NAME})
    with served(snapshot=fleet.snapshot) as (server, board), listening(server.port) as events:
        event, data = next(events)
        assert event == "message"
        assert data.isascii()
        first = json.loads(data)
        assert before - 1 <= first["now"] <= time.time() + 1  # a wall clock, give or take its adjustment
        assert first["status"]["fleet"]["devices"][0]["name"] == shown(HOSTILE_NAME)
        fleet.note("refused", call="Join", reason="client", line=HOSTILE_NAME, device=HOSTILE_NAME, peer="")
        list(board.watching(lambda rounds: rounds)(iter([round_metrics(0)])))
        while (status := json.loads(next(events)[1])["status"])["done"] == 0:
            pass
        assert status["fleet"]["refused"][0]["last"] == shown(HOSTILE_NAME)
        assert status["points"][0]["heldout"] == 0.5


def test_beat_events_are_sent_while_the_status_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_server_module, "BEAT", 0.2)
    with served() as (server, _), listening(server.port) as events:
        assert next(events)[0] == "message"
        assert [next(events)[0] for _ in range(2)] == ["beat", "beat"]


def test_the_last_event_holds_the_outcome_and_the_stream_closes() -> None:
    with ExitStack() as stack:
        board = StatusBoard(DESCRIPTION, empty_fleet)
        server = StatusServer(board, None)
        server.start("127.0.0.1", 0)
        events = stack.enter_context(listening(server.port))
        next(events)
        board.end("complete")
        server.stop()
        assert [json.loads(data)["status"]["ended"] for _, data in events] == ["complete"]


def test_a_snapshot_that_hangs_does_not_delay_the_end_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "SHUTDOWN_SECONDS", 0.2)
    hangs, release = threading.Event(), threading.Event()

    def snapshot() -> FleetSnapshot:
        hangs.set()
        release.wait(60)
        return empty_fleet()

    with served(snapshot=snapshot) as (server, _):
        listener = socket.create_connection(("127.0.0.1", server.port))
        listener.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert hangs.wait(60)
    assert server._thread.is_alive()  # the server was stopped while the snapshot still hung
    release.set()
    server._thread.join(60)
    assert not server._thread.is_alive()
    server._loop.run_until_complete(server._finish())
    server._loop.close()
    listener.close()


def test_the_number_of_listeners_is_limited() -> None:
    with served() as (server, _), ExitStack() as stack:
        for _ in range(LISTENERS):
            next(stack.enter_context(listening(server.port)))
        code, headers, _ = request(server, "/events")
        assert (code, headers["Retry-After"]) == (503, "5")
        assert request(server)[0] == 200
        stack.close()
        until(lambda: request(server, "/events", "HEAD")[0] == 200)  # closed connections make room for others


def test_the_number_of_connections_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "CONNECTIONS", 3)
    with served() as (server, _), ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        until(lambda: len(server._open) == 3)
        assert request(server)[0] == 503


def growing_status() -> Callable[[], FleetSnapshot]:
    """Return a snapshot function whose result is different at each call, and larger than the buffers of a socket."""
    calls = iter(range(10**6))
    return lambda: FleetSnapshot(None, (), (), f"{next(calls)}" + "x" * 2**20)


@contextmanager
def listener_that_does_not_read(server: StatusServer) -> Iterator[None]:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: server._listeners == 1)
        yield


def test_a_listener_that_does_not_read_delays_neither_the_run_nor_other_listeners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "SEND_SECONDS", 600.0)
    monkeypatch.setattr(http_server, "SHUTDOWN_SECONDS", 0.2)
    monkeypatch.setattr(status_server_module, "POLL_SECONDS", 0.01)
    with served(snapshot=growing_status()) as (server, board), listener_that_does_not_read(server):
        list(board.watching(lambda rounds: rounds)(round_metrics(r) for r in range(200)))
        with listening(server.port) as events:
            while json.loads(next(events)[1])["status"]["done"] < 200:
                pass
        assert server._listeners >= 1  # the first listener is still connected, and its data are not sent


def test_a_listener_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "SEND_SECONDS", 0.5)
    monkeypatch.setattr(status_server_module, "POLL_SECONDS", 0.01)
    with served(snapshot=growing_status()) as (server, _), listener_that_does_not_read(server):
        until(lambda: server._listeners == 0)


def test_the_address_is_printed_and_the_outcome_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    board = StatusBoard(DESCRIPTION, empty_fleet)

    def fails() -> None:
        with status_server(board, "0"):
            raise RunError("round 0: 1 of 3 reports")

    with pytest.raises(RunError):
        fails()
    assert re.fullmatch(r"status page: http://127\.0\.0\.1:\d+/\n", capsys.readouterr().out)
    assert board.status().ended == "round 0: 1 of 3 reports"
    with status_server(board, None):
        pass
    assert capsys.readouterr().out == ""


def test_a_server_for_other_machines_creates_and_prints_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    with status_server(StatusBoard(DESCRIPTION, empty_fleet), "0.0.0.0:0"):
        url = capsys.readouterr().out.split()[-1]
        port, token = url.rpartition(":")[2].split("/?token=")
        assert len(token) == 43
        for path, code in (("/", 403), (f"/?token={token}", 303)):
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
            connection.request("GET", path)
            assert connection.getresponse().status == code
            connection.close()


@pytest.mark.slow
def test_a_run_through_an_exchange_folder_is_shown_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = export_federation(small(n_clients=2, rounds=3), tmp_path)
    exchange, received = tmp_path / "exchange", list[dict[str, Any]]()

    def reader() -> None:
        port = ""
        while not port:
            port = "".join(re.findall(r"status page: http://127\.0\.0\.1:(\d+)/", capsys.readouterr().out))
            time.sleep(0.02)
        with listening(int(port)) as events:
            received.extend(json.loads(data)["status"] for event, data in events if event == "message")

    reading = threading.Thread(target=reader, daemon=True)
    reading.start()
    with agents(federation, tmp_path, range(2)):
        request = RunRequest(federation.prepared.config, [federation.bundle], out=tmp_path / "mine")
        serve_folder(request, exchange, ServeOptions(60, "127.0.0.1:0"))
    reading.join(30)
    last = received[-1]
    assert (last["run"], last["ended"], last["done"]) == ("mine", "complete", 4)
    assert [(d["state"], d["answered"]) for d in last["fleet"]["devices"]] == [("answered", 4)] * 2
    assert (last["fleet"]["opened"]["closing"], last["fleet"]["trouble"]) == (True, "")


def serve_page_on(port: int) -> None:
    with status_server(StatusBoard(DESCRIPTION, empty_fleet), str(port)):
        raise AssertionError(f"port {port} is in use")


def test_no_thread_is_left_if_the_port_is_in_use() -> None:
    other = socket.create_server(("127.0.0.1", 0))
    with other, pytest.raises(UserError, match="cannot serve the status page"):
        serve_page_on(other.getsockname()[1])
    assert not [t for t in threading.enumerate() if t.name == "status-page"]


@pytest.mark.parametrize("where", ["", "x", "-1", "70000", "host", "127.0.0.1:", ":8080", "1:2:x"])
def test_malformed_addresses_are_refused(where: str) -> None:
    with pytest.raises(UserError, match=r"--status must be \[HOST:\]PORT"):
        parse_status_address(where)
