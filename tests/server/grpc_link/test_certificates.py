"""Certificates of the device link: a certificate is one device, and invalid or revoked ones are refused."""

import threading
import time
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import grpc
import pytest
from edgefd_server import certs

from tests.support.device_links import RawDevice, open_device_link, refusal, report, run_devices
from tests.support.federations import ExportedFederation, coordinate
from tests.support.waiting import until

Code = grpc.StatusCode


def test_a_certificate_stands_for_one_client_and_its_newest_session(federation: ExportedFederation, keys: Path) -> None:
    with open_device_link(federation, keys) as link:
        link.begin()
        first = RawDevice(link.address, keys / "devices" / "device-0")
        answer = refusal(lambda: first.join(1, link.terms))
        assert answer[:2] == (Code.PERMISSION_DENIED, "client")
        session = first.join(None, link.terms).session
        other = RawDevice(link.address, keys / "devices" / "device-1")
        stolen = refusal(lambda: other.next_task(session))
        assert stolen[:2] == (Code.PERMISSION_DENIED, "client")
        second = RawDevice(link.address, keys / "devices" / "device-0")  # a second session with it replaces the first
        newer = second.join(None, link.terms).session
        for call in (lambda: first.next_task(session), lambda: first.submit(session, report())):
            answer = refusal(call)
            assert answer[:2] == (Code.ABORTED, "superseded")
            assert "two devices use one certificate" in answer[2]
        assert second.next_task(newer).HasField("task")


def handshake(address: str, ca: bytes, key: bytes | None, pem: bytes | None) -> Code:
    """Return the status with which a connection with that CA, key and certificate is refused."""
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, pem))
    device = RawDevice(address)
    device.stub = type(device.stub)(channel)
    return refusal(lambda: device.join(0, None))[0]


def test_foreign_missing_expired_revoked_and_replaced_certificates_are_refused(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    folder, foreign = tmp_path / "certs", tmp_path / "foreign"
    certs.init(folder, ["127.0.0.1"], 10)
    certs.init(foreign, ["127.0.0.1"], 10)
    valid = certs.add_device(folder, "device-0", 0, 10)
    unrelated = certs.add_device(foreign, "device-0", 0, 10)
    expired = certs.add_device(folder, "old", 1, -0.01)
    with open_device_link(federation, folder) as link:
        ca = (folder / "ca.pem").read_bytes()
        pairs = [tuple((d / n).read_bytes() for n in ("device.key", "device.pem")) for d in (unrelated, expired)]
        for pair in [*pairs, (None, None)]:
            assert handshake(link.address, ca, *pair) is Code.UNAVAILABLE
        assert refusal(lambda: RawDevice(link.address).join(0, None))[0] is Code.UNAVAILABLE  # plaintext
        server = ((folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes())
        assert handshake(link.address, ca, *server) in (Code.PERMISSION_DENIED, Code.UNAVAILABLE)
        assert not link.sessions.joined()
        device = RawDevice(link.address, valid)
        session = device.join(None, link.terms).session
        link.begin()
        assert device.next_task(session).HasField("task")
        certs.revoke(folder, "device-0")  # without a restart, while the connection is open
        answer = refusal(lambda: device.next_task(session))
        assert answer[:2] == (Code.PERMISSION_DENIED, "certificate")
        assert "revoked" in answer[2]
        replacement = certs.add_device(folder, "device-0", 0, 10)
        assert "replaced" in refusal(lambda: device.join(None, None))[2]
        assert RawDevice(link.address, replacement).join(None, link.terms).client == 0
        (folder / "devices.json").write_text("{")
        assert refusal(lambda: device.join(None, None))[:2] == (Code.UNAVAILABLE, "allow-list")


def test_a_waiting_poll_gets_no_task_after_its_certificate_was_revoked(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    certs.init(tmp_path / "certs", ["127.0.0.1"], 10)
    valid = certs.add_device(tmp_path / "certs", "device-0", 0, 10)
    with open_device_link(federation, tmp_path / "certs") as link:
        device = RawDevice(link.address, valid)
        session = device.join(None, link.terms).session
        refusals: list[Any] = []
        poll = threading.Thread(target=lambda: refusals.append(refusal(lambda: device.next_task(session))))
        poll.start()
        until(lambda: link.grpc_server.waiting, 20)
        certs.revoke(tmp_path / "certs", "device-0")
        link.begin()
        poll.join(20)
        assert refusals[0][:2] == (Code.PERMISSION_DENIED, "certificate")


@pytest.mark.parametrize("hours", [-1, 1])
def test_certificates_work_with_clocks_that_differ_by_an_hour(
    federation: ExportedFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Certificates come from a machine whose clock is late or early, as if the clocks of all devices were wrong."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls.fromtimestamp(time.time() + 3600 * hours, tz)

    folder = tmp_path / "certs"
    with monkeypatch.context() as patched:
        patched.setattr(certs, "datetime", Clock)
        certs.init(folder, ["127.0.0.1"], 10)
        for i in range(3):
            certs.add_device(folder, f"device-{i}", i, 10)
    with open_device_link(federation, folder) as link, run_devices(federation, tmp_path, [link.address] * 3, folder):
        teachers = coordinate(federation, link.coordinator)
    assert len(teachers) == 3
