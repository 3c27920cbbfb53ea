"""The device link over real gRPC: equality with the simulation, lost connections, restarts, polls and the run's end."""

import dataclasses
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path

import grpc
import pytest
from edgefd_client.facts import device_facts
from edgefd_client.grpc_link import GrpcLink, connect
from edgefd_proto import edgefd_pb2 as pb
from edgefd_server.grpc_link.device_facts import MAX_VERSION
from edgefd_server.grpc_link.device_facts import device_facts as read_facts
from edgefd_server.grpc_link.device_service import open_link
from edgefd_server.grpc_link.server import ListenAddress
from edgefd_server.monitoring.prometheus import LinkMetrics, metrics_server
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edgefd.core.errors import RunError, UserError
from edgefd.core.knowledge import Knowledge
from edgefd.core.version import __version__
from edgefd.rounds.loop import run_rounds
from edgefd.runs.execute import make_server
from edgefd.simulation.engine import open_transport
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import COMPLETE
from tests.support.collecting import collecting, contribute_samples, private_data
from tests.support.device_links import (
    CuttableWire,
    RawDevice,
    open_device_link,
    refusal,
    report,
    run_devices,
    sessions_of,
)
from tests.support.federations import ExportedFederation, coordinate, export_federation, ignore_line, same, small
from tests.support.waiting import free_port, until

Code = grpc.StatusCode


def simulated(federation: ExportedFederation) -> list[Knowledge]:
    """Return the teachers of a simulation of the federation."""
    config, data = federation.prepared.config, federation.prepared.federation
    transport = open_transport(config, data)
    transport.start()
    teachers = [r.teacher for r in run_rounds(make_server(config, data), transport)]
    return [teacher for teacher in teachers if teacher is not None]


def test_devices_over_grpc_have_the_teachers_of_the_simulation(
    federation: ExportedFederation, keys: Path, tmp_path: Path
) -> None:
    with open_device_link(federation, keys) as link, run_devices(federation, tmp_path, [link.address] * 3, keys):
        teachers = coordinate(federation, link.coordinator)
    assert same(teachers, simulated(federation))
    assert link.metrics.registry.get_sample_value("edgefd_reports_accepted_total") == 9
    assert {line["event"] for line in link.lines} == {"join", "round", "report", "end"}


def test_devices_over_grpc_equal_the_simulation_if_some_are_absent(keys: Path, tmp_path: Path) -> None:
    two_of_three = small(rounds=4, sections={"coordinator": {"fraction": 0.67}}, catch_up=3)
    federation = export_federation(two_of_three, tmp_path / "federation")
    with open_device_link(federation, keys) as link, run_devices(federation, tmp_path, [link.address] * 3, keys):
        teachers = coordinate(federation, link.coordinator)
    assert same(teachers, simulated(federation))


def test_connections_that_are_cut_after_every_event_lose_no_report(
    federation: ExportedFederation, keys: Path, tmp_path: Path
) -> None:
    with open_device_link(federation, keys, timeout=120) as link:
        wires = [CuttableWire(link.grpc_server.port) for _ in range(3)]
        stop = threading.Event()

        def cut_after_each_event() -> None:
            cuts = 0
            while not stop.wait(0.01):
                if cuts < sum(line["event"] in ("round", "report") for line in link.lines):
                    wire, cuts = wires[cuts % 3], cuts + 1
                    wire.up = False
                    wire.cut()
                    time.sleep(0.2)
                    wire.up = True

        cutter = threading.Thread(target=cut_after_each_event, daemon=True)
        cutter.start()
        with run_devices(federation, tmp_path, [f"127.0.0.1:{wire.port}" for wire in wires], keys):
            try:
                teachers = coordinate(federation, link.coordinator)
            finally:
                stop.set()
                cutter.join()
        for wire in wires:
            wire.close()
    assert sum(wire.cuts for wire in wires) >= 3 + 3  # `close` counts as a cut of each wire
    assert same(teachers, simulated(federation))


def test_a_device_joins_a_restarted_coordinator_again_but_not_another_run(federation: ExportedFederation) -> None:
    port = free_port()
    with connect(f"127.0.0.1:{port}", None, False) as channel:
        device = GrpcLink(channel, 0, ignore_line)
        with open_device_link(federation, port=port) as first:
            device.join(first.terms)
        with open_device_link(federation, port=port) as second:
            second.begin()
            task = device.next_task(-1, federation.expected)
            assert task is not None
            assert task.plan.round == 0
        with (
            open_device_link(federation, port=port, run="another"),
            pytest.raises(RunError, match="at run another now"),
        ):
            device.next_task(-1, federation.expected)


