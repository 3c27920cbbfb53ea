"""Level 1 signals: the outputs of the recorded models on candidates and population, as each adversary receives them.

The server is assumed to be malicious: it puts the candidates among the proxy samples and reads the reports, so it
receives soft labels that passed the codec and the filter. A holder has the final model itself. Another client receives
the aggregate of the reports.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from edgefd.auditing.attacks.student_models import untrained
from edgefd.auditing.progress import OnStep
from edgefd.auditing.recording.candidates import Candidates, Population
from edgefd.auditing.recording.read import Recording, parameters
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.config.schema import ALL_ROWS, Config
from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.defences.apply import Defence, NoDefence, privatised
from edgefd.defences.label_only import LabelOnly
from edgefd.federation.clients import ClientData, Federation, ProxySet
from edgefd.federation.context import client_context
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.federation.report import Report
from edgefd.learners.batches import softmax
from edgefd.learners.learner import Learner
from edgefd.learners.torch_learner import TorchLearner
from edgefd.rounds.client import client_filter
from edgefd.rounds.server import server_round
from edgefd.rounds.validation import expected_report
from edgefd.runs.execute import make_server
from edgefd.runs.record import FINAL, KNOWLEDGE, model_file, model_weights
from edgefd.runs.terms import terms_of
from edgefd.wire import messages as wire

NO_DEFENCE = NoDefence()


def output_signals(recording: Recording, candidates: Candidates, population: Population, on_step: OnStep) -> Arrays:
    """Return soft labels of all clients, in the recorded rounds and at the end, and the filters' acceptance weights.

    Returns:
        `rounds` int64 [T]; `sent` float32 [T, clients, n, C], `sent_z` [clients, m, C] (last of the rounds): as the
        server would receive them if every row were accepted; `claims` float32 [clients, n]: acceptance weights;
        `aggregate` float32 [T, n, C], of the accepted rows, and `aggregate_z` [m, C], of all rows; `final`, `final_z`
        [clients, n or m, C]: of the final models.
    """
    config, clients = recording.config, recording.federation.clients
    acceptance = np.stack([acceptance_of(config, recording.federation, data, candidates.x) for data in clients])
    on_step("filters")
    sent, signals = [], {"rounds": np.array(recording.model_rounds), "claims": acceptance}
    for round in recording.model_rounds:
        received = functools.partial(received_outputs, recording.config, recording.federation, round)
        learners = [recorded_learner(recording, f"{round:04d}", data.client) for data in clients]
        sent.append(np.stack([received(data, learners[data.client], candidates.x) for data in clients]))
        if round == recording.model_rounds[-1]:
            signals["sent_z"] = np.stack([received(data, learners[data.client], population.x) for data in clients])
        on_step(f"models of round {round}")
    finals = [recorded_learner(recording, FINAL, data.client) for data in clients]
    signals["final"] = np.stack([softmax(learner.predict_logits(candidates.x)) for learner in finals])
    signals["final_z"] = np.stack([softmax(learner.predict_logits(population.x)) for learner in finals])
    on_step("final models")
    signals["sent"] = np.stack(sent)
    signals["aggregate"] = np.stack([aggregate(config, recording.federation, s, acceptance) for s in sent])
    signals["aggregate_z"] = aggregate(
        config, recording.federation, signals["sent_z"], np.ones(signals["sent_z"].shape[:2], np.float32)
    )
    return signals


def acceptance_of(config: Config, federation: Federation, data: ClientData, rows: Float32) -> Float32:
    """Return a client's acceptance weights of rows that the server has put among the proxy samples, float32 [n].

    They are weights as the server receives them, after the codec.
    """
    proxy = federation.proxy
    with_rows = ProxySet(np.concatenate([proxy.x, rows]), np.concatenate([proxy.owner, np.full(len(rows), -1)]))
    terms = terms_of(config, federation)
    return received_weights(
        client_filter(config.method, config.method_config, data, with_rows, terms)[len(proxy) :],
        terms.codec,
        config.defence,
    )


def received_weights(weights: Float32, codec: str, defence: Defence = NO_DEFENCE) -> Float32:
    """Return acceptance weights, float32 [n], after defence and codec; a row of weight 0 is not sent, and stays 0."""
    if isinstance(defence, LabelOnly):
        weights = (weights > 0).astype(np.float32)
    ids, received = np.flatnonzero(weights > 0), np.zeros_like(weights)
    rows = np.tile(np.array([1, 0], np.float32), (len(ids), 1))  # every codec carries them without an error
    received[ids] = wire.rounded(Knowledge(ids, rows, weights[ids]), codec).weights
    return received


def recorded_learner(recording: Recording, name: str, client: int) -> TorchLearner:
    """Load a client's recorded model; `name` is "final" or a round in four digits.

    Raises:
        UserError: if the recorded parameters are not those of the client's architecture.
    """
    config = recording.config
    learner = untrained(recording.federation, config.factory(config.model_of(client)), config.seed)
    values = parameters(recording, name, client)
    expected = {k: (v.shape, v.dtype) for k, v in model_weights(learner).items()}
    same = {k: (v.shape, v.dtype) for k, v in values.items()} == expected
    if not same or not all(np.isfinite(v).all() for v in values.values()):
        path = model_file(recording.folder / KNOWLEDGE, name, client)
        raise UserError(f"{path} is not a model of the config of this run: restore the folder, or run it again")
    learner.load_state(learner.state() | {f"model/{k}": v for k, v in values.items()})
    return learner


def received_outputs(
    config: Config, federation: Federation, round: int, data: ClientData, learner: Learner, x: Float32
) -> Float32:
    """Return a client's outputs on `x` as the server receives them: after the defence and the codec."""
    rows, terms = ProxySet(x, np.full(len(x), -1)), replace(terms_of(config, federation), selection=ALL_ROWS)
    ctx = client_context(data, learner, rows, np.ones(len(x), np.float32), terms, config.method_config)
    method = config.find_method(config.method_name)
    honest = method.upload(ctx)
    in_round = replace(ctx, plan=RoundPlan(round, np.arange(len(federation.proxy))))  # noise depends on its rows
    sent = privatised(config.defence, in_round, honest)
    return wire.decode(wire.encode(sent, terms.codec), expected_report(method, terms, ctx.plan).knowledge).values


def aggregate(config: Config, federation: Federation, sent: Float32, acceptance: Float32) -> Float32:
    """Return the teacher on the accepted rows, float32 [n, C]; uniform on rows that no client accepts."""
    uploads = [
        Knowledge(np.flatnonzero(row > 0), outputs[row > 0], row[row > 0])
        for outputs, row in zip(sent, acceptance, strict=True)
    ]
    reports = [Report(client, 0, upload) for client, upload in enumerate(uploads)]
    n = sent.shape[1]
    rows = ProxySet(np.zeros((n, 1), np.float32), np.full(n, -1))  # an audited method aggregates without the samples
    server = replace(make_server(config, federation), proxy=rows)
    teacher = server_round(server, reports, RoundPlan(0, np.arange(n)), Progress()).teacher
    assert teacher is not None
    values = np.full(sent.shape[1:], 1 / sent.shape[2], np.float32)
    values[teacher.ids] = teacher.values
    return values
