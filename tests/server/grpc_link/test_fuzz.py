"""Mutated reports against the coordinator's desk and the decoders: each is accepted or refused with a reason, fast."""

import random
import time
import tracemalloc
from pathlib import Path

import grpc
import numpy as np
import pytest
from edgefd_proto import edgefd_pb2 as pb
from edgefd_server.grpc_link.rate_limit import Rate
from edgefd_server.grpc_link.refusals import Refusal
from edgefd_server.grpc_link.requests import FRAME
from edgefd_server.grpc_link.sessions import DeviceSessions
from edgefd_server.proxy_collection.service import Collector
from edgefd_server.proxy_collection.store import Collection

from edgefd.core.knowledge import Knowledge
from edgefd.federation.report import Report
from edgefd.wire import messages as wire
from edgefd.wire.device_link import PROTOCOL, terms_message
from tests.support.collecting import SHAPE, WANTED, offer
from tests.support.device_links import sessions_of, unlogged
from tests.support.federations import Dealt, dealt, small

REASONS = {"size", "malformed", "session", "superseded", "run", "round", "early", "client", "content", "conflict"}
REASONS |= {"protocol"}
BYTES = (0, 1, 0x7F, 0x80, 0xFF)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dealt:
    return dealt(small(n_clients=2), tmp_path_factory.mktemp("made"))


def seeds(session: bytes, ids: np.ndarray, rng: np.random.Generator) -> list[bytes]:
    """Good requests to begin with."""
    found = []
    for codec in ("float32", "float16", "uint8"):
        for n in (1, 10):
            rows = np.sort(rng.choice(ids, n, replace=False))
            values = rng.dirichlet(np.ones(10), n).astype(np.float32)
            knowledge = Knowledge(rows, values, rng.uniform(0.1, 1, n).astype(np.float32))
            report = wire.encode_report(Report(0, 0, knowledge, {"heldout_accuracy": 0.5, "train_loss": 1.0}), codec)
            found.append(pb.SubmitRequest(session=session, run="test", report=report).SerializeToString())
    return found


def mutated(blob: bytes, rng: random.Random) -> bytes:
    """A few random edits: bytes changed, cut out, put in, repeated, or the end cut off."""
    data = bytearray(blob)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(6)
        span = rng.choice((1, 1, 2, 8, 64))
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[at : at + 1] = bytes([rng.choice(BYTES)])
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


def nested(blob: bytes, rng: random.Random) -> bytes:
    """An edit of the report inside an intact request."""
    request = pb.SubmitRequest.FromString(blob)
    request.report = mutated(request.report, rng)
    return request.SerializeToString()


def fuzz(made: Dealt, count: int) -> dict[str, int]:
    sessions, plan = sessions_of(made, Rate(1e9, 1e9))
    sessions.coordinator.open(plan, None)
    join = pb.JoinRequest(protocol=PROTOCOL, client=0, terms=terms_message(sessions.coordinator.info.terms))
    session = sessions.join(None, join.SerializeToString()).session
    good = seeds(session, plan.ids, np.random.default_rng(0))
    rng, outcomes, slowest = random.Random(0), dict[str, int](), 0.0
    for i in range(count):
        blob = (nested if i % 4 else mutated)(rng.choice(good), rng)
        began = time.perf_counter()
        outcome = attempt(sessions, blob)
        slowest = max(slowest, time.perf_counter() - began)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert slowest < 2.0
    return outcomes


def attempt(sessions: DeviceSessions, blob: bytes) -> str:
    try:
        client, round, known = sessions.submit(None, blob)
    except Refusal as refusal:
        return described(refusal)
    assert (client, round, known) == (0, 0, False)
    now = sessions.coordinator._now
    assert now is not None
    kept = now.reports.pop(0)  # what is accepted is sound, and makes room for the next
    now.digests.clear()
    assert kept.client == 0
    assert kept.knowledge.width == 10
    assert np.isfinite(kept.knowledge.values).all()
    return "accepted"


def described(refusal: Refusal) -> str:
    assert isinstance(refusal.status, grpc.StatusCode)
    assert str(refusal)
    assert refusal.reason in REASONS
    return refusal.reason


