"""Run a federation once more, and collect its clients' outputs on given records."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from edgefd.auditing.attacks.model_outputs import acceptance_of, received_outputs
from edgefd.auditing.attacks.student_models import last_sent, probabilities, student
from edgefd.auditing.measures.membership_formulas import of_label32
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
class Outputs:
    """The outputs of a finished federation on n records, by client.

    `sent` float32 [clients, n, C]: soft labels as the server would receive them in the last round if all rows were
    accepted; `acceptance` float32 [clients, n]: acceptance weights; `final` [clients, n, C]: of the final models;
    `students` [clients, n, C]: of students of the clients' last reports, if requested.
    """

    sent: Float32
    acceptance: Float32
    final: Float32
    students: Float32 | None


def rerun_config(config: Config, n_clients: int, *key: int) -> Config:
    """Return the run's config with another seed for models, batches and filters; poisoning clients stay the same."""
    seed = int(make_rng(config.seed, Purpose.AUDIT, AuditStream.RERUN_SEED, *key).integers(2**31))
    attack = config.attack
    if attack.fraction:
        attack = replace(attack, fraction=0.0, clients=tuple(sorted(attackers(attack, n_clients, config.seed))))
    run = replace(config.run, record_knowledge=False, evaluate_every=config.train.rounds + 1)
    return replace(config, seed=seed, attack=attack, run=run)


def rerun(config: Config, federation: Federation, x: Float32, students: bool) -> Outputs:
    """Run the federation, and return every client's outputs on records x [n, ...]."""
    transport = open_transport(config, federation)
    clients = range(len(federation.clients))
    outputs: dict[str, Float32] = {}
    reports: list[Report] = []
    with closing(transport.pool) as pool:

        def record(result: RoundResult) -> None:
            if result.plan.closing:
                outputs["final"] = np.stack(pool.map(_final, clients, x))
                return
            reports.extend(result.exchange.reports)
            if result.plan.round == config.train.rounds - 1:
                outputs["sent"] = np.stack(pool.map(_sent, clients, x))

        transport.start()
        outputs["acceptance"] = np.stack(pool.map(_acceptance, clients, x))
        for _ in simulate_rounds(transport, config, federation, record=record):
            pass
        last = last_sent(reports, len(clients), federation.n_classes)
        distilled = np.stack(pool.map(_student, clients, last, x)) if students else None
    return Outputs(outputs["sent"], outputs["acceptance"], outputs["final"], distilled)


def _final(simulation: SimulationState, client: int, x: Float32) -> Float32:
    return softmax(simulation.clients[client].learner.predict_logits(x))


def _sent(simulation: SimulationState, client: int, x: Float32) -> Float32:
    state = simulation.clients[client]
    return received_outputs(
        simulation.config, simulation.federation, simulation.config.train.rounds - 1, state.data, state.learner, x
    )


def _acceptance(simulation: SimulationState, client: int, x: Float32) -> Float32:
    return acceptance_of(simulation.config, simulation.federation, simulation.clients[client].data, x)


def _student(simulation: SimulationState, client: int, sent: list[Knowledge], x: Float32) -> Float32:
    return probabilities(
        student(simulation.config, simulation.federation, client, sent[client], simulation.config.seed, client), x
    )


def label_probability(outputs: Float32, client: Int64, y: Int64) -> Float32:
    """Return, from outputs [clients, n, C], the probability of each record's label by its client, float32 [n]."""
    return of_label32(outputs[client, np.arange(len(client))], y)
