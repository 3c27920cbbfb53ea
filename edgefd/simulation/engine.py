"""The in-process engine: every client of a federation on this machine, in this process or in forked workers.

Nothing here knows what a round does: that is `edgefd.rounds.client`. Every value passes through codec and wire format, so bytes
and results are those of a deployment.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from edgefd.config.schema import Config
from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.core.shared_memory import shared_zeros
from edgefd.federation.clients import ClientData, Federation
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Exchange, Report
from edgefd.federation.state import ClientState
from edgefd.poisoning.attacks import acceptance_of, attackers, poisoned
from edgefd.rounds.client import client_filter, client_round
from edgefd.rounds.participation import responding_clients
from edgefd.runs.evaluate import evaluate
from edgefd.runs.execute import simulate_rounds
from edgefd.runs.record import KNOWLEDGE, record_round
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.simulation.workers import ForkPool, Pool, SerialPool
from edgefd.wire import messages as wire

if TYPE_CHECKING:
    pass
from edgefd.federation.method import MessageKind
from edgefd.runs.learners import make_learner, model_sessions


@dataclass(frozen=True, eq=False)
class SimulationState:
    """What any process needs to do any client's part: forked workers share its learners and claims with the parent."""

    config: Config
    federation: Federation
    clients: tuple[ClientState, ...]


def client_acceptance(config: Config, data: ClientData, federation: Federation) -> Float32:
    """What the client claims; an attacker claims everything."""
    acceptance = client_filter(config.method, config.method_config, data, federation.proxy, config.seed)
    return acceptance_of(acceptance) if _attacks(config, data.client, federation) else acceptance


def client_report(
    config: Config, federation: Federation, state: ClientState, plan: RoundPlan, teacher: Knowledge | None
) -> Report:
    """The client's round, measured as only a simulation can; an attacker sends something else."""
    of_samples = teacher if config.method.message is MessageKind.PROXY_LABELS else None
    report = client_round(
        config.method,
        config.method_config,
        state,
        federation.proxy,
        plan,
        teacher,
        lambda learner: evaluate(learner, federation, of_samples, plan.closing),
    )
    return poisoned(report, config.attack, config.seed) if _attacks(config, report.client, federation) else report


def _attacks(config: Config, client: int, federation: Federation) -> bool:
    return client in attackers(config.attack, len(federation.clients), config.seed)


def run_filter(state: SimulationState, client: int) -> None:
    """Fill in the client's claims."""
    client_state = state.clients[client]
    client_state.acceptance[:] = client_acceptance(state.config, client_state.data, state.federation)


def run_round(
    state: SimulationState, client: int, plan: RoundPlan, teacher: bytes | None
) -> tuple[bytes, dict[str, float]]:
    """The client's round, from bytes to bytes."""
    known = None if teacher is None else _decoded(teacher)
    report = client_report(state.config, state.federation, state.clients[client], plan, known)
    return wire.encode(report.knowledge, state.config.codec.name), report.metrics


_decoded = functools.lru_cache(maxsize=1)(wire.decode)  # all clients of a round get the same teacher


def make_simulation_state(config: Config, federation: Federation) -> SimulationState:
    """All clients with their models, in shared memory; filters have not run yet."""
    acceptance = shared_zeros((len(federation.clients), len(federation.proxy)))
    sessions = model_sessions(config, federation)
    clients = tuple(
        ClientState(data, make_learner(config, data, federation.n_classes, sessions), federation.n_classes, row)
        for data, row in zip(federation.clients, acceptance, strict=True)
    )
    return SimulationState(config, federation, clients)


@dataclass(frozen=True, eq=False)
class InProcess:
    """A transport without a network."""

    state: SimulationState
    pool: Pool

    def start(self) -> None:
        """Run the clients' filters."""
        self.pool.map(run_filter, self._everyone())

    def exchange(self, plan: RoundPlan, teacher: Knowledge | None) -> Exchange:
        """See `edgefd.rounds.loop.Transport`. Clients that stay silent do nothing in this round.

        Raises:
            RunError: if too many are silent.
        """
        data = None if teacher is None else wire.encode(teacher, self.state.config.codec.name)
        asked = self._everyone() if plan.clients is None else plan.clients
        clients = responding_clients(self.state.config.coordinator, plan, asked)
        answers = self.pool.map(run_round, clients, plan, data)
        reports = [
            Report(client, plan.round, wire.decode(answer), metrics)
            for client, (answer, metrics) in zip(clients, answers, strict=True)
        ]
        up = sum(len(a) for (a, _), r in zip(answers, reports, strict=True) if len(r.knowledge))
        down = len(data) if data and teacher else 0  # a teacher that knows no row need not travel
        return Exchange(reports, up, down * len(asked))

    def _everyone(self) -> range:
        return range(len(self.state.clients))


def open_transport(config: Config, federation: Federation) -> InProcess:
    """The federation, ready to `start`. Workers are forked here, before any thread of torch or of ours runs."""
    torch.set_num_threads(1)  # more threads change bits and, where cores are shared, lose time
    state = make_simulation_state(config, federation)
    n = min(config.run.n_workers, len(state.clients))
    return InProcess(state, ForkPool(state, n) if n else SerialPool(state))


def simulate(transport: InProcess, folder: Path | None = None) -> Iterator[RoundMetrics]:
    """Run the rounds; the metrics of each as it ends. The last ones are of the closing distillation.

    `folder`: of the run, where what each party sees is recorded if the config says so.
    """
    state = transport.state
    with closing(transport.pool):
        began = time.perf_counter()
        transport.start()
        record = None
        if state.config.run.record_knowledge and folder is not None:
            record = functools.partial(record_round, folder / KNOWLEDGE, state.config, state.clients)
        yield from simulate_rounds(transport, state.config, state.federation, began, record)
