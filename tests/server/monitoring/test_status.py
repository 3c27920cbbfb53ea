"""The status page: what it says of a run and its fleet, and what it answers to whom."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edgefd_server.monitoring import status_server as status_server_module
from edgefd_server.monitoring.fleet import CoordinatorFleet, FolderFleet, Moment, state_of
from edgefd_server.monitoring.status import MAX_POINTS, About, FleetSnapshot, Point, StatusBoard, thinned
from edgefd_server.monitoring.status_server import LISTENERS, StatusServer, address, page, status_server
from edgefd_server.serve.folder import serve

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import RunError, UserError
from edgefd.core.files import put
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.wire.exchange_folder import PLAN, report_file, round_folder
from tests.support.federations import agents, dealt, small

ABOUT = About("edgefd", "digits", "mlp", 3, 5)
EVIL = "</script><img src=x onerror=alert(1)>\n\ndata: {}\u2028\u202e"
TOKEN = "right-token"


def config(**coordinator: object) -> Config:
    return parse_config(
        {"partition": {"name": "weak", "n_clients": 3}, "train": {"rounds": 5}, "coordinator": coordinator}
    )


def metrics(round: int, closing: bool = False, up: int = 10, down: int = 20) -> RoundMetrics:
    return RoundMetrics(round, closing, 1.5, None, None, None, 0.5, 0.25, [], None, 1.0, 0.75, None, None, up, down)


def nobody() -> FleetSnapshot:
    return FleetSnapshot(None, (), ())


# the board


def test_the_board_sums_bytes_up_and_passes_rounds_on() -> None:
    board = StatusBoard(ABOUT, nobody)
    board.begin("mine", [metrics(0)])
    seen = list(board.watching(lambda rounds: rounds)(iter([metrics(1), metrics(2)])))
    assert [m.round for m in seen] == [1, 2]
    status = board.status()
    assert [(p.round, p.up, p.down) for p in status.points] == [(0, 10, 20), (1, 20, 40), (2, 30, 60)]
    assert (status.run, status.done, status.seconds, status.ended) == ("mine", 3, 4.5, None)


def test_many_rounds_are_thinned_and_the_last_is_kept() -> None:
    points = [Point(r, False, None, None, None, 0.0, r, r, 1.0) for r in range(12_345)]
    found = thinned(points, MAX_POINTS)
    assert len(found) <= MAX_POINTS
    assert (found[0].round, found[-1].round) == (0, 12_344)
    assert thinned(points[:MAX_POINTS], MAX_POINTS) == tuple(points[:MAX_POINTS])


# the fleet


@pytest.mark.parametrize(
    ("client", "seen", "at", "says"),
    [
        (0, None, {}, "never seen"),
        (0, 99.0, None, "waiting"),
        (0, 99.0, {}, "working"),
        (0, 71.0, {}, "working"),  # its call was being held
        (0, 69.0, {}, "late"),
        (0, 99.0, {"answered": frozenset({0})}, "answered"),
        (3, 99.0, {}, "waiting"),  # it is not asked
        (0, 99.0, {"missed": frozenset({0})}, "late"),
        (0, 101.0, {"missed": frozenset({0})}, "working"),
        (0, 101.0, {"deadline": 5.0}, "late"),
        (0, 101.0, {"deadline": 15.0}, "working"),
    ],
)
def test_state_of_a_client(client: int, seen: float | None, at: dict[str, Any] | None, says: str) -> None:
    moment = Moment(110.0, 100.0, 30.0, None, frozenset({0, 1, 2}), frozenset(), frozenset())
    assert state_of(client, seen, None if at is None else replace(moment, **at)) == says


def test_the_fleet_of_a_link() -> None:
    seen: dict[int, float] = {}
    fleet = CoordinatorFleet(config(), 3, lambda: seen, lambda: {0: "hall", 1: "yard"})
    assert [d.state for d in fleet.snapshot().devices] == ["never seen"] * 3
    seen |= {0: time.monotonic(), 1: time.monotonic()}
    assert fleet.snapshot().devices[0].state == "waiting"
    fleet.note("round", round=0, closing=False, teacher_bytes=0)
    fleet.note("report", client=1, round=0, bytes=9)
    fleet.note("refused", call="SubmitReport", reason="content", line="bad row " * 99, device="hall", peer="a")
    fleet.note("refused", call="Join", reason="certificate", line="unknown", device="stranger", peer="b")
    found = fleet.snapshot()
    assert found.opened is not None
    assert (found.opened.round, found.opened.asked, found.opened.reports) == (0, 3, 1)
    assert [(d.name, d.state, d.answered, d.refused) for d in found.devices] == [
        ("hall", "working", 0, 1),
        ("yard", "answered", 1, 0),
        ("", "never seen", 0, 0),
    ]
    assert len(found.devices[0].last_refusal) == 300
    assert abs((found.devices[0].seen or 0) - time.time()) < 5
    assert [(r.reason, r.count) for r in found.refused] == [("certificate", 1), ("content", 1)]


def test_without_certificates_who_is_refused_is_known_by_where_it_joined_from() -> None:
    fleet = CoordinatorFleet(config(), 3, dict, dict)
    fleet.note("join", client=2, peer="ipv4:1")
    fleet.note("refused", call="SubmitReport", reason="content", line="no", device="", peer="ipv4:1")
    fleet.note("refused", call="SubmitReport", reason="content", line="no", device="", peer="ipv4:2")
    assert [d.refused for d in fleet.snapshot().devices] == [0, 0, 1]
    assert fleet.snapshot().refused[0].count == 2


def test_names_that_cannot_be_read_are_said() -> None:
    def broken() -> dict[int, str]:
        raise UserError("cannot read devices.json")

    found = CoordinatorFleet(config(), 3, dict, broken).snapshot()
    assert found.trouble == "cannot read devices.json"
    assert len(found.devices) == 3


def test_the_fleet_of_a_folder(tmp_path: Path) -> None:
    fleet = FolderFleet(config(), 3, tmp_path)
    assert fleet.snapshot().opened is None
    for round in range(4):
        put(round_folder(tmp_path, round) / PLAN, b"plan")
        for client in range(2):
            put(report_file(tmp_path, round, client), b"report")
        if round == 1:
            fleet.snapshot()
    put(report_file(tmp_path, 3, 2), b"bad")
    put(report_file(tmp_path, 3, 2).with_suffix(".refused"), b"row 1 is not finite\n")
    for _ in range(3):  # looking again counts nothing twice
        found = fleet.snapshot()
    assert found.opened is not None
    assert (found.opened.round, found.opened.reports) == (3, 2)
    assert [(d.state, d.answered, d.refused) for d in found.devices] == [
        ("answered", 4, 0),
        ("answered", 4, 0),
        ("working", 0, 1),
    ]
    assert found.devices[2].last_refusal == "row 1 is not finite"
    put(round_folder(tmp_path, 4) / PLAN, b"plan")
    assert [d.state for d in fleet.snapshot().devices] == ["working", "working", "late"]
    report_file(tmp_path, 3, 2).with_suffix(".refused").unlink()
    assert fleet.snapshot().devices[2].answered == 1


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = FolderFleet(config(), 3, tmp_path)
    put(round_folder(tmp_path, 0) / PLAN, b"plan")
    assert fleet.snapshot().opened is not None

    def gone(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("edgefd_server.monitoring.fleet.os.scandir", gone)
    found = fleet.snapshot()
    assert "Input/output error" in found.trouble
    assert found.opened is not None


# HTTP


@contextmanager
def served(
    token: str | None = None, snapshot: Callable[[], FleetSnapshot] = nobody
) -> Iterator[tuple[StatusServer, StatusBoard]]:
    board = StatusBoard(ABOUT, snapshot)
    server = StatusServer(board, token)
    server.start("127.0.0.1", 0)
    try:
        yield server, board
    finally:
        server.stop()


Got = tuple[int, dict[str, str], bytes]


def ask(server: StatusServer, path: str = "/", method: str = "GET", **headers: str) -> Got:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


def say(server: StatusServer, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as raw:
        raw.sendall(data)
        found = b""
        while piece := raw.recv(65536):
            found += piece
        return found


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


def test_the_page_is_self_contained_and_guarded() -> None:
    with served() as (server, _):
        code, headers, body = ask(server)
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
def test_methods_and_paths(method: str, path: str, code: int) -> None:
    with served() as (server, _):
        found, headers, body = ask(server, path, method)
    assert found == code
    assert "Content-Security-Policy" in headers
    if method == "HEAD":
        assert body == b""
    if code == 405:
        assert headers["Allow"] == "GET, HEAD"
    if code >= 400:
        assert body.count(b"\n") == 1


def test_a_token_is_needed_and_then_kept_in_a_cookie() -> None:
    with served(TOKEN) as (server, _):
        name = f"edgefd-status-{server.port}"
        for path in ("/", "/events", "/other", "/?token=", "/?token=wrong", "/?token=%ff%C3%A9", "/?token=right-toke"):
            code, headers, body = ask(server, path)
            assert code == 403, path
            assert "Set-Cookie" not in headers
            assert body.count(b"\n") == 1
        code, headers, _ = ask(server, f"/?token={TOKEN}")
        assert (code, headers["Location"]) == (303, "/")
        assert headers["Set-Cookie"] == f"{name}={TOKEN}; HttpOnly; SameSite=Lax; Path=/"
        assert ask(server, "/", Cookie=f"other=1; {name}={TOKEN}")[0] == 200
        assert ask(server, "/events", "HEAD", Cookie=f"{name}={TOKEN}")[0] == 200
        assert ask(server, "/", Cookie=f"{name}=wrong")[0] == 403
        assert ask(server, "/", Cookie=f"edgefd-status-1={TOKEN}")[0] == 403


def test_on_this_machine_another_name_or_site_is_refused() -> None:
    with served() as (server, _):
        for host in ("localhost", f"localhost:{server.port}", "127.0.0.1:1", "[::1]:1"):
            assert ask(server, Host=host)[0] == 200, host
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
            assert ask(server, Host=host)[0] == 403, host
        assert ask(server, "/events", "HEAD", Sec_Fetch_Site="cross-site")[0] == 403
        assert ask(server, "/events", "HEAD", Sec_Fetch_Site="same-origin")[0] == 200


def test_requests_that_are_too_large_slow_or_strange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_server_module, "HEAD_SECONDS", 0.3)
    with served() as (server, _):
        assert b" 431 " in say(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
        assert b" 408 " in say(server, b"GET / HTTP/1.1\r\nHost: loc")
        for strange in (
            b"\x16\x03\x01\x02\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET http://x/ HTTP/1.1\r\n\r\n",
            b"\r\n\r\n",
            b"GET //[ HTTP/1.1\r\n\r\n",
        ):
            assert b" 400 " in say(server, strange)
        with socket.create_connection(("127.0.0.1", server.port)):  # hangs up without a word
            pass
        assert ask(server)[0] == 200


def test_events_are_single_lines_of_json_whatever_a_device_is_called() -> None:
    seen = {0: time.monotonic()}
    fleet = CoordinatorFleet(config(), 3, lambda: seen, lambda: {0: EVIL})
    with served(snapshot=fleet.snapshot) as (server, board), listening(server.port) as events:
        event, data = next(events)
        assert event == "message"
        assert data.isascii()
        first = json.loads(data)
        assert abs(first["now"] - time.time()) < 5
        assert first["status"]["fleet"]["devices"][0]["name"] == EVIL
        fleet.note("refused", call="Join", reason="client", line=EVIL, device=EVIL, peer="")
        list(board.watching(lambda rounds: rounds)(iter([metrics(0)])))
        while (found := json.loads(next(events)[1])["status"])["done"] == 0:
            pass
        assert found["fleet"]["refused"][0]["last"] == EVIL
        assert found["points"][0]["heldout"] == 0.5


def test_silence_is_broken_by_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_server_module, "BEAT", 0.2)
    with served() as (server, _), listening(server.port) as events:
        assert next(events)[0] == "message"
        assert [next(events)[0] for _ in range(2)] == ["beat", "beat"]


def test_the_last_event_says_how_it_ended_and_the_stream_closes() -> None:
    with ExitStack() as stack:
        board = StatusBoard(ABOUT, nobody)
        server = StatusServer(board, None)
        server.start("127.0.0.1", 0)
        events = stack.enter_context(listening(server.port))
        next(events)
        board.end("complete")
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 2
        assert [json.loads(data)["status"]["ended"] for _, data in events] == ["complete"]


def test_a_look_that_hangs_does_not_hold_up_the_end_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_server_module, "FAREWELL", 0.2)
    hangs, lets_go = threading.Event(), threading.Event()

    def snapshot() -> FleetSnapshot:
        hangs.set()
        lets_go.wait(30)
        return nobody()

    with served(snapshot=snapshot) as (server, _):
        deaf = socket.create_connection(("127.0.0.1", server.port))
        deaf.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert hangs.wait(10)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    lets_go.set()
    server._thread.join(10)
    assert not server._thread.is_alive()
    server._loop.run_until_complete(server._finish())
    server._loop.close()
    deaf.close()


def test_listeners_are_bounded() -> None:
    with served() as (server, _), ExitStack() as stack:
        for _ in range(LISTENERS):
            next(stack.enter_context(listening(server.port)))
        code, headers, _ = ask(server, "/events")
        assert (code, headers["Retry-After"]) == (503, "5")
        assert ask(server)[0] == 200
        stack.close()
        deadline = time.monotonic() + 10
        while ask(server, "/events", "HEAD")[0] == 503:  # places are free again
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_server_module, "CONNECTIONS", 3)
    with served() as (server, _), ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        time.sleep(0.2)
        assert ask(server)[0] == 503


def test_who_does_not_read_holds_nobody_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_server_module, "SEND_SECONDS", 0.5)
    monkeypatch.setattr(status_server_module, "LOOK", 0.01)
    size = [0]

    def large() -> FleetSnapshot:  # another megabyte at every look
        size[0] += 1
        return FleetSnapshot(None, (), (), f"{size[0]}" + "x" * 2**20)

    with served(snapshot=large) as (server, board):
        deaf = socket.create_connection(("127.0.0.1", server.port))
        deaf.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.3)
        began = time.monotonic()
        list(board.watching(lambda rounds: rounds)(metrics(r) for r in range(200)))
        assert time.monotonic() - began < 0.2  # the run
        with listening(server.port) as events:  # others
            assert json.loads(next(events)[1])["status"]["done"] == 200
        deadline = time.monotonic() + 10
        while server._listeners:  # it is left
            assert time.monotonic() < deadline
            time.sleep(0.05)
        deaf.close()


# the context


def test_shown_says_where_and_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    board = StatusBoard(ABOUT, nobody)

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


def test_beyond_this_machine_a_token_is_made_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with status_server(StatusBoard(ABOUT, nobody), "0.0.0.0:0"):
        url = capsys.readouterr().out.split()[-1]
        port, token = url.rpartition(":")[2].split("/?token=")
        assert len(token) == 43
        for path, code in (("/", 403), (f"/?token={token}", 303)):
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
            connection.request("GET", path)
            assert connection.getresponse().status == code
            connection.close()


@pytest.mark.slow
def test_a_run_through_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = dealt(small(n_clients=2, rounds=3), tmp_path)
    exchange, told = tmp_path / "exchange", list[dict[str, Any]]()

    def reader() -> None:
        port = ""
        while not port:
            port = "".join(re.findall(r"status page: http://127\.0\.0\.1:(\d+)/", capsys.readouterr().out))
            time.sleep(0.02)
        with listening(int(port)) as events:
            told.extend(json.loads(data)["status"] for event, data in events if event == "message")

    reading = threading.Thread(target=reader, daemon=True)
    reading.start()
    with agents(made, tmp_path, range(2)):
        serve(made.prepared.config, exchange, 60, tmp_path / "mine", status="127.0.0.1:0")
    reading.join(30)
    last = told[-1]
    assert (last["run"], last["ended"], last["done"]) == ("mine", "complete", 4)
    assert [(d["state"], d["answered"]) for d in last["fleet"]["devices"]] == [("answered", 4)] * 2
    assert (last["fleet"]["opened"]["closing"], last["fleet"]["trouble"]) == (True, "")


def test_a_thread_is_not_left_behind() -> None:
    with suppress(UserError), socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with status_server(StatusBoard(ABOUT, nobody), str(port)):
            raise AssertionError("the port is taken")
    assert not [t for t in threading.enumerate() if t.name == "status-page"]


@pytest.mark.parametrize("where", ["", "x", "-1", "70000", "host", "127.0.0.1:", ":8080", "1:2:x"])
def test_bad_addresses(where: str) -> None:
    with pytest.raises(UserError, match=r"--status is \[HOST:\]PORT"):
        address(where)