def test_a_restarted_coordinator_gets_the_last_report_again(federation: ExportedFederation) -> None:
    messages: list[str] = []
    port = free_port()
    with connect(f"127.0.0.1:{port}", None, False) as channel:
        device = GrpcLink(channel, 0, messages.append)
        waiting = threading.Thread(target=lambda: device.next_task(0, federation.expected))
        with open_device_link(federation, port=port) as first:
            device.join(first.terms)
            first.begin()
            assert device.next_task(-1, federation.expected) is not None
            device.submit(report(), 0)
            assert first.coordinator.missing() == [1, 2]
            waiting.start()
            until(lambda: bool(first.grpc_server.waiting), 20)
        with open_device_link(federation, port=port) as second:  # it has no session, no report and no open round yet
            until(lambda: second.refused("SubmitReport", "early") > 0, 20)
            second.begin()
            until(lambda: second.coordinator.missing() == [1, 2], 20)
            assert waiting.is_alive()
            second.coordinator.finish(COMPLETE)
            waiting.join(10)
            assert not waiting.is_alive()
    assert not any("too late" in message for message in messages)


def test_a_device_gives_up_a_coordinator_that_does_not_answer(federation: ExportedFederation) -> None:
    with open_device_link(federation) as link:
        port = link.grpc_server.port
        address = f"127.0.0.1:{port}"
        with connect(address, None, False) as channel:
            GrpcLink(channel, 0, ignore_line, 1).join(link.terms)
    messages: list[str] = []
    with connect(address, None, False) as channel:
        device = GrpcLink(channel, 0, messages.append, 1)
        began = time.monotonic()
        with pytest.raises(RunError, match=r"has not answered for \d+ s .* state is kept"):
            device.join(None)
        assert time.monotonic() - began >= 1
    assert "waiting for the coordinator" in messages[0]


def test_a_poll_ends_before_its_deadline_or_when_the_same_device_polls_again(federation: ExportedFederation) -> None:
    with open_device_link(federation) as link:
        device = RawDevice(link.address)
        session = device.join(0, link.terms).session
        assert device.next_task(session, timeout=2.5).HasField("idle")  # not "deadline exceeded"
        replies: list[pb.TaskReply] = []
        older = threading.Thread(target=lambda: replies.append(device.next_task(session)))
        older.start()
        until(lambda: link.grpc_server.waiting, 20)
        newer = threading.Thread(target=lambda: device.next_task(session))
        newer.start()
        older.join(20)
        assert replies[0].HasField("idle")
        link.begin()
        newer.join(20)
        assert not newer.is_alive()


def test_a_device_receives_the_reason_why_the_run_ended(federation: ExportedFederation) -> None:
    with open_device_link(federation, timeout=0.2) as link, connect(link.address, None, False) as channel:
        device = GrpcLink(channel, 0, ignore_line)
        device.join(link.terms)
        with pytest.raises(RunError, match=r"0 of 3 reports after 0\.2 s: no report of client 0, 1, 2"):
            link.coordinator.exchange(link.plan, range(3), None)
        errors: list[RunError] = []

        def poll() -> None:
            try:
                device.next_task(0, federation.expected)
            except RunError as error:
                errors.append(error)

        polling = threading.Thread(target=poll)
        polling.start()
        link.coordinator.finish("the disk is full")
        polling.join(20)
        assert "the coordinator stopped: the disk is full" in str(errors[0])


def test_the_coordinator_waits_until_devices_acknowledge_the_end(federation: ExportedFederation) -> None:
    with open_device_link(federation) as link:
        device = RawDevice(link.address)
        session = device.join(0, link.terms).session
        link.begin()
        assert device.next_task(session, told=True).HasField("task")  # there is no end yet that it could have received
        finishing = threading.Thread(target=link.coordinator.finish, args=(COMPLETE,))
        finishing.start()
        assert device.next_task(session).HasField("end")
        finishing.join(0.5)
        assert finishing.is_alive()  # the answer may be lost
        assert device.next_task(session, told=True).HasField("end")
        finishing.join(20)
        assert not finishing.is_alive()
    assert {line["event"] for line in link.lines} == {"join", "round", "end"}


