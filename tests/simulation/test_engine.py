"""Whole runs of the in-process engine: bit-identical for every pool and every order of clients."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from edgefd.config.load import parse_config
from edgefd.config.schema import CodecChoice, Config
from edgefd.core.knowledge import Knowledge
from edgefd.rounds.loop import run_rounds
from edgefd.rounds.participation import ParticipationConfig
from edgefd.runs.execute import make_server
from edgefd.runs.facts import ground_truth
from edgefd.runs.prepare import prepare
from edgefd.runs.round_metrics import measure
from edgefd.simulation import engine
from edgefd.simulation.engine import InProcess, make_simulation_state, open_transport, simulate
from edgefd.simulation.workers import ClientError, ForkPool, SerialPool


def config(**run: Any) -> Config:
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 600},
            "partition": {"name": "weak", "n_clients": 5},
            "model": [{"name": "cnn_small"}, {"name": "mlp"}],
            "method": {"name": "edgefd", "n_clusters": 4},
            "train": {"rounds": 2, "local_steps": 2, "augment_shift": 2},
            "run": run,
        }
    )


class ReversedPool(SerialPool[Any]):
    """Pool that runs the last client first."""

    def map(self, work: Any, clients: Sequence[int], *arguments: Any) -> list[Any]:
        return super().map(work, list(reversed(clients)), *arguments)[::-1]


def teachers(transport: InProcess) -> list[Knowledge]:
    """Return the teacher of each round, then the final parameters of each client, as knowledge."""
    c = transport.state.config
    transport.start()
    teachers = [r.teacher for r in run_rounds(make_server(c, transport.state.federation), transport)]
    transport.pool.close()
    flat = [np.concatenate([v.ravel() for v in s.learner.state().values()]) for s in transport.state.clients]
    parameters = [Knowledge(np.array([0]), f[None].astype(np.float32), np.ones(1, np.float32)) for f in flat]
    return [t for t in teachers if t is not None] + parameters


def same(a: list[Knowledge], b: list[Knowledge]) -> bool:
    return len(a) == len(b) and all(x.equals(y) for x, y in zip(a, b, strict=True))


def transport_of(kind: str) -> InProcess:
    torch.set_num_threads(1)  # as open_transport does: the number of threads changes low bits
    threadpool_limits(1, "blas")
    c = config(workers=0)
    state = make_simulation_state(c, prepare(c).federation)
    pools = {
        "serial": lambda: SerialPool(state),
        "reversed": lambda: ReversedPool(state),
        "workers": lambda: ForkPool(state, 2),
    }
    return InProcess(state, pools[kind]())


@pytest.mark.parametrize("kind", ["serial", "reversed", "workers"])
def test_pools_and_the_order_of_clients_change_no_bit(kind: str) -> None:
    assert same(teachers(transport_of("serial")), teachers(transport_of(kind)))


@pytest.mark.parametrize("recorded", [False, True])
def test_a_filter_runs_when_its_client_first_takes_part(
    recorded: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "_SECONDS_BETWEEN_LINES", -1.0)
    monkeypatch.setattr(engine, "_FILTERS_AT_ONCE", 2)
    caplog.set_level("INFO", "edgefd")
    c = replace(config(workers=0, record_knowledge=recorded), coordinator=ParticipationConfig(fraction=0.2))
    transport = open_transport(c, prepare(c).federation)
    transport.start()
    assert transport.filtered == (set(range(5)) if recorded else set())
    for result in run_rounds(make_server(c, transport.state.federation), transport):
        reported = {report.client for report in result.exchange.reports}
        assert reported <= transport.filtered
        if result.plan.round == 0 and not recorded:
            assert transport.filtered == reported
            assert [bool(client.acceptance.any()) for client in transport.state.clients] == [
                i in reported for i in range(5)
            ]
    if recorded:
        assert [r.message for r in caplog.records if "filtered" in r.message] == [
            f"{n} of 5 clients have filtered the proxy set" for n in (0, 2, 4)
        ]


def test_the_seed_reaches_the_run() -> None:
    a, b = config(workers=0), parse_config(config(workers=0).to_dict() | {"seed": 1})
    first, second = (list(simulate(open_transport(c, prepare(c).federation))) for c in (a, b))
    assert first[-1].accuracy_per_client != second[-1].accuracy_per_client


def test_bytes_are_those_of_the_encoded_messages() -> None:
    c = replace(config(workers=0), codec=CodecChoice("float16"))
    federation = prepare(c).federation
    rounds = list(simulate(open_transport(c, federation)))
    assert rounds[0].bytes_down == 0  # no teacher yet
    size, classes = len(federation.proxy), federation.n_classes
    n_sent = rounds[0].kept_fraction * size * len(federation.clients)
    assert rounds[0].bytes_up == pytest.approx(n_sent * (2 * classes + 1 + 2), rel=0.1)  # values, id, weight
    n_teacher_rows = rounds[0].teacher_coverage * size
    assert rounds[1].bytes_down == pytest.approx(5 * n_teacher_rows * (2 * classes + 1), rel=0.1)  # all weights are 1
    assert rounds[-1].closing
    assert rounds[-1].bytes_up == 0


def test_losses_of_a_round_are_means_over_clients() -> None:
    c = config(workers=0)
    federation = prepare(c).federation
    transport = open_transport(c, federation)
    exchanges = []
    transport.start()
    for result in run_rounds(make_server(c, federation), transport):
        exchanges.append((result, measure(result, ground_truth(federation), 0.0)))
    for result, metrics in exchanges:
        for name, loss in (("distil_loss", metrics.distil_loss), ("train_loss", metrics.train_loss)):
            values = [r.metrics[name] for r in result.exchange.reports if name in r.metrics]
            assert loss == (pytest.approx(np.mean(values)) if values else None)
    assert [m.distil_loss is None for _, m in exchanges] == [True, False, False]  # the first round has no teacher
    assert [m.train_loss is None for _, m in exchanges] == [False, False, False]  # of own labels, in every round


def test_the_error_of_an_overflowing_loss_names_the_client() -> None:
    sections = config(workers=0).to_dict()
    c = parse_config(sections | {"train": {"rounds": 1, "local_steps": 5, "lr": 1e30, "optimizer": "sgd"}})
    with pytest.raises(ClientError, match="client 0 failed: RunError: a training step gave numbers"):
        list(simulate(open_transport(c, prepare(c).federation)))


def test_accuracy_is_measured_every_evaluate_every_rounds_and_at_the_end() -> None:
    c = config(workers=0, evaluate_every=2)
    rounds = list(simulate(open_transport(c, prepare(c).federation)))
    assert [m.accuracy_mean is not None for m in rounds] == [True, False, True]


@pytest.mark.parametrize("method", ["indlearn", "pooled_proxy", "centralised"])
def test_reference_methods_exchange_nothing(method: str) -> None:
    c = config(workers=0).for_method(method)
    prepared = prepare(c)
    rounds = list(simulate(open_transport(c, prepared.federation)))
    assert all(m.bytes_up == m.bytes_down == m.kept_fraction == 0 for m in rounds)
    assert len(prepared.federation.clients) == (5 if method == "indlearn" else 1)
