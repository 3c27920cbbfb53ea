"""Mutated reports and contributions: the coordinator accepts each or refuses it with a reason. Decoders never crash."""

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
from tests.support.collecting import SHAPE, WANTED, contribute_request
from tests.support.device_links import UNLIMITED, sessions_of
from tests.support.federations import ExportedFederation, export_federation, ignore_event, small

REASONS = {"size", "malformed", "session", "superseded", "run", "round", "early", "client", "content", "conflict"}
REASONS |= {"protocol"}
SPECIAL_BYTES = (0, 1, 0x7F, 0x80, 0xFF)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    """A federation of two clients."""
    return export_federation(small(n_clients=2), tmp_path_factory.mktemp("pair"))


def valid_requests(session: bytes, ids: np.ndarray, rng: np.random.Generator) -> list[bytes]:
    """Return valid requests, from which mutations start."""
    requests = []
    for codec in ("float32", "float16", "uint8"):
        for n in (1, 10):
            rows = np.sort(rng.choice(ids, n, replace=False))
            values = rng.dirichlet(np.ones(10), n).astype(np.float32)
            knowledge = Knowledge(rows, values, rng.uniform(0.1, 1, n).astype(np.float32))
            report = wire.encode_report(Report(0, 0, knowledge, {"heldout_accuracy": 0.5, "train_loss": 1.0}), codec)
            requests.append(pb.SubmitRequest(session=session, run="test", report=report).SerializeToString())
    return requests


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


def mutate_report(blob: bytes, rng: random.Random) -> bytes:
    """Mutate the report inside an otherwise intact request."""
    request = pb.SubmitRequest.FromString(blob)
    request.report = mutate(request.report, rng)
    return request.SerializeToString()


def open_session(pair: ExportedFederation) -> tuple[DeviceSessions, RoundPlan, bytes]:
    """Open round 0, which one report ends, and return the sessions, the plan and the session of client 0."""
    sessions, plan = sessions_of(pair, UNLIMITED, rules=ParticipationConfig(min_reports=1))
    sessions.coordinator.open(plan, range(2), None)
    join = pb.JoinRequest(protocol=PROTOCOL, client=0, terms=terms_message(sessions.coordinator.info.terms))
    return sessions, plan, sessions.join(None, join.SerializeToString()).session


def fuzz(pair: ExportedFederation, count: int) -> dict[str, int]:
    """Submit mutated reports and return how many had each outcome."""
    sessions, plan, session = open_session(pair)
    requests = valid_requests(session, plan.ids, np.random.default_rng(0))
    rng, outcomes = random.Random(0), dict[str, int]()
    for i in range(count):
        blob = (mutate_report if i % 4 else mutate)(rng.choice(requests), rng)
        outcome = submit(sessions, plan, blob)
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
    assert report.knowledge.width == 10
    assert np.isfinite(report.knowledge.values).all()
    sessions.coordinator.open(plan, range(2), None)
    return "accepted"


def checked_reason(refusal: Refused) -> str:
    assert isinstance(status_of(refusal), grpc.StatusCode)
    assert str(refusal)
    assert refusal.reason in REASONS
    return refusal.reason


def test_mutated_reports_are_accepted_or_refused(pair: ExportedFederation) -> None:
    outcomes = fuzz(pair, 2_000)
    assert sum(outcomes.values()) == 2_000
    assert {"malformed", "content", "accepted", "session"} <= set(outcomes), outcomes


@pytest.mark.slow
def test_a_hundred_thousand_mutated_reports_within_memory(pair: ExportedFederation) -> None:
    fuzz(pair, 200)
    tracemalloc.start()
    fuzz(pair, 1_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 2**20
    outcomes = fuzz(pair, 100_000)
    assert sum(outcomes.values()) == 100_000


def test_a_small_request_cannot_ask_for_much_memory(pair: ExportedFederation) -> None:
    sessions, plan, session = open_session(pair)
    room = sessions.limit - FRAME
    huge = [
        pb.Knowledge(width=2**32 - 1, codec=1),
        pb.Knowledge(id_gaps=[1], width=2**32 - 1, codec=1),
        pb.Knowledge(id_gaps=[1] * (room // 2), width=0, codec=1),
        pb.Knowledge(id_gaps=[2**32 - 1] * (room // 6), width=10, codec=3),
    ]
    for knowledge in huge:
        report = pb.Report(client=0, knowledge=knowledge).SerializeToString()
        blob = pb.SubmitRequest(session=session, run="test", report=report).SerializeToString()
        tracemalloc.start()
        assert submit(sessions, plan, blob) in ("malformed", "content")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100 * room


@pytest.mark.parametrize("decode", [wire.decode, wire.decode_plan, wire.decode_report])
def test_no_mutation_crashes_a_decoder(pair: ExportedFederation, decode: object) -> None:
    _, plan = sessions_of(pair)
    knowledge = Knowledge(np.arange(9), np.full((9, 10), 0.1, np.float32), np.ones(9, np.float32))
    message = {
        wire.decode: wire.encode(knowledge, "float16"),
        wire.decode_plan: wire.encode_plan(plan),
        wire.decode_report: wire.encode_report(Report(1, 2, knowledge, {"a": 1.0}), "float16"),
    }[decode]  # type: ignore[index]
    rng, refused = random.Random(1), 0
    for _ in range(1_000):
        try:
            decode(mutate(message, rng))  # type: ignore[operator]
        except ValueError:
            refused += 1
    assert 0 < refused < 1_000


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
    requests = valid_requests(session, plan.ids, np.random.default_rng(0))
    assert {submit(sessions, plan, request) for request in requests} == {"accepted"}
