"""Calls of devices that the coordinator refuses, with status, reason and text, and counts."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from edgefd_client.grpc_link import GrpcLink, connect
from edgefd_proto import edgefd_pb2 as pb
from edgefd_server.grpc_link.rate_limit import Rate

from edgefd.core.errors import RunError
from edgefd.wire.device_link import PROTOCOL, terms_message
from edgefd.wire.exchange_folder import decode_info, encode_info
from tests.support.device_links import RawDevice, open_device_link, refusal, report, uniform_knowledge
from tests.support.federations import ExportedFederation
from tests.support.waiting import until

Code = grpc.StatusCode


def raw_report(**changes: Any) -> bytes:
    """Return a report of client 0 with these fields of its knowledge changed."""
    fields = {"id_gaps": [1, 1], "width": 10, "codec": 2, "values": np.full(20, 0.1, np.float16).tobytes()} | changes
    return pb.Report(client=0, round=0, knowledge=pb.Knowledge(**fields)).SerializeToString()


BAD_REPORTS = [
    ("another device's number", report(client=1), Code.PERMISSION_DENIED, "client", "of client 1"),
    ("another round inside", report(round=1), Code.INVALID_ARGUMENT, "content", "for round 1"),
    (
        "NaN",
        raw_report(values=np.full(20, np.nan, np.float16).tobytes()),
        Code.INVALID_ARGUMENT,
        "malformed",
        "must be finite",
    ),
    ("rows twice", raw_report(id_gaps=[1, 0]), Code.INVALID_ARGUMENT, "malformed", "unique"),
    ("rows that do not exist", raw_report(id_gaps=[1, 10**6]), Code.INVALID_ARGUMENT, "content", "row 1000001"),
    (
        "other classes",
        report(knowledge=uniform_knowledge(width=3)),
        Code.INVALID_ARGUMENT,
        "content",
        "3 values per row",
    ),
    (
        "no probabilities",
        raw_report(values=np.full(20, 60000, np.float16).tobytes()),
        Code.INVALID_ARGUMENT,
        "content",
        "soft labels are from 0 to 1",
    ),
    (
        "another codec",
        report(codec="float32"),
        Code.INVALID_ARGUMENT,
        "content",
        "codec 1, but float16 (2) is expected",
    ),
    (
        "an accuracy on a test set",
        report(metrics={"accuracy": 1.0}),
        Code.INVALID_ARGUMENT,
        "content",
        "unknown metric 'accuracy'",
    ),
    (
        "a loss that is not finite in a sum",
        report(metrics={"train_loss": 1.7e308}),
        Code.INVALID_ARGUMENT,
        "content",
        "train_loss is 1.7e+308",
    ),
    ("half", raw_report(values=b"123"), Code.INVALID_ARGUMENT, "malformed", "3 bytes where 40"),
    ("no message", b"\xff\xff\xff", Code.INVALID_ARGUMENT, "malformed", "not an edgefd.v1.Report"),
    ("oversize", bytes(20_000), Code.RESOURCE_EXHAUSTED, "size", "the limit is"),
]


@pytest.mark.parametrize(
    ("blob", "status", "reason", "line"), [case[1:] for case in BAD_REPORTS], ids=[case[0] for case in BAD_REPORTS]
)
def test_a_bad_report_is_refused_and_counted(
    federation: ExportedFederation, keys: Path, blob: bytes, status: Code, reason: str, line: str
) -> None:
    with open_device_link(federation, keys) as link:
        link.begin()
        device = RawDevice(link.address, keys / "devices" / "device-0")
        session = device.join(None, link.terms).session
        device.next_task(session)
        answer = refusal(lambda: device.submit(session, blob))
        assert answer[:2] == (status, reason)
        assert line in answer[2]
        assert link.refused("SubmitReport", reason) == 1
        refusals = [event for event in link.lines if event["event"] == "refused"]
        assert refusals[0]["device"] == "device-0"
        assert not device.submit(session, report()).known  # the round continues, and a valid report is accepted
        assert link.coordinator.missing() == [1, 2]


@pytest.mark.parametrize("size", [120_000, 10**6, 4 * 10**6])
def test_an_oversized_report_is_refused_with_the_reason_and_the_limit(
    federation: ExportedFederation, size: int
) -> None:
    with open_device_link(federation) as link:
        device = RawDevice(link.address)
        session = device.join(0, link.terms).session
        answer = refusal(lambda: device.submit(session, bytes(size)))
        assert answer[:2] == (Code.RESOURCE_EXHAUSTED, "size")
        assert "the limit is" in answer[2]


def test_grpc_itself_ends_the_call_of_a_far_longer_report_and_a_device_does_not_repeat_it(
    federation: ExportedFederation,
) -> None:
    waited: list[str] = []
    with open_device_link(federation) as link, connect(link.address, None, False) as channel:
        device = GrpcLink(channel, 0, waited.append)
        device.join(link.terms)
        link.begin()
        with pytest.raises(RunError, match=r"the coordinator refused: .*larger than max .*RESOURCE_EXHAUSTED"):
            device.submit(bytes(5 * 2**20), 0)
        assert not waited
        until(lambda: link.refused("SubmitReport", "cut") == 1, 10)  # it is counted all the same


def test_a_call_that_does_not_exist_is_refused_with_a_reason(federation: ExportedFederation) -> None:
    with open_device_link(federation) as link:
        call = grpc.insecure_channel(link.address).unary_unary("/edgefd.v2.DeviceLink/Join")
        answer = refusal(lambda: call(b"", timeout=10))
        assert answer[:2] == (Code.UNIMPLEMENTED, "protocol")
        assert link.refused("unknown", "protocol") == 1


def rewritten(text: str) -> str:
    """Return a JSON object as another program may write it: keys in another order, 3 for 3.0, other spaces."""
    return json.dumps(plain(json.loads(text)), separators=(" ,", ":  "), sort_keys=True, indent=1)


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(value[key]) for key in reversed(value)}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def test_a_device_that_writes_its_own_json_has_the_same_terms(federation: ExportedFederation) -> None:
    with open_device_link(federation) as link:
        terms = terms_message(link.terms)
        terms.method_config, before = rewritten(terms.method_config), terms.method_config
        assert terms.method_config != before
        terms.defence = '{ "name":"none" }'
        request = pb.JoinRequest(protocol=PROTOCOL, client=0, terms=terms)
        assert RawDevice(link.address).stub.Join(request, timeout=10).client == 0
        terms.method_config = before.replace("4", "5")
        other = pb.JoinRequest(protocol=PROTOCOL, client=0, terms=terms)
        assert refusal(lambda: RawDevice(link.address).stub.Join(other, timeout=10))[1] == "terms"
        info = json.loads(encode_info(link.coordinator.info))
        assert decode_info(json.dumps(plain(info)).encode()).terms == link.terms  # the same in an exchange folder


def test_words_of_a_device_are_short_and_escaped_in_the_log(federation: ExportedFederation) -> None:
    with open_device_link(federation) as link:
        device = RawDevice(link.address)
        session = device.join(0, link.terms).session
        answer = refusal(lambda: device.submit(session, b"", run="\x1b[2J\x07" + "x" * 5_000))
        lines = [event["line"] for event in link.lines if event["event"] == "refused"]
        assert answer[2] == lines[0]
        assert len(lines[0]) <= 500
        assert lines[0].isprintable()
        assert r"\x1b[2J" in lines[0]


def test_a_repeated_report_counts_once_and_a_different_one_is_refused(federation: ExportedFederation) -> None:
    with open_device_link(federation) as link:
        device = RawDevice(link.address)
        session = device.join(0, link.terms).session
        early = refusal(lambda: device.submit(session, report()))
        assert early[:2] == (Code.UNAVAILABLE, "early")
        link.begin()
        device.next_task(session)
        assert not device.submit(session, report()).known
        assert device.submit(session, report()).known
        assert link.metrics.registry.get_sample_value("edgefd_reports_accepted_total") == 1
        other = refusal(lambda: device.submit(session, report(knowledge=uniform_knowledge(2))))
        assert other[:2] == (Code.ALREADY_EXISTS, "conflict")
        late = refusal(lambda: device.submit(session, report(round=7), round=7))
        assert late[:2] == (Code.FAILED_PRECONDITION, "round")
        foreign = refusal(lambda: device.submit(session, report(), run="another"))
        assert foreign[:2] == (Code.FAILED_PRECONDITION, "run")


@pytest.mark.parametrize(
    ("send", "status", "reason", "line"),
    [
        (lambda d, t: d.join(0, t, protocol=1), Code.FAILED_PRECONDITION, "protocol", "speaks version 1"),
        (
            lambda d, t: d.join(0, dataclasses.replace(t, proxy_sha256="0" * 64)),
            Code.FAILED_PRECONDITION,
            "terms",
            "proxy_sha256 differ",
        ),
        (lambda d, t: d.join(3, t), Code.INVALID_ARGUMENT, "client", "0 to 2"),
        (lambda d, t: d.join(None, t), Code.INVALID_ARGUMENT, "client", "must say which client"),
        (lambda d, _: d.next_task(d.join(0, None).session), Code.FAILED_PRECONDITION, "session", "terms"),
        (lambda d, _: d.next_task(b"guess"), Code.FAILED_PRECONDITION, "session", "join again"),
        (lambda d, t: d.file(d.join(0, t).session, "../certs/ca.key"), Code.NOT_FOUND, "file", "no file"),
        (lambda d, t: d.file(d.join(0, t).session, "init.xz", 10**9), Code.OUT_OF_RANGE, "file", "bytes"),
    ],
)
def test_a_call_that_does_not_fit_the_federation_is_refused_and_counted(
    federation: ExportedFederation, send: Callable[[RawDevice, Any], object], status: Code, reason: str, line: str
) -> None:
    with open_device_link(federation) as link:
        link.begin()
        answer = refusal(lambda: send(RawDevice(link.address), link.terms))
        assert answer[:2] == (status, reason)
        assert line in answer[2]
        counted = sum(link.refused(call, reason) for call in ("Join", "NextTask", "GetBundle"))
        assert counted == 1


def test_a_device_that_calls_too_often_is_refused_until_its_bucket_refills(federation: ExportedFederation) -> None:
    now = [0.0]
    with open_device_link(federation, rate=Rate(per_second=5, burst=3), clock=lambda: now[0]) as link:
        link.begin()
        device, other = RawDevice(link.address), RawDevice(link.address)
        session, other_session = device.join(0, link.terms).session, other.join(1, link.terms).session
        reasons = [refusal(lambda: device.submit(session, b"?"))[1] for _ in range(10)]
        assert reasons == ["malformed"] * 2 + ["rate"] * 8  # joining took the first of three calls
        assert other.next_task(other_session).HasField("task")  # other clients are not limited
        now[0] += 0.2
        assert device.next_task(session).HasField("task")


BOMB = """
import sys
import grpc

address, folder, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
ca, key, certificate = (open(f"{folder}/{name}", "rb").read() for name in ("ca.pem", "device.key", "device.pem"))
options = [("grpc.max_send_message_length", -1)]
with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate), options) as channel:
    submit = channel.unary_unary("/edgefd.v1.DeviceLink/SubmitReport")
    try:
        submit(bytes(size), timeout=60, compression=grpc.Compression.Gzip)
    except grpc.RpcError as error:
        print(error.code().name)
"""


def peak() -> int:
    """Return the peak of this process's memory in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read as Linux gives it")
def test_a_compressed_message_is_not_unpacked_beyond_the_limit(federation: ExportedFederation, keys: Path) -> None:
    """512 MiB of zeros are 0.5 MiB on the network: older versions of grpcio unpacked them before they looked."""
    with open_device_link(federation, keys) as link:
        link.begin()
        RawDevice(link.address, keys / "devices" / "device-0").join(None, link.terms)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        before = peak()
        command = [sys.executable, "-c", BOMB, link.address, str(keys / "devices" / "device-0"), str(2**29)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
        assert done.stdout == "RESOURCE_EXHAUSTED\n"
        assert peak() - before < 50
