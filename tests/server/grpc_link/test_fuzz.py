"""Mutated reports, teachers, plans and contributions: each is accepted or refused with a reason. Decoders never crash.

Most mutations change bytes; `nasty_report` and `nasty_knowledge` change fields: shapes, codecs, values, metrics.
"""

import contextlib
import os
import random
import tracemalloc
from pathlib import Path

import grpc
import numpy as np
import pytest
from edgefd_proto import edgefd_pb2 as pb
from edgefd_server.coordinator.round_coordinator import Refused
from edgefd_server.grpc_link.refusals import status_of
from edgefd_server.grpc_link.requests import FRAME
from edgefd_server.grpc_link.sessions import DeviceSessions
from edgefd_server.proxy_collection.service import Collector
from edgefd_server.proxy_collection.store import CLIENTS, Collection

from edgefd.core.knowledge import Knowledge
from edgefd.data.npz import read_npz
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.rounds.participation import ParticipationConfig
from edgefd.wire import messages as wire
from edgefd.wire.device_link import PROTOCOL, terms_message
from edgefd.wire.expected import Expected
from tests.support.collecting import SHAPE, WANTED, contribute_request
from tests.support.device_links import UNLIMITED, sessions_of
from tests.support.federations import ExportedFederation, export_federation, ignore_event, small

FUZZED = int(os.environ.get("EDGEFD_FUZZ", "60000"))
"""messages of each of the three slow tests"""
CODECS = ("float32", "float16", "uint8", "uint4", "simplex15")
REASONS = {"size", "malformed", "session", "superseded", "run", "round", "early", "client", "content", "conflict"}
REASONS |= {"protocol"}
SPECIAL_BYTES = (0, 1, 0x7F, 0x80, 0xFF)
NUMBERS = (0, 1, 2, 9, 10, 11, 255, 2**16, 2**26 - 1, 2**31, 2**32 - 1)
VALUES = (-1.0, -1e-6, 0.0, 0.5, 1.0, 1.01, 10.0, 60000.0, 1e30, float("inf"), float("nan"))
METRICS = ("accuracy", "correct/0", "correct/zz", "bin_count/0", "class_kl/0", "train_loss", "heldout_accuracy", "")
METRICS += ("\x1b[2J", "x" * 999)


