"""The device link over real gRPC: parity, identities, what is refused, what is survived."""

import dataclasses
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from edgefd_client.agent import run_agent
from edgefd_client.bundle_download import fetch_bundle
from edgefd_client.grpc_link import GrpcLink, connect
from edgefd_client.sources import NpzSource, client_data
from edgefd_proto import edgefd_pb2 as pb
from edgefd_server import certs
from edgefd_server.grpc_link.device_service import ListenAddress, open_link
from edgefd_server.grpc_link.rate_limit import Rate
from edgefd_server.monitoring.prometheus import make_metrics, serve_metrics
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edgefd.core.errors import RunError, UserError
from edgefd.core.knowledge import Knowledge
from edgefd.federation.report import Report
from edgefd.rounds.loop import run_rounds
from edgefd.rounds.participation import plans
from edgefd.simulation.engine import open_transport
from edgefd.wire import messages as wire
from edgefd.wire.bundle_reader import read_bundle
from edgefd.wire.exchange_folder import COMPLETE
from tests.support.collecting import collecting, gives, private
from tests.support.device_links import Raw, Wire, opened, refusal, sessions_of, some
from tests.support.federations import Dealt, coordinate, dealt, in_threads, quiet, same, small
from tests.support.waiting import free_port, until

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dealt:
    return dealt(small(), tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "certs"
    certs.init(folder, ["localhost", "127.0.0.1"], 10)
    for i in range(3):
        certs.add_device(folder, f"device-{i}", i, 10)
    return folder


def simulated(made: Dealt) -> list[Knowledge]:
    config, federation = made.prepared.config, made.prepared.federation
    transport = open_transport(config, federation)
    transport.start()
    todo = plans(config.seed, np.arange(len(federation.proxy)), config.train)
    found = [r.teacher for r in run_rounds(config.method, config.method_config, transport, todo)]
    return [t for t in found if t is not None]


def devices(made: Dealt, folder: Path, addresses: list[str], keys: Path | None) -> AbstractContextManager[None]:
    """Agents in threads, which fetch their bundle."""

    def one(i: int) -> None:
        with connect(addresses[i], keys and keys / "devices" / f"device-{i}", False) as channel:
            link = GrpcLink(channel, None if keys else i, quiet)
            link.join(None)
            read = read_bundle(fetch_bundle(link, folder / f"state{i}"))
            link.join(read.manifest.terms)
            data = client_data(NpzSource(made.data[link.client]), read, link.client)
            run_agent(link, read, data, folder / f"state{i}", quiet)

    return in_threads(one, range(len(addresses)))


def test_devices_over_grpc_have_the_teachers_of_the_simulation(made: Dealt, keys: Path, tmp_path: Path) -> None:
    with opened(made, keys) as link, devices(made, tmp_path, [link.address] * 3, keys):
        teachers = coordinate(made, link.coordinator)
    assert same(teachers, simulated(made))
    assert link.metrics.registry.get_sample_value("edgefd_reports_accepted_total") == 9
    assert {line["event"] for line in link.lines} == {"join", "round", "report", "end"}


def test_a_wire_that_is_cut_again_and_again_loses_nothing(made: Dealt, keys: Path, tmp_path: Path) -> None:
    with opened(made, keys) as link:
        wires = [Wire(link.grpc_server.port) for _ in range(3)]
        stop = threading.Event()

        def cut_again_and_again() -> None:
            while not stop.wait(0.3):
                wire = wires[len(link.lines) % 3]
                wire.up = False
                wire.cut()
                time.sleep(0.2)
                wire.up = True

        cutter = threading.Thread(target=cut_again_and_again, daemon=True)
        cutter.start()
        with devices(made, tmp_path, [f"127.0.0.1:{w.port}" for w in wires], keys):
            try:
                teachers = coordinate(made, link.coordinator)
            finally:
                stop.set()
                cutter.join()
        for w in wires:
            w.close()
    assert sum(w.cuts for w in wires) > 3
    assert same(teachers, simulated(made))


def test_a_session_that_the_coordinator_forgot_is_opened_anew(made: Dealt) -> None:
    with opened(made) as link, connect(link.address, None, False) as channel:
        device = GrpcLink(channel, 0, quiet)
        device.join(link.terms)
        link.sessions._sessions.clear()  # as after a restart
        link.sessions._boot = b"another!"
        link.begin()
        task = device.next_task(-1)
        assert task is not None
        assert task.plan.round == 0
        link.coordinator.info = dataclasses.replace(link.coordinator.info, run="another")
        link.sessions._sessions.clear()
        link.sessions._boot = b"a third!"
        with pytest.raises(RunError, match="at run another now"):
            device.next_task(-1)


def test_a_restarted_coordinator_gets_the_last_report_again(made: Dealt) -> None:
    said: list[str] = []
    port = free_port()
    with connect(f"127.0.0.1:{port}", None, False) as channel:
        device = GrpcLink(channel, 0, said.append)
        asking = threading.Thread(target=lambda: device.next_task(0))
        with opened(made, port=port) as first:
            device.join(first.terms)
            first.begin()
            assert device.next_task(-1) is not None
            device.submit(report(), 0)
            assert first.coordinator.missing() == [1, 2]
            asking.start()
            until(lambda: bool(first.grpc_server._polls), 20)
        with opened(made, port=port) as second:  # it knows no session and no report, and has not opened its round yet
            until(lambda: second.refused("SubmitReport", "early") > 0, 20)
            second.begin()
            until(lambda: second.coordinator.missing() == [1, 2], 20)
            assert asking.is_alive()
            second.coordinator.finish(COMPLETE)
            asking.join(10)
            assert not asking.is_alive()
    assert not any("too late" in line for line in said)


def test_a_coordinator_that_is_gone_is_given_up(made: Dealt) -> None:
    with opened(made) as link:
        port = link.grpc_server.port
        address = f"127.0.0.1:{port}"
        with connect(address, None, False) as channel:
            GrpcLink(channel, 0, quiet, 1).join(link.terms)
    said: list[str] = []
    with connect(address, None, False) as channel:
        device = GrpcLink(channel, 0, said.append, 1)
        began = time.monotonic()
        with pytest.raises(RunError, match=r"has not answered for \d+ s .* state is kept"):
            device.join(None)
        assert 1 <= time.monotonic() - began < 10
    assert "waiting for the coordinator" in said[0]


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_may_differ_by_an_hour(made: Dealt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """Certificates from a machine whose clock is late or early, which is the same as devices whose clock is not."""

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
    with opened(made, folder) as link, devices(made, tmp_path, [link.address] * 3, folder):
        teachers = coordinate(made, link.coordinator)
    assert len(teachers) == 3


def test_a_download_that_is_cut_goes_on_where_it_was(made: Dealt, tmp_path: Path) -> None:
    with opened(made) as link:
        wire = Wire(link.grpc_server.port)
        wire.limit = 400_000
        with connect(f"127.0.0.1:{wire.port}", None, False) as channel:
            device = GrpcLink(channel, 0, quiet)
            device.join(None)
            found = fetch_bundle(device, tmp_path)
        wire.close()
    assert wire.cuts >= 1
    largest = max(f.stat().st_size for f in found.iterdir())
    assert largest > wire.limit  # so a restart from nothing at each cut would never end
    assert read_bundle(found).digest == made.read().digest


def test_half_a_file_is_kept_and_a_wrong_one_is_not_believed(made: Dealt, tmp_path: Path) -> None:
    digest = made.read().digest
    part = tmp_path / f"bundle-{digest[:16]}.part"
    part.mkdir()
    (part / "model.onnx").write_bytes((made.bundle / "model.onnx").read_bytes()[:1000])
    (part / "init.npz").write_bytes(b"something else")
    with opened(made) as link, connect(link.address, None, False) as channel:
        device = GrpcLink(channel, 0, quiet)
        device.join(None)
        with pytest.raises(RunError, match=r"init\.npz of the coordinator is not the file that it announced"):
            fetch_bundle(device, tmp_path)
        assert read_bundle(fetch_bundle(device, tmp_path)).digest == digest
        device._reply.manifest_sha256 = "../" + digest[3:]
        with pytest.raises(RunError, match="names a bundle"):
            fetch_bundle(device, tmp_path)


def report(client: int = 0, round: int = 0, knowledge: Knowledge | None = None) -> bytes:
    return wire.encode_report(Report(client, round, knowledge or some()), "float32")


def raw_report(**changes: Any) -> bytes:
    fields = {"id_gaps": [1, 1], "width": 10, "codec": 1, "values": np.full(20, 0.1, np.float32).tobytes()} | changes
    return pb.Report(client=0, round=0, knowledge=pb.Knowledge(**fields)).SerializeToString()


BAD = [
    ("another device's number", report(client=1), Code.PERMISSION_DENIED, "client", "of client 1"),
    ("another round inside", report(round=1), Code.INVALID_ARGUMENT, "content", "for round 1"),
    (
        "NaN",
        raw_report(values=np.full(20, np.nan, np.float32).tobytes()),
        Code.INVALID_ARGUMENT,
        "malformed",
        "must be finite",
    ),
    ("rows twice", raw_report(id_gaps=[1, 0]), Code.INVALID_ARGUMENT, "malformed", "unique"),
    ("rows that there are not", raw_report(id_gaps=[1, 10**6]), Code.INVALID_ARGUMENT, "content", "row 1000001"),
    ("other classes", report(knowledge=some(width=3)), Code.INVALID_ARGUMENT, "content", "3 values a row"),
    ("half", raw_report(values=b"123"), Code.INVALID_ARGUMENT, "malformed", "3 bytes where 80"),
    ("no message", b"\xff\xff\xff", Code.INVALID_ARGUMENT, "malformed", "not an edgefd.v1.Report"),
    ("oversize", bytes(120_000), Code.RESOURCE_EXHAUSTED, "size", "at most"),
]


@pytest.mark.parametrize(("blob", "status", "reason", "line"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_report_is_refused_and_counted(
    made: Dealt, keys: Path, blob: bytes, status: Code, reason: str, line: str
) -> None:
    with opened(made, keys) as link:
        link.begin()
        device = Raw(link.address, keys / "devices" / "device-0")
        session = device.join(None, link.terms).session
        device.task(session)
        found = refusal(lambda: device.submit(session, blob))
        assert found[:2] == (status, reason)
        assert line in found[2]
        assert link.refused("SubmitReport", reason) == 1
        refused = [entry for entry in link.lines if entry["event"] == "refused"]
        assert refused[0]["device"] == "device-0"
        assert not device.submit(session, report()).known  # the round goes on: a good one is taken
        assert link.coordinator.missing() == [1, 2]


def test_a_message_far_beyond_the_limit_is_cut_off_by_grpc(made: Dealt) -> None:
    with opened(made) as link:
        device = Raw(link.address)
        session = device.join(0, link.terms).session
        assert refusal(lambda: device.submit(session, bytes(10**6)))[0] is Code.RESOURCE_EXHAUSTED


def test_replays_count_once_and_other_bytes_are_refused(made: Dealt) -> None:
    with opened(made) as link:
        device = Raw(link.address)
        session = device.join(0, link.terms).session
        early = refusal(lambda: device.submit(session, report()))
        assert early[:2] == (Code.UNAVAILABLE, "early")
        link.begin()
        device.task(session)
        assert not device.submit(session, report()).known
        assert device.submit(session, report()).known
        assert link.metrics.registry.get_sample_value("edgefd_reports_accepted_total") == 1
        other = refusal(lambda: device.submit(session, report(knowledge=some(2))))
        assert other[:2] == (Code.ALREADY_EXISTS, "conflict")
        late = refusal(lambda: device.submit(session, report(round=7), round=7))
        assert late[:2] == (Code.FAILED_PRECONDITION, "round")
        foreign = refusal(lambda: device.submit(session, report(), run="another"))
        assert foreign[:2] == (Code.FAILED_PRECONDITION, "run")


@pytest.mark.parametrize(
    ("join", "status", "reason", "line"),
    [
        (lambda d, t: d.join(0, t, protocol=2), Code.FAILED_PRECONDITION, "protocol", "speaks version 2"),
        (
            lambda d, t: d.join(0, dataclasses.replace(t, proxy_sha256="0" * 64)),
            Code.FAILED_PRECONDITION,
            "terms",
            "proxy_sha256 differ",
        ),
        (lambda d, t: d.join(3, t), Code.INVALID_ARGUMENT, "client", "0 to 2"),
        (lambda d, t: d.join(None, t), Code.INVALID_ARGUMENT, "client", "must say which client"),
        (lambda d, _: d.task(d.join(0, None).session), Code.FAILED_PRECONDITION, "session", "terms"),
        (lambda d, _: d.task(b"guess"), Code.FAILED_PRECONDITION, "session", "join again"),
        (lambda d, t: d.file(d.join(0, t).session, "../certs/ca.key"), Code.NOT_FOUND, "file", "no file"),
        (lambda d, t: d.file(d.join(0, t).session, "init.npz", 10**9), Code.OUT_OF_RANGE, "file", "bytes"),
    ],
)
def test_who_does_not_fit_gets_nowhere(
    made: Dealt, join: Callable[[Raw, Any], object], status: Code, reason: str, line: str
) -> None:
    with opened(made) as link:
        link.begin()
        found = refusal(lambda: join(Raw(link.address), link.terms))
        assert found[:2] == (status, reason)
        assert line in found[2]
        counted = sum(link.refused(call, reason) for call in ("Join", "NextTask", "GetBundle"))
        assert counted == 1


def test_a_certificate_is_one_device(made: Dealt, keys: Path) -> None:
    with opened(made, keys) as link:
        link.begin()
        first = Raw(link.address, keys / "devices" / "device-0")
        found = refusal(lambda: first.join(1, link.terms))
        assert found[:2] == (Code.PERMISSION_DENIED, "client")
        session = first.join(None, link.terms).session
        other = Raw(link.address, keys / "devices" / "device-1")
        stolen = refusal(lambda: other.task(session))
        assert stolen[:2] == (Code.PERMISSION_DENIED, "client")
        second = Raw(link.address, keys / "devices" / "device-0")  # the same certificate twice: the newer session holds
        newer = second.join(None, link.terms).session
        for call in (lambda: first.task(session), lambda: first.submit(session, report())):
            found = refusal(call)
            assert found[:2] == (Code.ABORTED, "superseded")
            assert "two devices use one certificate" in found[2]
        assert second.task(newer).HasField("task")


def handshake(address: str, ca: bytes, key: bytes | None, pem: bytes | None) -> Code:
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, pem))
    raw = Raw(address)
    raw.stub = type(raw.stub)(channel)
    return refusal(lambda: raw.join(0, None))[0]


def test_wrong_missing_expired_and_revoked_certificates(made: Dealt, tmp_path: Path) -> None:
    folder, foreign = tmp_path / "certs", tmp_path / "foreign"
    certs.init(folder, ["127.0.0.1"], 10)
    certs.init(foreign, ["127.0.0.1"], 10)
    mine = certs.add_device(folder, "device-0", 0, 10)
    theirs = certs.add_device(foreign, "device-0", 0, 10)
    expired = certs.add_device(folder, "old", 1, -0.01)
    with opened(made, folder) as link:
        ca = (folder / "ca.pem").read_bytes()
        pairs = [tuple((d / n).read_bytes() for n in ("device.key", "device.pem")) for d in (theirs, expired)]
        for pair in [*pairs, (None, None)]:
            assert handshake(link.address, ca, *pair) is Code.UNAVAILABLE
        assert refusal(lambda: Raw(link.address).join(0, None))[0] is Code.UNAVAILABLE  # plaintext
        server = ((folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes())
        assert handshake(link.address, ca, *server) in (Code.PERMISSION_DENIED, Code.UNAVAILABLE)
        assert not link.sessions.joined()
        device = Raw(link.address, mine)
        session = device.join(None, link.terms).session
        link.begin()
        assert device.task(session).HasField("task")
        certs.revoke(folder, "device-0")  # no restart, and the connection is open
        found = refusal(lambda: device.task(session))
        assert found[:2] == (Code.PERMISSION_DENIED, "certificate")
        assert "revoked" in found[2]
        replacement = certs.add_device(folder, "device-0", 0, 10)
        assert "replaced" in refusal(lambda: device.join(None, None))[2]
        assert Raw(link.address, replacement).join(None, link.terms).client == 0
        (folder / "devices.json").write_text("{")
        assert refusal(lambda: device.join(None, None))[:2] == (Code.UNAVAILABLE, "allow-list")


def test_a_poll_that_waits_is_not_answered_after_revocation(made: Dealt, tmp_path: Path) -> None:
    certs.init(tmp_path / "c", ["127.0.0.1"], 10)
    mine = certs.add_device(tmp_path / "c", "device-0", 0, 10)
    with opened(made, tmp_path / "c") as link:
        device = Raw(link.address, mine)
        session = device.join(None, link.terms).session
        found: list[Any] = []
        poll = threading.Thread(target=lambda: found.append(refusal(lambda: device.task(session))))
        poll.start()
        while not link.grpc_server._polls:
            time.sleep(0.01)
        certs.revoke(tmp_path / "c", "device-0")
        link.begin()
        poll.join(10)
        assert found[0][:2] == (Code.PERMISSION_DENIED, "certificate")


def test_a_device_that_calls_too_often_must_wait(made: Dealt) -> None:
    with opened(made, rate=Rate(5, 3)) as link:
        link.begin()
        device, other = Raw(link.address), Raw(link.address)
        session, theirs = device.join(0, link.terms).session, other.join(1, link.terms).session
        outcomes = {refusal(lambda: device.submit(session, b"?"))[1] for _ in range(10)}
        assert outcomes == {"malformed", "rate"}
        assert other.task(theirs).HasField("task")  # others are not held up
        time.sleep(0.5)
        assert device.task(session).HasField("task")


def test_a_poll_is_answered_before_its_deadline_and_by_the_newest_call(made: Dealt) -> None:
    with opened(made) as link:
        device = Raw(link.address)
        session = device.join(0, link.terms).session
        began = time.monotonic()
        assert device.task(session, timeout=2.5).HasField("idle")
        assert time.monotonic() - began < 2
        found: list[pb.TaskReply] = []
        older = threading.Thread(target=lambda: found.append(device.task(session)))
        older.start()
        while not link.grpc_server._polls:
            time.sleep(0.01)
        newer = threading.Thread(target=lambda: device.task(session))
        newer.start()
        older.join(5)
        assert found[0].HasField("idle")
        link.begin()
        newer.join(5)
        assert not newer.is_alive()


def test_the_end_is_told_with_its_reason(made: Dealt) -> None:
    with opened(made, timeout=0.2) as link, connect(link.address, None, False) as channel:
        device = GrpcLink(channel, 0, quiet)
        device.join(link.terms)
        with pytest.raises(RunError, match=r"0 of 3 reports after 0\.2 s: no report of client 0, 1, 2"):
            link.coordinator.exchange(link.plan, None)
        ends: list[BaseException] = []

        def ask() -> None:
            try:
                device.next_task(0)
            except RunError as error:
                ends.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        link.coordinator.finish("the disk is full")
        asking.join(5)
        assert "the coordinator stopped: the disk is full" in str(ends[0])


def test_the_coordinator_stays_until_its_devices_say_that_they_have_had_the_end(made: Dealt) -> None:
    with opened(made) as link:
        device = Raw(link.address)
        session = device.join(0, link.terms).session
        link.begin()
        assert device.task(session, told=True).HasField("task")  # there is no end yet that it could have had
        finishing = threading.Thread(target=link.coordinator.finish, args=(COMPLETE,))
        finishing.start()
        assert device.task(session).HasField("end")
        finishing.join(0.5)
        assert finishing.is_alive()  # the answer may be lost on the way
        assert device.task(session, told=True).HasField("end")
        finishing.join(5)
        assert not finishing.is_alive()
    assert {line["event"] for line in link.lines} == {"join", "round", "end"}


def test_a_device_believes_nothing_either(made: Dealt, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(made) as link, connect(link.address, None, False) as channel:
        device = GrpcLink(channel, 0, quiet)
        with pytest.raises(UserError, match="codec differ"):
            device.join(dataclasses.replace(link.terms, codec="uint8"))
        device.join(link.terms)
        answers: list[tuple[pb.TaskReply, str]] = [
            (pb.TaskReply(), "unexpected reply from the coordinator"),
            (pb.TaskReply(task=pb.Task(plan=b"\xff")), "cannot read"),
            (pb.TaskReply(task=pb.Task(plan=wire.encode_plan(link.plan))), "round 0 after round 5"),
        ]
        for answer, says in answers:
            monkeypatch.setattr(link.sessions, "task", lambda _client, _after, a=answer: a.SerializeToString())
            with pytest.raises(RunError, match=says):
                device.next_task(5)


def test_plaintext_stays_on_this_machine(made: Dealt, keys: Path) -> None:
    sessions, _ = sessions_of(made)
    with (
        pytest.raises(UserError, match="--insecure"),
        open_link(sessions, ListenAddress("0.0.0.0:0", None), make_metrics()),
    ):
        pass
    with open_link(sessions, ListenAddress("0.0.0.0:0", None, True), make_metrics()) as grpc_server:
        assert grpc_server.port
    with pytest.raises(UserError, match="--insecure"):
        connect("192.0.2.1:1", None, False)
    with pytest.raises(UserError, match=r"certs device"):
        connect("192.0.2.1:1", keys, False)


def test_a_port_that_is_taken_is_said(made: Dealt) -> None:
    with (
        opened(made) as link,
        pytest.raises(UserError, match="is the port taken"),
        opened(made, None, link.grpc_server.port),
    ):
        pass


def test_a_run_takes_no_samples_and_a_collector_has_no_run(made: Dealt, tmp_path: Path) -> None:
    with opened(made) as link:
        with pytest.raises(RunError, match="the run has its proxy set"):
            gives(link.address, private(tmp_path, 0), tmp_path / "s", client=0)
        assert link.refused("ContributeProxy", "closed") == 1
    said: list[str] = []
    port = free_port()
    with connect(f"127.0.0.1:{port}", None, False) as channel:
        joining = threading.Thread(target=lambda: GrpcLink(channel, 0, said.append).join(None), daemon=True)
        with collecting(tmp_path / "c", port=port) as there:
            device = Raw(there.address)
            for call, act in {
                "Join": lambda: device.join(0, None),
                "NextTask": lambda: device.task(b"?"),
                "SubmitReport": lambda: device.submit(b"?", b""),
                "GetBundle": lambda: device.file(b"?", "manifest.json"),
            }.items():
                assert refusal(act)[:2] == (Code.UNAVAILABLE, "early")
                assert there.refused(call, "early") == 1
            joining.start()
            until(lambda: said, 10)
            assert "the run has not begun" in said[0]
            assert joining.is_alive()
        with opened(made, port=port):  # the device has waited, and joins
            joining.join(20)
            assert not joining.is_alive()


def test_health_and_metrics(made: Dealt) -> None:
    with opened(made) as link:
        stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(link.address))
        answer = stub.Check(health_pb2.HealthCheckRequest(service="edgefd.v1.DeviceLink"), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        Raw(link.address).join(0, link.terms)
        stop = serve_metrics(link.metrics, port := free_port())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            text = page.read().decode()
        with pytest.raises(UserError, match=f"port {port}"):
            serve_metrics(link.metrics, port)
        stop()
    for name in (
        "devices_online 1.0",
        "round 0.0",
        'bytes_total{direction="up"}',
        'call_seconds_count{call="Join"} 1.0',
    ):
        assert f"edgefd_{name}" in text
