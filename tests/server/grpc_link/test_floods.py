"""Hostile connections to the device link, over real sockets: honest devices are served, and little is held."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from edgefd_client.grpc_link import GrpcLink, connect
from edgefd_proto import edgefd_pb2 as pb
from edgefd_server import certs
from edgefd_server.grpc_link import server as server_module
from edgefd_server.grpc_link.server import PER_DEVICE, SERVICE
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.device_links import OpenLink, RawDevice, open_device_link, refusal, report
from tests.support.federations import ExportedFederation
from tests.support.floods import RawConnection, idle_connections, raw_connections
from tests.support.waiting import until

Code = grpc.StatusCode


def device(keys: Path, client: int) -> Path:
    return keys / "devices" / f"device-{client}"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_idle_connections_do_not_lock_devices_out(
    federation: ExportedFederation, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS", 50)
    monkeypatch.setattr(server_module, "HANDSHAKE_SECONDS", 2.0)
    with open_device_link(federation, keys) as link:
        before, honest = open_files(), RawDevice(link.address, device(keys, 0))
        session = honest.join(None, link.terms).session
        link.begin()
        with idle_connections(link.grpc_server.port, 200) as flood:
            assert honest.next_task(session).HasField("task")  # a device that is connected stays connected
            newcomer = RawDevice(link.address, device(keys, 1))
            assert open_files() - before - len(flood) < 60
            began = time.monotonic()
            until(lambda: joins(newcomer), 20)
            assert time.monotonic() - began < 15  # the server has closed the idle connections
        assert honest.submit(session, report()).known is False


def joins(device: RawDevice) -> bool:
    try:
        return device.join(None, None).client >= 0
    except grpc.RpcError:
        return False


def test_a_connection_without_calls_is_closed_and_a_device_connects_again(
    federation: ExportedFederation, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "IDLE_SECONDS", 1.0)
    with open_device_link(federation, keys) as link:
        honest = RawDevice(link.address, device(keys, 0))
        session = honest.join(None, link.terms).session
        link.begin()
        with raw_connections(link.grpc_server.port, 1, device(keys, 1)) as (silent,):
            assert silent.closed(20)
        assert honest.next_task(session).HasField("task")


def test_half_messages_of_one_device_hold_few_slots_and_end_in_time(
    federation: ExportedFederation, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "READ_SECONDS", 2.0)
    with open_device_link(federation, keys) as link:
        link.begin()
        honest = RawDevice(link.address, device(keys, 1))
        session = honest.join(None, link.terms).session
        with raw_connections(link.grpc_server.port, 10, device(keys, 0)) as connections:
            for connection in connections:
                for _ in range(8):
                    connection.call("SubmitReport", bytes(1000), 50_000)
            until(lambda: link.refused("SubmitReport", "busy") == 80 - PER_DEVICE, 20)
            assert honest.next_task(session).HasField("task")
            assert not honest.submit(session, report(client=1)).known
            until(lambda: link.refused("SubmitReport", "deadline") == PER_DEVICE, 20)


def test_unread_downloads_of_one_device_hold_few_slots_and_no_files(
    federation: ExportedFederation, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STREAM_SECONDS", 2.0)
    with open_device_link(federation, keys) as link:
        hostile, honest = (RawDevice(link.address, device(keys, client)) for client in (0, 1))
        request = pb.BundleRequest(session=hostile.join(None, None).session, file="proxy.xz").SerializeToString()
        session, before = honest.join(None, None).session, open_files()
        with raw_connections(link.grpc_server.port, 10, device(keys, 0), window=0) as connections:
            for connection in connections:
                for _ in range(8):
                    connection.call("GetBundle", request)
            until(lambda: link.refused("GetBundle", "busy") == 80 - PER_DEVICE, 20)
            assert open_files() - before <= 2 * len(connections) + 1  # both ends of the connections, and one file
            assert honest.file(session, "proxy.xz") == (federation.bundle / "proxy.xz").read_bytes()
            until(lambda: link.refused("GetBundle", "deadline") == PER_DEVICE, 20)


@contextmanager
def no_free_slot(link: OpenLink) -> Iterator[list[RawConnection]]:
    """Keep all slots for messages that are not complete. Without certificates, each connection counts as a device."""
    clients = link.coordinator.info.n_clients
    with raw_connections(link.grpc_server.port, clients) as connections:
        for connection in connections:
            for _ in range(PER_DEVICE):
                connection.call("SubmitReport", b"", 50_000)
        until(lambda: open_calls(link) == PER_DEVICE * clients, 10)
        yield connections


def test_all_slots_in_use_are_a_reason_to_wait(federation: ExportedFederation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "IN_ALL", 1)
    waited: list[str] = []
    with open_device_link(federation) as link, connect(link.address, None, False) as channel:
        with no_free_slot(link) as connections:
            answer = refusal(lambda: RawDevice(link.address).join(0, None))
            assert answer[:2] == (Code.UNAVAILABLE, "busy")
            threading.Timer(0.5, connections[0].socket.close).start()
            honest = GrpcLink(channel, 1, waited.append)
            honest.join(link.terms)
        assert honest.client == 1
    assert "such calls that are not finished: try again later" in waited[0]


def test_a_call_that_ends_without_its_message_is_refused(federation: ExportedFederation) -> None:
    with open_device_link(federation) as link:
        channel = grpc.insecure_channel(link.address)
        call = channel.stream_unary("/edgefd.v1.DeviceLink/Join")
        answer = refusal(lambda: call(iter(()), timeout=10))
        assert answer[:2] == (Code.INVALID_ARGUMENT, "cut")


@pytest.fixture
def revocable(tmp_path: Path) -> Path:
    folder = tmp_path / "certs"
    certs.init(folder, ["127.0.0.1"], 10)
    for client in range(2):
        certs.add_device(folder, f"device-{client}", client, 10)
    return folder


def timed(act: Any) -> tuple[float, Any]:
    began = time.monotonic()
    result = act()
    return time.monotonic() - began, result


def test_a_revoked_certificate_loses_its_poll_its_download_and_its_half_message(
    federation: ExportedFederation, revocable: Path
) -> None:
    with open_device_link(federation, revocable) as link:
        device_0 = RawDevice(link.address, device(revocable, 0))
        session = device_0.join(None, link.terms).session
        poll = device_0.stub.NextTask.future(pb.TaskRequest(session=session, after=-1), timeout=60)
        until(lambda: link.grpc_server.waiting, 20)
        with raw_connections(link.grpc_server.port, 2, device(revocable, 0), window=0) as (first, second):
            request = pb.BundleRequest(session=session, file="proxy.xz").SerializeToString()
            first.call("GetBundle", request)
            second.call("SubmitReport", b"", 50_000)
            until(lambda: open_calls(link) == 3, 20)
            certs.revoke(revocable, "device-0")
            seconds, answer = timed(lambda: refusal(poll.result))
            assert answer[:2] == (Code.PERMISSION_DENIED, "certificate")
            assert "revoked" in answer[2]
            assert seconds < 10  # it checks twice a second; the poll would have taken 30 s
            until(lambda: open_calls(link) == 0, 10)
        for call in ("GetBundle", "SubmitReport"):
            until(lambda call=call: link.refused(call, "certificate") == 1, 10)


def open_calls(link: OpenLink) -> int:
    return len(link.grpc_server._open._calls)


def test_the_health_service_refuses_a_revoked_certificate(federation: ExportedFederation, revocable: Path) -> None:
    with open_device_link(federation, revocable) as link:
        stub = health_pb2_grpc.HealthStub(RawDevice(link.address, device(revocable, 0)).channel)
        for service in (SERVICE, ""):
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        unknown = refusal(lambda: stub.Check(health_pb2.HealthCheckRequest(service="x"), timeout=10))
        assert unknown[0] is Code.NOT_FOUND
        certs.revoke(revocable, "device-0")
        answer = refusal(lambda: stub.Check(health_pb2.HealthCheckRequest(), timeout=10))
        assert answer[:2] == (Code.PERMISSION_DENIED, "certificate")


def test_nothing_is_read_of_a_device_whose_certificate_was_revoked(
    federation: ExportedFederation, revocable: Path
) -> None:
    with open_device_link(federation, revocable) as link:
        connection = RawConnection(link.grpc_server.port, device(revocable, 0))
        certs.revoke(revocable, "device-0")
        connection.call("SubmitReport", bytes(1000), 50_000)
        until(lambda: link.refused("SubmitReport", "certificate") == 1, 10)
        assert open_calls(link) == 0
        connection.socket.close()


def test_a_device_outlives_the_largest_age_of_a_connection(
    federation: ExportedFederation, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "AGE_SECONDS", 1.0)
    monkeypatch.setattr(server_module, "GRACE_SECONDS", 1.0)
    with open_device_link(federation, keys) as link:
        honest = RawDevice(link.address, device(keys, 0))
        session = honest.join(None, link.terms).session
        request = pb.BundleRequest(session=session, file="proxy.xz").SerializeToString()
        with raw_connections(link.grpc_server.port, 1, device(keys, 0), window=0) as (unread,):
            unread.call("GetBundle", request)
            link.begin()
            for _ in range(8):
                assert honest.next_task(session).HasField("task")
                time.sleep(0.5)
            assert unread.closed(10)
        until(lambda: open_calls(link) == 0, 10)