@pytest.fixture(scope="module", params=["float16", "uint8", "simplex15"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    """A federation of two clients."""
    config = small(n_clients=2, sections={"codec": {"name": request.param}})
    return export_federation(config, tmp_path_factory.mktemp("pair"))


def some_knowledge(ids: np.ndarray, n: int, rng: np.random.Generator) -> Knowledge:
    """Return honest knowledge of `n` rows: soft labels, rows with few values, or labels."""
    values = rng.dirichlet(np.ones(10), n).astype(np.float32)
    weights = rng.uniform(0.1, 1, n).astype(np.float32)
    form = rng.integers(3)
    if form == 1:
        values[:] = 0.05
        values[np.arange(n), rng.integers(0, 10, n)] = 0.55
    elif form == 2:
        values, weights = np.eye(10, dtype=np.float32)[rng.integers(0, 10, n)], np.ones(n, np.float32)
    return Knowledge(np.sort(rng.choice(ids, n, replace=False)), values, weights)


def valid_reports(ids: np.ndarray, codec: str, rng: np.random.Generator) -> list[bytes]:
    """Return serialised reports, most of them in the codec of the federation, from which mutations start."""
    metrics = {"heldout_accuracy": 0.5, "train_loss": 1.0}
    codecs = (*CODECS, *[codec] * 8)
    return [
        wire.encode_report(Report(0, 0, some_knowledge(ids, n, rng), metrics), each) for each in codecs for n in (1, 10)
    ]


def nasty_knowledge(message: pb.Knowledge, rng: random.Random) -> None:
    """Change fields of knowledge: its shape, its codec or its values."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        match rng.randrange(9):
            case 0:
                message.width = rng.choice(NUMBERS)
            case 1:
                message.kept = rng.choice(NUMBERS)
            case 2:
                message.codec = rng.choice(list(pb.Codec.values()))
            case 3:
                message.id_gaps[:] = [rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 2, 100)))]
            case 4:
                message.classes = rng.randbytes(rng.choice((0, 1, 5, 100)))
            case 5:
                message.rows = rng.choice(NUMBERS)
            case 6:
                message.runs = rng.choice(NUMBERS)
            case 7:
                dtype = "<f4" if message.codec == pb.CODEC_FLOAT32 else "<f2"
                with np.errstate(over="ignore"):
                    message.values = np.full(len(message.values) // int(dtype[2]), rng.choice(VALUES), dtype).tobytes()
            case _:
                message.weights = rng.randbytes(len(message.weights))


def nasty_report(blob: bytes, rng: random.Random) -> bytes:
    """Change fields of a report."""
    report = pb.Report.FromString(blob)
    if rng.random() < 0.3:
        report.metrics[rng.choice(METRICS)] = rng.choice((*VALUES, 1.7e308))
    else:
        nasty_knowledge(report.knowledge, rng)
    return report.SerializeToString()


def check_received(knowledge: Knowledge, ids: np.ndarray | range) -> None:
    """Check that accepted knowledge is what an honest sender could have sent."""
    assert knowledge.width == 10
    assert np.isin(knowledge.ids, ids).all()
    assert ((knowledge.values >= 0) & (knowledge.values <= 1)).all()
    assert (np.abs(knowledge.values.sum(1) - 1) < 0.05).all()
    assert ((knowledge.weights > 0) & (knowledge.weights <= 1)).all()


def mutate(blob: bytes, rng: random.Random) -> bytes:
    """Apply a few random edits: bytes are changed, removed, inserted or repeated, or the end is cut off."""
    data = bytearray(blob)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(6)
        span = rng.choice((1, 1, 2, 8, 64))
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[at : at + 1] = bytes([rng.choice(SPECIAL_BYTES)])
        elif kind == 2:
            del data[at : at + span]
        elif kind == 3:
            data[at:at] = rng.randbytes(span)
        elif kind == 4:
            data[at:at] = data[at : at + span] * rng.choice((1, 1, 1, 200))
        else:
            del data[at:]
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


def open_session(pair: ExportedFederation) -> tuple[DeviceSessions, RoundPlan, bytes]:
    """Open round 0, which one report ends, and return the sessions, the plan and the session of client 0."""
    sessions, plan = sessions_of(pair, UNLIMITED, rules=ParticipationConfig(min_reports=1))
    sessions.coordinator.open(plan, range(2), None)
    join = pb.JoinRequest(protocol=PROTOCOL, client=0, terms=terms_message(sessions.coordinator.info.terms))
    return sessions, plan, sessions.join(None, join.SerializeToString()).session


def fuzz(pair: ExportedFederation, count: int) -> dict[str, int]:
    """Submit mutated reports and return how many had each outcome."""
    sessions, plan, session = open_session(pair)
    tracemalloc.reset_peak()  # reading the bundle takes more than all reports
    reports = valid_reports(plan.ids, sessions.coordinator.info.terms.codec, np.random.default_rng(0))
    rng, outcomes = random.Random(0), dict[str, int]()
    for i in range(count):
        report = rng.choice(reports)
        if i % 4 < 3:
            report = nasty_report(report, rng) if i % 2 else mutate(report, rng)
        blob = pb.SubmitRequest(session=session, run="test", report=report).SerializeToString()
        outcome = submit(sessions, plan, mutate(blob, rng) if i % 4 == 3 else blob)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def submit(sessions: DeviceSessions, plan: RoundPlan, blob: bytes) -> str:
    """Submit a request and return the outcome. After an accepted report, which must be valid, the round opens again."""
    try:
        known = sessions.submit(None, blob)
    except Refused as refusal:
        return checked_reason(refusal)
    assert not known
    (report,) = sessions.coordinator.collect()
    assert report.client == 0
    check_received(report.knowledge, plan.ids)
    for name, value in report.metrics.items():
        assert 0 <= value <= 1 if name == "heldout_accuracy" else name in ("train_loss", "distil_loss")
        assert abs(value) <= 1e6
    sessions.coordinator.open(plan, range(2), None)
    return "accepted"


def checked_reason(refusal: Refused) -> str:
    assert isinstance(status_of(refusal), grpc.StatusCode)
    assert str(refusal)
    assert refusal.reason in REASONS
    return refusal.reason


def fuzz_teachers(pair: ExportedFederation, count: int) -> int:
    """Decode mutated teachers as a device does, and return how many were accepted."""
    expected, rng, accepted = pair.expected.teacher, random.Random(1), 0
    assert isinstance(expected.ids, range)
    ids, values = np.arange(len(expected.ids)), np.random.default_rng(1)
    teachers = [wire.encode(some_knowledge(ids, n, values), expected.codec) for n in (1, 10) for _ in range(9)]
    for i in range(count):
        blob = rng.choice(teachers)
        if i % 2:
            message = pb.Knowledge.FromString(blob)
            nasty_knowledge(message, rng)
            blob = message.SerializeToString()
        accepted += decoded(mutate(blob, rng) if i % 4 < 2 else blob, expected)
    return accepted


def decoded(blob: bytes, expected: Expected) -> bool:
    """Return whether a teacher is accepted; it is then one that an honest coordinator could have sent."""
    with contextlib.suppress(ValueError):
        check_received(wire.decode(blob, expected), expected.ids)
        return True
    return False


def fuzz_plans(pair: ExportedFederation, count: int) -> int:
    """Decode mutated plans as a device does, and return how many were accepted."""
    n, rng, accepted = pair.expected.n_proxy, random.Random(2), 0
    blob = wire.encode_plan(RoundPlan(3, np.arange(0, n, 2)))
    for i in range(count):
        message = pb.RoundPlan.FromString(blob)
        message.id_gaps[:] = [rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 2, 100)))]
        with contextlib.suppress(ValueError):
            plan = wire.decode_plan(message.SerializeToString() if i % 2 else mutate(blob, rng), n)
            assert not len(plan.ids) or (plan.ids[0] >= 0 and plan.ids[-1] < n and (np.diff(plan.ids) > 0).all())
            accepted += 1
    return accepted


def test_mutated_reports_are_accepted_or_refused(pair: ExportedFederation) -> None:
    outcomes = fuzz(pair, 2_000)
    assert sum(outcomes.values()) == 2_000
    assert {"malformed", "content", "accepted", "session"} <= set(outcomes), outcomes


def test_mutated_teachers_and_plans_are_accepted_or_refused(pair: ExportedFederation) -> None:
    for fuzzed in (fuzz_teachers, fuzz_plans):
        assert 0 < fuzzed(pair, 1_000) < 1_000


@pytest.mark.slow
def test_many_mutated_reports_within_memory(pair: ExportedFederation) -> None:
    fuzz(pair, 200)
    tracemalloc.start()
    fuzz(pair, 1_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    outcomes = fuzz(pair, FUZZED)
    assert sum(outcomes.values()) == FUZZED


@pytest.mark.slow
def test_many_mutated_teachers_and_plans(pair: ExportedFederation) -> None:
    for fuzzed in (fuzz_teachers, fuzz_plans):
        assert 0 < fuzzed(pair, FUZZED // 2) < FUZZED // 2


def test_a_small_request_cannot_ask_for_much_memory(pair: ExportedFederation) -> None:
    sessions, plan, session = open_session(pair)
    room = sessions.limit - FRAME
    huge = [
        pb.Knowledge(width=2**32 - 1, codec=1),
        pb.Knowledge(id_gaps=[1], width=2**32 - 1, codec=1),
        pb.Knowledge(id_gaps=[1] * (room // 2), width=0, codec=1),
        pb.Knowledge(id_gaps=[2**32 - 1] * (room // 6), width=10, codec=3),
        pb.Knowledge(width=10, codec=pb.CODEC_SIMPLEX15, rows=2**32 - 1, runs=1, values=b"\xff" * 600),
    ]
    for knowledge in huge:
        report = pb.Report(client=0, knowledge=knowledge).SerializeToString()
        blob = pb.SubmitRequest(session=session, run="test", report=report).SerializeToString()
        tracemalloc.start()
        assert submit(sessions, plan, blob) == "content"
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**16  # other threads of the process count, too


def test_mutated_contributions_are_stored_whole_or_refused(tmp_path: Path) -> None:
    outcomes, rng, values = dict[str, int](), random.Random(0), np.random.default_rng(0)

    def new_collector() -> Collector:
        folder = tmp_path / str(sum(outcomes.values()))
        return Collector(Collection(folder, WANTED, 10, ignore_event), UNLIMITED)

    collector = new_collector()
    for i in range(400):
        request = contribute_request(values.uniform(-9, 9, (1 + i % 10, *SHAPE)).astype(np.float32))
        if i % 3 == 0:  # a mutation of the samples inside an otherwise intact request
            request.samples = mutate(request.samples, rng)
        blob = request.SerializeToString()
        if i % 3 and i % 20:
            blob = mutate(blob, rng)
        try:
            reply = collector.contribute(None, blob)
            stored = collector.collection.contributors.get(0)
            outcome = "partial" if stored is None else "stored"
            assert stored in (None, reply.have)
        except Refused as refusal:
            outcome = checked_reason(refusal)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome == "stored":  # the stored samples are valid; the next ones go to a new collector
            x = read_npz(collector.collection.folder / CLIENTS / "000.npz", ("x",))["x"]
            assert len(x) == reply.have
            assert np.isfinite(x).all()
            assert abs(x).max() <= 10
            collector = new_collector()
    assert {"stored", "malformed", "content"} <= set(outcomes), outcomes
    assert min(outcomes["stored"], outcomes["content"]) >= 10, outcomes


def test_the_requests_from_which_mutations_start_are_accepted(pair: ExportedFederation) -> None:
    sessions, plan, session = open_session(pair)
    codec = sessions.coordinator.info.terms.codec
    for report in valid_reports(plan.ids, codec, np.random.default_rng(0)):
        blob = pb.SubmitRequest(session=session, run="test", report=report).SerializeToString()
        sent = pb.Report.FromString(report).knowledge.codec
        labels = codec != "simplex15" and sent == pb.CODEC_LABEL
        expected = "accepted" if labels or sent == wire.CODEC_NUMBERS[codec] else "content"
        assert submit(sessions, plan, blob) == expected
