"""A federation run once more, through the engine, and asked about records that its clients need not have seen."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from edgefd.audit.attacks.model_outputs import arrived, claims_on
from edgefd.audit.attacks.student_models import last_sent, probabilities, student
from edgefd.audit.measures import attack_scores as attacks
from edgefd.config.schema import Config
from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import Federation
from edgefd.federation.report import Report
from edgefd.learners.batches import softmax
from edgefd.poisoning.attacks import attackers
from edgefd.rounds.loop import RoundResult
from edgefd.runs.execute import simulate_rounds
from edgefd.simulation.engine import SimulationState, open_transport


@dataclass(frozen=True, eq=False)
class Answers:
    """Of a finished federation about n records, by client.

    `sent` float32 [clients, n, C]: soft labels as the server would get them in the last round, were all claimed;
    `acceptance` float32 [clients, n]; `final` [clients, n, C]: of the final models; `students` [clients, n, C]: of students
    of the clients' last reports, if asked for.
    """

    sent: Float32
    acceptance: Float32
    final: Float32
    students: Float32 | None


def rerun_config(config: Config, n_clients: int, *key: int) -> Config:
    """The run's own, with another seed for models, batches and filters; those who attack stay the same."""
    seed = int(make_rng(config.seed, Purpose.AUDIT, AuditStream.RERUN_SEED, *key).integers(2**31))
    attack = config.attack
    if attack.fraction:
        attack = replace(attack, fraction=0.0, clients=tuple(sorted(attackers(attack, n_clients, config.seed))))
    run = replace(config.run, record_knowledge=False, evaluate_every=config.train.rounds + 1)
    return replace(config, seed=seed, attack=attack, run=run)


def rerun(config: Config, federation: Federation, x: Float32, students: bool) -> Answers:
    """Run it, and ask every client about records x [n, ...]."""
    transport = open_transport(config, federation)
    everyone, got = range(len(federation.clients)), {}
    seen: list[Report] = []
    with closing(transport.pool) as pool:

        def record(result: RoundResult) -> None:
            if result.plan.closing:
                got["final"] = np.stack(pool.map(_final, everyone, x))
                return
            seen.extend(result.exchange.reports)
            if result.plan.round == config.train.rounds - 1:
                got["sent"] = np.stack(pool.map(_sent, everyone, x))

        transport.start()
        got["claims"] = np.stack(pool.map(_claims, everyone, x))
        for _ in simulate_rounds(transport, config, federation, record=record):
            pass
        lessons = last_sent(seen, len(everyone), federation.n_classes)
        said = np.stack(pool.map(_student, everyone, lessons, x)) if students else None
    return Answers(got["sent"], got["claims"], got["final"], said)


def _final(site: SimulationState, client: int, x: Float32) -> Float32:
    return softmax(site.clients[client].learner.predict_logits(x))


def _sent(site: SimulationState, client: int, x: Float32) -> Float32:
    state = site.clients[client]
    return arrived(site.config, site.federation, site.config.train.rounds - 1, state.data, state.learner, x)


def _claims(site: SimulationState, client: int, x: Float32) -> Float32:
    return claims_on(site.config, site.federation, site.clients[client].data, x)


def _student(site: SimulationState, client: int, sent: list[Knowledge], x: Float32) -> Float32:
    return probabilities(student(site.config, site.federation, client, sent[client], site.config.seed, client), x)


def of_own(answers: Float32, client: Int64, y: Int64) -> Float32:
    """Of answers [clients, n, C], each record's own client's probability of its label, float32 [n]."""
    return attacks.of_label(answers[client, np.arange(len(client))], y).astype(np.float32)