def test_mutated_reports_are_accepted_or_refused(made: Dealt) -> None:
    outcomes = fuzz(made, 2_000)
    assert sum(outcomes.values()) == 2_000
    assert {"malformed", "content", "accepted", "session"} <= set(outcomes), outcomes


@pytest.mark.slow
def test_a_hundred_thousand_mutated_reports_within_memory(made: Dealt) -> None:
    fuzz(made, 200)
    tracemalloc.start()
    fuzz(made, 1_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 2**20
    outcomes = fuzz(made, 100_000)
    assert sum(outcomes.values()) == 100_000


def test_a_small_request_cannot_ask_for_much_memory(made: Dealt) -> None:
    sessions, plan = sessions_of(made, Rate(1e9, 1e9))
    sessions.coordinator.open(plan, None)
    join = pb.JoinRequest(protocol=PROTOCOL, client=0, terms=terms_message(sessions.coordinator.info.terms))
    session = sessions.join(None, join.SerializeToString()).session
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
        assert attempt(sessions, blob) in ("malformed", "content")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100 * room


@pytest.mark.parametrize("decode", [wire.decode, wire.decode_plan, wire.decode_report])
def test_no_mutation_crashes_a_decoder(made: Dealt, decode: object) -> None:
    _, plan = sessions_of(made)
    knowledge = Knowledge(np.arange(9), np.full((9, 10), 0.1, np.float32), np.ones(9, np.float32))
    good = {
        wire.decode: wire.encode(knowledge, "float16"),
        wire.decode_plan: wire.encode_plan(plan),
        wire.decode_report: wire.encode_report(Report(1, 2, knowledge, {"a": 1.0}), "float16"),
    }[decode]  # type: ignore[index]
    rng, refused = random.Random(1), 0
    for _ in range(1_000):
        try:
            decode(mutated(good, rng))  # type: ignore[operator]
        except ValueError:
            refused += 1
    assert 0 < refused < 1_000


def test_mutated_contributions_are_kept_whole_or_refused(tmp_path: Path) -> None:
    outcomes, rng, values = dict[str, int](), random.Random(0), np.random.default_rng(0)
    collector = Collector(Collection(tmp_path, WANTED, 10, unlogged), Rate(1e9, 1e9))
    for i in range(400):
        good = offer(values.uniform(-9, 9, (1 + i % 10, *SHAPE)).astype(np.float32))
        if i % 3 == 0:  # an edit of the samples inside an intact request
            good.samples = mutated(good.samples, rng)
        blob = good.SerializeToString()
        if i % 3 and i % 20:
            blob = mutated(blob, rng)
        began = time.perf_counter()
        try:
            reply = collector.contribute(None, blob)
            outcome = "kept" if len(kept(collector)) else "coming"
            assert outcome == "coming" or reply.have == len(kept(collector))
        except Refusal as refusal:
            outcome = described(refusal)
        assert time.perf_counter() - began < 2.0
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome == "kept":  # what is kept is sound, and makes room for the next
            assert np.isfinite(kept(collector)).all()
            assert abs(kept(collector)).max() <= 10
            collector.collection._kept.clear()
            collector.collection._path(0).unlink()
    assert {"kept", "malformed", "content"} <= set(outcomes), outcomes
    assert min(outcomes["kept"], outcomes["content"]) >= 10, outcomes


def kept(collector: Collector) -> np.ndarray:
    """What client 0 has contributed."""
    found = collector.collection._read(0)
    return np.empty((0, *SHAPE)) if found is None else found


def test_seeds_are_good(made: Dealt, tmp_path: Path) -> None:
    sessions, plan = sessions_of(made, Rate(1e9, 1e9))
    sessions.coordinator.open(plan, None)
    join = pb.JoinRequest(protocol=PROTOCOL, client=0, terms=terms_message(sessions.coordinator.info.terms))
    session = sessions.join(None, join.SerializeToString()).session
    assert {attempt(sessions, blob) for blob in seeds(session, plan.ids, np.random.default_rng(0))} == {"accepted"}
