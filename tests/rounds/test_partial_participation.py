"""Simulations in which not all clients take part in every round."""

from typing import Any

import numpy as np
import pytest

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import RunError, UserError
from edgefd.federation.progress import Progress
from edgefd.rounds.loop import run_rounds
from edgefd.rounds.participation import responding_clients, sample_clients
from edgefd.rounds.server import make_plan
from edgefd.runs.execute import make_server
from edgefd.runs.prepare import prepare
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.simulation.engine import InProcess, SimulationState, make_simulation_state, open_transport, simulate
from edgefd.simulation.workers import SerialPool
from edgefd.wire import messages as wire


def config(workers: int = 0, **coordinator: Any) -> Config:
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 600},
            "partition": {"name": "weak", "n_clients": 5},
            "model": {"name": "mlp"},
            "method": {"name": "edgefd", "n_clusters": 4},
            "train": {"rounds": 4},
            "run": {"workers": workers},
            "coordinator": coordinator,
        }
    )


class RecordingPool(SerialPool[SimulationState]):
    """A pool that records the clients of each call, and the teacher that they receive."""

    def __init__(self, site: SimulationState) -> None:
        super().__init__(site)
        self.site = site
        self.calls: list[tuple[list[int], bytes | None]] = []

    def map(self, work: Any, clients: Any, *arguments: Any) -> list[Any]:
        if arguments:  # filters have none
            self.calls.append((list(clients), arguments[-1]))
        return super().map(work, clients, *arguments)


def rounds_of(c: Config) -> list[RoundMetrics]:
    return list(simulate(open_transport(c, prepare(c).federation)))


@pytest.mark.parametrize("workers", [0, 2])
def test_metrics_hold_only_the_clients_that_are_sampled_and_report(workers: int) -> None:
    c = config(workers, fraction=0.6, dropout=0.3, min_reports=1)
    metrics = rounds_of(c)
    server = make_server(c, prepare(c).federation)
    missed = 0
    for m in metrics:
        plan, sampled = make_plan(server, Progress(m.round))
        assert plan.closing == m.closing
        assert sampled == (tuple(range(5)) if m.closing else sample_clients(c.coordinator, c.seed, m.round, 5))
        reporting = responding_clients(c.coordinator, c.seed, plan, sampled)
        missed += 5 - len(reporting)
        for values in (m.kept_per_client, m.accuracy_per_client):
            assert values is not None
            assert [i for i, v in enumerate(values) if v is not None] == reporting
        measured = [v for v in m.accuracy_per_client or [] if v is not None]
        assert m.accuracy_mean == pytest.approx(np.mean(measured))
        assert m.accuracy_worst == min(measured)
    assert missed > 4
    assert None not in (metrics[-1].accuracy_per_client or [None])


def test_a_client_that_was_absent_receives_the_newest_teacher() -> None:
    c = config(fraction=0.4)
    federation = prepare(c).federation
    pool = RecordingPool(make_simulation_state(c, federation))
    transport = InProcess(pool.site, pool)
    transport.start()
    server = make_server(c, federation)
    results = list(run_rounds(server, transport))
    assert [clients for clients, _ in pool.calls] == [
        list(make_plan(server, Progress(r.plan.round))[1]) for r in results
    ]
    assert {c for clients, _ in pool.calls[:-1] for c in clients} != set(pool.calls[1][0]), "a client must be absent"
    for before, (_, teacher) in zip(results, pool.calls[1:], strict=False):
        assert before.teacher is not None
        assert teacher == wire.encode(before.teacher, server.terms.codec)


def test_workers_change_no_bit_of_a_run_with_partial_participation() -> None:
    absent: dict[str, Any] = {"dropout": 0.1, "lateness": 0.1, "stale_reports": "use"}
    a, b = (rounds_of(config(w, fraction=0.6, min_reports=1, **absent)) for w in (0, 2))
    for one, other in zip(a, b, strict=True):
        assert one.accuracy_per_client == other.accuracy_per_client


def test_a_round_with_too_few_reports_ends_the_run() -> None:
    with pytest.raises(RunError, match="lower it, or coordinator"):
        rounds_of(config(dropout=0.9, min_reports=5))


def test_the_rules_are_checked_before_a_run_begins() -> None:
    with pytest.raises(UserError, match="min_reports=4, but a round samples 2 of 5 clients"):
        prepare(config(fraction=0.4, min_reports=4))


def test_the_rules_do_not_apply_to_a_reference_method() -> None:
    reference = config(fraction=0.4, dropout=0.2, min_reports=1).for_method("centralised")
    assert all(m.kept_per_client == [0.0] for m in rounds_of(reference))
