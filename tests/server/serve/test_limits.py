"""What a coordinator's process does about its open files and about noise on stderr, as users run it."""

import errno
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from edgefd_server import certs
from edgefd_server.monitoring import http_server
from edgefd_server.monitoring.prometheus import LinkMetrics, MetricsServer

from edgefd.core import descriptors
from edgefd.core.descriptors import SHORTAGES, patient, raise_file_limit
from edgefd.core.json_files import append_json_line
from edgefd.runs.checkpoint import CHECKPOINT, Checkpoint, save_checkpoint
from tests.support.descriptors import no_free_descriptors
from tests.support.fork_server import environment
from tests.support.waiting import until

SOFT_LIMIT = 256


@contextmanager
def collector(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """Run `edgefd collect` with certificates and a low limit of open files; yield process, port and file of stderr."""
    certs.init(folder / "certs", ["127.0.0.1"], 10)
    (folder / "c.yaml").write_text("data: {name: mnist_mini, limit: 600}\n")
    # The shell lowers the limit: a function of Python between fork and exec would also run gRPC's own code there.
    command = ["sh", "-c", f'ulimit -Sn {SOFT_LIMIT}; exec "$@"', "sh"]
    command += [sys.executable, "-m", "edgefd", "collect", "c.yaml", "--listen", "127.0.0.1:0", "--out", "out"]
    command += ["--shape", "1,28,28", "--dtype", "uint8", "--certs", "certs"]
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment("proto", "server", "client"),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline().split()[-1]), folder / "stderr"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_a_process_raises_its_limit_and_strangers_cause_no_lines(tmp_path: Path) -> None:
    with collector(tmp_path) as (process, port, stderr):
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
        assert soft == hard
        context = ssl.create_default_context(cafile=str(tmp_path / "certs" / "ca.pem"))
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with socket.create_connection(("127.0.0.1", port)) as raw:
                try:
                    with context.wrap_socket(raw, server_hostname="127.0.0.1") as stranger:
                        stranger.recv(1)
                except OSError:
                    pass
        time.sleep(0.5)
        assert stderr.read_text() == ""


def test_a_limit_can_be_raised_only_as_far_as_the_system_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def refuse(what: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_file_limit()
    assert asked == [(resource.RLIM_INFINITY, resource.RLIM_INFINITY)]
    assert descriptors.file_limit() == 256


def test_work_waits_for_a_file_descriptor_and_the_shortage_is_counted(tmp_path: Path) -> None:
    """A checkpoint and a line of metrics are written although all file descriptors were in use at first."""
    before = SHORTAGES.count
    with no_free_descriptors() as free:

        def free_later() -> None:
            until(lambda: SHORTAGES.count > before, 20)
            free()

        other = threading.Thread(target=free_later)
        other.start()
        save_checkpoint(tmp_path, Checkpoint("run", "config"))
        append_json_line(tmp_path / "metrics.jsonl", {"round": 0})
        other.join()
    assert (tmp_path / CHECKPOINT).exists()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"round": 0}\n'
    assert LinkMetrics().registry.get_sample_value("edgefd_file_shortages") == SHORTAGES.count > before


def test_a_shortage_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "PATIENCE", 0.0)

    def fails() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(OSError, match="Too many open files"):
        patient(fails)()


@contextmanager
def metrics_server() -> Iterator[MetricsServer]:
    server = MetricsServer(LinkMetrics())
    server.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        server.stop()


def reply(server: MetricsServer, head: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as raw:
        raw.sendall(head.encode() + b"\r\n\r\n")
        data = b""
        while piece := raw.recv(65536):
            data += piece
        return data


def test_metrics_are_for_this_machine_and_not_for_web_pages() -> None:
    with metrics_server() as server:
        page = reply(server, "GET /metrics HTTP/1.1\r\nHost: localhost:1")
        assert b" 200 " in page
        assert b"edgefd_round 0.0" in page
        assert b"Content-Type: text/plain; version=" in page
        assert b" 403 " in reply(server, "GET /metrics HTTP/1.1\r\nHost: evil.example")
        assert b" 403 " in reply(server, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site")
        assert b" 404 " in reply(server, "GET /other HTTP/1.1\r\nHost: localhost")


def test_idle_connections_to_a_page_are_limited_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "CONNECTIONS", 5)
    monkeypatch.setattr(http_server, "MORE_CONNECTIONS", 5)
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 1.0)
    with metrics_server() as server:
        flood = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(50)]
        time.sleep(0.2)
        assert len(server._open) <= 10
        until(lambda: not server._open, 20)
        assert b" 200 " in reply(server, "GET /metrics HTTP/1.1\r\nHost: localhost")
        for connection in flood:
            connection.close()


def test_a_page_survives_that_all_file_descriptors_are_in_use() -> None:
    with metrics_server() as server, socket.socket() as caller:
        before = SHORTAGES.count
        with no_free_descriptors():
            caller.connect(("127.0.0.1", server.port))
            until(lambda: SHORTAGES.count > before, 20)
        caller.settimeout(20)
        caller.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in caller.recv(100)
