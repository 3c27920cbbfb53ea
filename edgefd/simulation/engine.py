"""The in-process engine: every client of a federation on this machine, in this process or in forked workers.

The steps of a round are in `edgefd.rounds.client`. Every value passes through codec and wire format, so bytes and
results are those of a deployment.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from edgefd.config.schema import Config
from edgefd.core.arrays import Float32, UInt32
from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import KEY_WORDS
from edgefd.core.shared_memory import shared_zeros
from edgefd.defences.apply import key_of
from edgefd.federation.changes import NOTHING_EXCHANGED, Exchanged, Published, digest_of
from edgefd.federation.clients import ClientData, Federation
from edgefd.federation.context import ClientContext, client_context
from edgefd.federation.method import MessageKind
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.federation.report import Exchange, Report, count_exchange
from edgefd.federation.terms import FederationTerms
from edgefd.learners.counted_learner import CountedLearner, Work
from edgefd.learners.device import Device
from edgefd.learners.learner import Learner
from edgefd.poisoning.attacks import acceptance_of, attackers, poisoned
from edgefd.rounds.client import client_filter, client_round, publish
from edgefd.rounds.loop import RoundResult
from edgefd.rounds.participation import arrived, responding_clients
from edgefd.rounds.server import Server
from edgefd.rounds.teacher_messages import TeacherMessages
from edgefd.rounds.validation import expected_report, expected_teacher
from edgefd.runs.data_warnings import acceptance_warnings
from edgefd.runs.evaluate import evaluate
from edgefd.runs.execute import simulate_rounds
from edgefd.runs.learners import make_learner, model_sessions
from edgefd.runs.record import KNOWLEDGE, record_round
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.runs.stacks import device_of, make_stacks, resident_federation
from edgefd.runs.terms import terms_of
from edgefd.simulation.device_costs import costs_of
from edgefd.simulation.kept_models import KeptModels
from edgefd.simulation.lock_step_pool import LockStepPool
from edgefd.simulation.virtual_clock import VirtualClock
from edgefd.simulation.workers import ForkPool, Pool, SerialPool
from edgefd.wire import messages as wire
from edgefd.wire.expected import Expected, ExpectedReport

_LOG = logging.getLogger(__name__)
_FILTERS_AT_ONCE = 8  # of each worker, then the time for a line is checked
_SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True, eq=False)
class SimulationState:
    """All clients of a simulation. Forked workers share learners and acceptance weights with the parent process."""

    config: Config
    federation: Federation
    clients: tuple[ClientContext, ...]
    teacher: Expected
    """what the clients expect of a teacher"""
    next_rounds: Float32
    """round after the last one of each client, float32 [clients], shared like the acceptance weights"""
    noise_keys: UInt32
    """key of each client's noise, uint32 [clients, KEY_WORDS], shared like the acceptance weights"""
    models: KeptModels | None = None
    """the models that the run folder keeps; None if it keeps none, and without a run folder"""


def client_acceptance(config: Config, data: ClientData, federation: Federation, terms: FederationTerms) -> Float32:
    """Return a client's acceptance weights; an attacker accepts every proxy row."""
    acceptance = client_filter(config.method, config.method_config, data, federation.proxy, terms)
    return acceptance_of(acceptance) if _is_attacker(config, data.client, federation) else acceptance


def client_report(
    config: Config,
    federation: Federation,
    client: ClientContext,
    plan: RoundPlan,
    teacher: Knowledge | None,
    models: KeptModels | None = None,
) -> tuple[Report, Work]:
    """Run a client's round with the measurements of a simulation; return its report, poisoned if it is an attacker.

    The evaluated model is written if the run keeps it in `models`. The work is counted if the config names devices; it
    is that of a device, without the measurements that only a simulation makes.
    """
    proxy_teacher = teacher if config.method.message is MessageKind.PROXY_LABELS else None

    def measured(_: Learner) -> dict[str, float]:
        if models is not None and models.keeps(plan):
            models.write(client.data.client, plan.round, client.learner)
        return evaluate(client.learner, federation, proxy_teacher, plan.closing)

    counted = CountedLearner(client.learner)
    learner = counted if config.devices.fleet else client.learner
    report = client_round(config.method, replace(client, plan=plan, learner=learner), teacher, measured)
    if _is_attacker(config, report.client, federation):
        report = poisoned(report, config.attack, config.seed)
    return report, counted.work


def _is_attacker(config: Config, client: int, federation: Federation) -> bool:
    return client in attackers(config.attack, len(federation.clients), config.seed)


def run_filter(state: SimulationState, client: int) -> None:
    """Run a client's filter and store its acceptance weights in the shared state."""
    context = state.clients[client]
    context.acceptance[:] = client_acceptance(state.config, context.data, state.federation, context.terms)