def test_a_device_checks_the_answers_of_the_coordinator(
    federation: ExportedFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_device_link(federation) as link, connect(link.address, None, False) as channel:
        device = GrpcLink(channel, 0, ignore_line)
        with pytest.raises(UserError, match="codec differ"):
            device.join(dataclasses.replace(link.terms, codec="uint8"))
        device.join(link.terms)
        replies: list[tuple[pb.TaskReply, str]] = [
            (pb.TaskReply(), "unexpected reply from the coordinator"),
            (pb.TaskReply(task=pb.Task(plan=b"\xff")), "cannot read"),
            (pb.TaskReply(task=pb.Task(plan=wire.encode_plan(link.plan))), "round 0 after round 5"),
        ]
        for reply, error in replies:
            monkeypatch.setattr(link.sessions, "next_task", lambda *_, r=reply: r.SerializeToString())
            with pytest.raises(RunError, match=error):
                device.next_task(5, federation.expected)


def test_plaintext_beyond_this_machine_needs_insecure(federation: ExportedFederation, keys: Path) -> None:
    sessions, _ = sessions_of(federation)
    with (
        pytest.raises(
            UserError, match=r"^refusing to listen on 0\.0\.0\.0:0 without TLS: pass --certs DIR .* or --insecure$"
        ),
        open_link(sessions, ListenAddress("0.0.0.0:0", None), LinkMetrics()),
    ):
        pass
    with open_link(sessions, ListenAddress("0.0.0.0:0", None, True), LinkMetrics()) as grpc_server:
        assert RawDevice(f"127.0.0.1:{grpc_server.port}").join(0, None).client == 0
    with pytest.raises(UserError, match="--insecure"):
        connect("192.0.2.1:1", None, False)
    with pytest.raises(UserError, match=r"certs device"):
        connect("192.0.2.1:1", keys, False)


def test_a_port_that_is_taken_is_reported(federation: ExportedFederation) -> None:
    with (
        open_device_link(federation) as link,
        pytest.raises(UserError, match="is the port taken"),
        open_device_link(federation, None, link.grpc_server.port),
    ):
        pass


def test_a_run_refuses_samples_and_a_collector_refuses_the_calls_of_a_run(
    federation: ExportedFederation, tmp_path: Path
) -> None:
    with open_device_link(federation) as link:
        with pytest.raises(RunError, match="the run has its proxy set"):
            contribute_samples(link.address, private_data(tmp_path, 0), tmp_path / "s", client=0)
        assert link.refused("ContributeProxy", "closed") == 1
    messages: list[str] = []
    port = free_port()
    with connect(f"127.0.0.1:{port}", None, False) as channel:
        joining = threading.Thread(target=lambda: GrpcLink(channel, 0, messages.append).join(None), daemon=True)
        with collecting(tmp_path / "c", port=port) as collector:
            device = RawDevice(collector.address)
            for call, send in {
                "Join": lambda: device.join(0, None),
                "NextTask": lambda: device.next_task(b"?"),
                "SubmitReport": lambda: device.submit(b"?", b""),
                "GetBundle": lambda: device.file(b"?", "manifest.json"),
            }.items():
                assert refusal(send)[:2] == (Code.UNAVAILABLE, "early")
                assert collector.refused(call, "early") == 1
            joining.start()
            until(lambda: messages, 20)
            assert "the run has not begun" in messages[0]
            assert joining.is_alive()
        with open_device_link(federation, port=port):  # the device has waited, and joins now
            joining.join(20)
            assert not joining.is_alive()


def test_health_check_and_metrics_are_served(federation: ExportedFederation) -> None:
    with open_device_link(federation) as link:
        stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(link.address))
        reply = stub.Check(health_pb2.HealthCheckRequest(service="edgefd.v1.DeviceLink"), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        RawDevice(link.address).join(0, link.terms)
        with metrics_server(link.metrics, port := free_port()):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                text = page.read().decode()
            with pytest.raises(UserError, match=f"port {port}"), metrics_server(link.metrics, port):
                pass
    for name in (
        "devices_online 1.0",
        "round 0.0",
        'bytes_total{direction="up"}',
        'call_seconds_count{call="Join"} 1.0',
    ):
        assert f"edgefd_{name}" in text


def test_a_device_says_how_it_is_when_it_joins(federation: ExportedFederation, tmp_path: Path) -> None:
    with open_device_link(federation) as link, connect(link.address, None, False) as channel:
        GrpcLink(channel, 1, ignore_line, facts=partial(device_facts, tmp_path / "state")).join(link.terms)
        GrpcLink(channel, 2, ignore_line).join(link.terms)
    with_facts, without = (line for line in link.lines if line["event"] == "join")
    assert with_facts["version"] == __version__
    assert with_facts["free_disk_mib"] > 0
    assert abs(with_facts["clock_offset"]) < 5
    assert set(without) == {"event", "client", "peer"}


def test_facts_of_a_device_are_bounded() -> None:
    hostile = pb.DeviceFacts(version="v\n" * 500, clock=float("inf"), free_memory_mib=2**64 - 1)
    facts = read_facts(hostile, 0.0)
    assert len(str(facts["version"])) <= MAX_VERSION
    assert "\n" not in str(facts["version"])
    assert set(facts) == {"version", "free_memory_mib"}
