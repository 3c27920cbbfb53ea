"""A federation in which one of the clients sends reports that would spoil the teacher, or end devices or the server."""

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from edgefd_proto import edgefd_pb2 as pb
from edgefd_server.coordinator.round_coordinator import Refused, RoundCoordinator

from edgefd.core.knowledge import Knowledge
from edgefd.federation.method import Method
from edgefd.federation.terms import FederationInfo
from edgefd.methods import get_method
from edgefd.rounds.client import client_round
from edgefd.rounds.loop import RoundResult, run_rounds
from edgefd.rounds.participation import ParticipationConfig
from edgefd.rounds.server import Server
from edgefd.rounds.validation import expected_teacher
from edgefd.runs.facts import GroundTruth
from edgefd.runs.round_metrics import measure
from edgefd.wire import messages as wire
from tests.support.linear_clients import CLASSES, CLIENTS, LABELS, ROWS, in_round, new_clients, new_server
from tests.support.waiting import until

HOSTILE, HONEST = 3, (0, 1, 2)
OFTEN, SOMETIMES = ("edgefd", "fkd", "comet"), ("fedmd", "selective_fd", "dsfl", "kt_pfl", "weighted_fd", "scarlet")
RULES = ParticipationConfig(min_reports=len(HONEST), deadline_s=600.0)


def hostile_reports(round: int, ids: np.ndarray) -> Iterator[bytes]:
    """Yield serialised reports of the hostile client for a round, each of which must be refused."""

    def report(codec: int, dtype: str, *row: float, **metrics: float) -> bytes:
        values = np.tile(np.array(row, dtype), (len(ids), 1)).tobytes()
        gaps = np.diff(ids, prepend=0).tolist()
        knowledge = pb.Knowledge(id_gaps=gaps, width=len(row), codec=codec, values=values)  # type: ignore[arg-type]
        message = pb.Report(client=HOSTILE, round=round, knowledge=knowledge, metrics=metrics)
        return message.SerializeToString()

    yield report(pb.CODEC_FLOAT32, "<f4", *[1e30] * CLASSES)
    yield report(pb.CODEC_FLOAT16, "<f2", *[60000] * CLASSES)
    yield report(pb.CODEC_FLOAT16, "<f2", *[float("inf")] * CLASSES)
    yield report(pb.CODEC_FLOAT16, "<f2", -20000, 3, 0, 0)
    yield report(pb.CODEC_FLOAT16, "<f2", 0.25, 0.25, 0.25, 0.25, accuracy=1.0)
    yield report(pb.CODEC_FLOAT16, "<f2", 0.25, 0.25, 0.25, 0.25, train_loss=1.7e308)
    yield report(pb.CODEC_FLOAT16, "<f2", 0.25, 0.25, 0.25, 0.25, **{"correct/zz": 1.0})


def float16_server(method: Method) -> Server:
    made = new_server(method)
    terms = replace(made.terms, method=method.name, method_config=asdict(method.config()), codec="float16")
    return replace(made, terms=terms, participation=RULES)


def run(method: Method, hostile: bool) -> tuple[list[RoundResult], list[tuple[str, dict[str, Any]]]]:
    """Run all rounds with three honest clients; the fourth is silent, or hostile. Return the results and the events."""
    server, results, events = float16_server(method), list[RoundResult](), list[tuple[str, dict[str, Any]]]()
    rules = RULES if hostile else replace(RULES, deadline_s=None)
    info = FederationInfo("run", len(CLIENTS), server.terms)
    coordinator = RoundCoordinator(info, 60.0, lambda event, **fields: events.append((event, fields)), rules)
    thread = threading.Thread(target=lambda: results.extend(run_rounds(server, coordinator)), daemon=True)
    thread.start()
    clients = new_clients(method)
    for r in range(server.terms.training.rounds + 1):
        until(lambda r=r: (o := coordinator.round) is not None and o.plan.round == r, 20)  # type: ignore[misc]
        opened = coordinator.round
        assert opened is not None
        if hostile:
            for data in hostile_reports(r, opened.plan.ids):
                with pytest.raises(Refused):
                    coordinator.submit(HOSTILE, r, data)
        expected = expected_teacher(method, server.terms, ROWS, len(CLIENTS))
        teacher = None if opened.teacher is None else wire.decode(opened.teacher, expected)
        for client in HONEST:
            report = client_round(method, in_round(clients[client], r), teacher)
            coordinator.submit(client, r, wire.encode_report(report, "float16"))
    thread.join(20)
    assert not thread.is_alive()
    return results, events


@pytest.mark.parametrize("name", [*OFTEN, *(pytest.param(name, marks=pytest.mark.slow) for name in SOMETIMES)])
def test_a_hostile_client_changes_no_bit_of_the_teacher_and_delays_no_round(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The deadline of a round, 600 s, is far beyond the time of this test."""
    method = get_method(name)
    with caplog.at_level(logging.WARNING, "edgefd_server"):
        results, _ = run(method, hostile=True)
    undisturbed, _ = run(method, hostile=False)
    assert len(results) == len(undisturbed) == float16_server(method).terms.training.rounds + 1
    for a, b in zip(results, undisturbed, strict=True):
        assert isinstance(a.teacher, Knowledge)
        assert b.teacher is not None
        assert a.teacher.equals(b.teacher)
        assert [r.client for r in sorted(a.exchange.reports, key=lambda r: r.client)] == list(HONEST)
        metrics = measure(a, GroundTruth(len(CLIENTS), ROWS, LABELS), 1.0, method.message)
        assert metrics.accuracy_mean is None
        json.dumps(metrics.to_dict(), allow_nan=False)
    said = [record.getMessage() for record in caplog.records]
    kinds = [line.partition(":")[2].partition(":")[0] for line in said]
    assert len(kinds) == len(set(kinds)), said  # one line for each kind, whatever the number of reports
    assert set(kinds) <= {f" the report of client 3 was refused ({kind})" for kind in ("content", "malformed")}
    assert kinds