def run_round(
    state: SimulationState, client: int, plan: RoundPlan, teacher: bytes | None
) -> tuple[bytes, dict[str, float], Work]:
    """Run a client's round on an encoded teacher; return the encoded knowledge, the metrics and the work."""
    decoded = None if teacher is None else _decode(teacher, state.teacher)
    key = tuple(state.noise_keys[client].tolist())
    context = replace(state.clients[client], next_round=int(state.next_rounds[client]), noise_key=key)
    report, work = client_report(state.config, state.federation, context, plan, decoded, state.models)
    state.next_rounds[client] = plan.round + 1
    return wire.encode(report.knowledge, context.terms.codec), report.metrics, work


_decode = functools.lru_cache(maxsize=1)(wire.decode)  # all clients of a round receive the same teacher


def expected_teacher_of(config: Config, federation: Federation) -> Expected:
    """Return what the clients of a simulation expect of a teacher."""
    terms = terms_of(config, federation)
    return expected_teacher(config.method, terms, len(federation.proxy), len(federation.clients))


def _decoded(knowledge: bytes, client: int, expected: ExpectedReport) -> Knowledge:
    """Return the knowledge of a simulated client.

    Raises:
        RunError: if the method sends other knowledge than it declares.
    """
    try:
        return wire.decode(knowledge, expected.knowledge)
    except ValueError as error:
        raise RunError(f"round {expected.round}: the report of client {client} is refused: {error}") from error


def make_simulation_state(
    config: Config,
    federation: Federation,
    models: KeptModels | None = None,
    learners: Sequence[Learner] | None = None,
) -> SimulationState:
    """Build all clients; their filters have not run yet. Without `learners`, their models are in shared memory."""
    acceptance = shared_zeros((len(federation.clients), len(federation.proxy)))
    sessions, terms = model_sessions(config, federation), terms_of(config, federation)
    if learners is None:
        cpu = Device(precision=config.run.precision)
        learners = [make_learner(config, data, federation.n_classes, sessions, cpu) for data in federation.clients]
    clients = tuple(
        client_context(data, learner, federation.proxy, row, terms, config.method_config)
        for data, learner, row in zip(federation.clients, learners, acceptance, strict=True)
    )
    expected = expected_teacher_of(config, federation)
    next_rounds, noise_keys = shared_zeros((len(clients),)), shared_zeros((len(clients), KEY_WORDS)).view(np.uint32)
    noise_keys[:] = key_of(config.defence)
    return SimulationState(config, federation, clients, expected, next_rounds, noise_keys, models)


@dataclass(frozen=True, eq=False)
class InProcess:
    """Transport within this process and its workers, without a network."""

    state: SimulationState
    pool: Pool
    late: list[Report] = field(default_factory=list)
    """reports of the last round that arrived after it"""
    published: dict[int, Published] = field(default_factory=dict)
    """what each client has published, if the federation sends only changes"""
    held: dict[int, bytes] = field(default_factory=dict)
    """digest of the newest teacher of each client, if the federation sends only changes"""
    clock: VirtualClock | None = None
    """the virtual clock, if the config names devices"""

    filtered: set[int] = field(default_factory=set)
    """clients whose filters have run"""

    def start(self) -> None:
        """Begin. If the run is recorded, all filters run now; otherwise each runs when its client first takes part."""
        if self.state.config.run.record_knowledge:
            self.run_filters(range(len(self.state.clients)))
        if self.clock is not None:
            self.clock.start()

    def run_filters(self, clients: Sequence[int]) -> None:
        """Run the filters of those clients whose filters have not run, and log how many have, every few seconds."""
        new = [client for client in clients if client not in self.filtered]
        at_once = _FILTERS_AT_ONCE * max(1, self.state.config.run.n_workers)
        told = time.monotonic()
        for start in range(0, len(new), at_once):
            if time.monotonic() > told + _SECONDS_BETWEEN_LINES:
                _LOG.info("%d of %d clients have filtered the proxy set", start, len(new))
                told = time.monotonic()
            self.pool.map(run_filter, new[start : start + at_once])
        self.filtered.update(new)
        acceptance = {client: self.state.clients[client].acceptance for client in new}
        for warning in acceptance_warnings(acceptance, self.state.config.method):
            _LOG.warning("%s", warning)

    def exchange(
        self,
        plan: RoundPlan,
        sampled: Sequence[int],
        teacher: Knowledge | None,
        exchanged: Exchanged = NOTHING_EXCHANGED,
    ) -> Exchange:
        """See `edgefd.rounds.loop.Transport`. Clients that drop out do nothing in this round; late ones report later.

        Raises:
            RunError: if too few clients report in time, or a client sends other knowledge than its method declares.
        """
        config = self.state.config
        terms, held = terms_of(config, self.state.federation), dict(self.held)
        messages = TeacherMessages(teacher, terms.codec, exchanged.teacher)
        expected = expected_report(config.method, terms, plan)

        def download(client: int) -> int:
            return len(messages.to(held.get(client, b"")) or b"") if teacher else 0

        def run(clients: Sequence[int]) -> list[tuple[Report, Work]]:
            self.run_filters(clients)
            answers = self.pool.map(run_round, clients, plan, messages.complete)
            if exchanged.teacher is not None:
                self.held.update(dict.fromkeys(clients, exchanged.teacher.digest))
            reports = [
                Report(client, plan.round, _decoded(data, client, expected), metrics, len(data))
                for client, (data, metrics, _) in zip(clients, answers, strict=True)
            ]
            if terms.changes_above is not None and not plan.closing:
                reports = [self._published(report, plan, terms, expected, exchanged) for report in reports]
            return [(report, work) for report, (_, _, work) in zip(reports, answers, strict=True)]

        if self.clock is not None:
            timed = self.clock.run_round(plan, sampled, self._next_round, self._least_work(plan), download, run)
            exchange = count_exchange(timed.reports, timed.bytes_down)
            return replace(exchange, virtual_seconds=timed.seconds, joules=timed.joules)
        bytes_down = sum(download(client) for client in sampled)
        clients = responding_clients(config.coordinator, config.seed, plan, sampled)
        reports = [report for report, _ in run(clients)]
        counted, self.late[:] = arrived(config.coordinator, config.seed, plan, reports, self.late)
        return count_exchange(counted, bytes_down)

    def _next_round(self, client: int) -> int:
        return int(self.state.next_rounds[client])

    def _least_work(self, plan: RoundPlan) -> Callable[[int], Work]:
        """Return a function from a client to the steps of its round that do not depend on the teacher's rows."""
        method = self.state.config.method

        def least_work(client: int) -> Work:
            ctx = replace(self.state.clients[client], plan=plan, next_round=self._next_round(client))
            return Work(method.adjusted_steps(ctx) + (0 if plan.closing else method.local_steps(ctx)))

        return least_work

    def _published(
        self, report: Report, plan: RoundPlan, terms: FederationTerms, expected: ExpectedReport, exchanged: Exchanged
    ) -> Report:
        """Return the report as the server receives it from a client that sends only changes."""
        client, held = report.client, exchanged.reports.get(report.client)
        report, changes, sent = publish(terms, plan, report, self.published.get(client), digest_of(held))
        assert sent is not None, "the federation sends only changes"
        self.published[client] = sent
        data = wire.encode(report.knowledge, terms.codec, changes)
        expected = replace(expected, knowledge=replace(expected.knowledge, held=held))
        return replace(report, knowledge=_decoded(data, client, expected), knowledge_bytes=len(data))


@dataclass(frozen=True, eq=False)
class Resume:
    """Continuation of a run after its last checkpoint."""

    server: Server
    progress: Progress
    """state of the server after the last completed round"""
    restore: Callable[[], None]
    """loads the states of the clients, when their filters have run"""
    completed: Callable[[RoundResult, RoundMetrics], None]
    """writes the checkpoint of a round"""


def open_transport(config: Config, federation: Federation, models: KeptModels | None = None) -> InProcess:
    """Return a transport that is ready to `start`. Workers are forked here, and torch is set to one thread.

    On a GPU, or if `run.stack` says so, clients run in lock step in this process instead.

    Raises:
        UserError: if this machine does not have the device of `run.device`.
    """
    torch.set_num_threads(1)  # see `edgefd.learners.torch_learner.one_thread`
    threadpool_limits(1, "blas")  # numpy's threads round otherwise too, and workers would compete for the cores
    device, clock = device_of(config), None
    if config.devices.fleet:
        clock = VirtualClock(config.coordinator, config.seed, costs_of(config, federation))
    if device.is_gpu or config.run.stack != "auto":
        federation, samples = resident_federation(federation)
        stacks = make_stacks(config, federation, samples, device)
        state = make_simulation_state(config, federation, models, stacks.learners)
        return InProcess(state, LockStepPool(state, stacks), clock=clock)
    state = make_simulation_state(config, federation, models)
    n = min(config.run.n_workers, len(state.clients))
    return InProcess(state, ForkPool(state, n) if n else SerialPool(state), clock=clock)


def simulate(
    transport: InProcess,
    folder: Path | None = None,
    observe: Callable[[RoundResult], None] | None = None,
    resume: Resume | None = None,
) -> Generator[RoundMetrics]:
    """Run the rounds and yield the metrics of each; the last metrics are those of the closing distillation.

    Args:
        transport: the transport, which is closed at the end.
        folder: the run folder, which records the messages if `run.record_knowledge` is set (None = no recording).
        observe: called with the result of each round when the round ends.
        resume: how the run continues after a checkpoint and writes further ones (None = neither).
    """
    state = transport.state
    recorded = folder / KNOWLEDGE if state.config.run.record_knowledge and folder is not None else None
    learners = [client.learner for client in state.clients]

    def end_round(result: RoundResult) -> None:
        if recorded is not None:
            record_round(recorded, state.config, state.clients, result)
        if state.models is not None:
            state.models.end_round(learners, result)
        if observe is not None:
            observe(result)

    with closing(transport.pool):
        start = time.perf_counter()
        transport.start()
        rounds = functools.partial(simulate_rounds, transport, state.config, state.federation, start, end_round)
        if resume is None:
            yield from rounds()
        else:
            resume.restore()
            yield from rounds(resume.server, resume.progress, resume.completed)
