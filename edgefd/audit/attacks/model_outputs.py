"""Level 1 signals: what the recorded models, and models of the adversary's own, say of candidates and population.

The server is taken at its worst: it puts the candidates among the proxy samples and reads the answers, so it gets soft
labels through codec and filter. A holder has the final model itself. Another client gets the aggregate of the answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from edgefd.audit.attacks.student_models import untrained
from edgefd.audit.recording.candidates import Candidates, Population
from edgefd.audit.recording.read import Recording, parameters
from edgefd.audit.recording.signal_store import Arrays
from edgefd.config.schema import Config
from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import ClientData, Federation, ProxySet
from edgefd.federation.plan import RoundPlan
from edgefd.federation.state import ClientState
from edgefd.learners.batches import Batch, draw, labelled, softmax
from edgefd.learners.learner import Learner
from edgefd.learners.torch_learner import TorchLearner
from edgefd.rounds.client import client_filter
from edgefd.runs.record import FINAL
from edgefd.wire import messages as wire

REFERENCES = 4
STEPS = 300  # of a reference model
_CANARIES = 200  # mislabelled records that a model is made to memorise: the positive control
CANARY_STEPS = 400
_LR = 0.003

Tick = Callable[[str], None]


def answer_signals(recording: Recording, candidates: Candidates, population: Population, tick: Tick) -> Arrays:
    """Soft labels of all clients, at the recorded rounds and at the end, and what the filters make of the candidates.

    Returns:
        `rounds` int64 [T]; `sent` float32 [T, clients, n, C], `sent_z` [clients, m, C] (last of the rounds): as the
        server would get them if every row were claimed; `acceptance` float32 [clients, n]; `aggregate` float32 [T, n, C],
        of the claimed, and `aggregate_z` [m, C], of all; `final`, `final_z` [clients, n or m, C]: of the final models.
    """
    config, clients = recording.config, recording.federation.clients
    acceptance = np.stack([claims_on(config, recording.federation, data, candidates.x) for data in clients])
    tick("filters")
    sent, out = [], {"rounds": np.array(recording.model_rounds), "claims": acceptance}
    for round in recording.model_rounds:
        asked = functools.partial(arrived, recording.config, recording.federation, round)
        learners = [recorded_learner(recording, f"{round:04d}", data.client) for data in clients]
        sent.append(np.stack([asked(data, learners[data.client], candidates.x) for data in clients]))
        if round == recording.model_rounds[-1]:
            out["sent_z"] = np.stack([asked(data, learners[data.client], population.x) for data in clients])
        tick(f"models of round {round}")
    finals = [recorded_learner(recording, FINAL, data.client) for data in clients]
    out["final"] = np.stack([softmax(learner.predict_logits(candidates.x)) for learner in finals])
    out["final_z"] = np.stack([softmax(learner.predict_logits(population.x)) for learner in finals])
    tick("final models")
    out["sent"] = np.stack(sent)
    out["aggregate"] = np.stack([aggregate(config, s, acceptance) for s in sent])
    out["aggregate_z"] = aggregate(config, out["sent_z"], np.ones(out["sent_z"].shape[:2], np.float32))
    return out


def claims_on(config: Config, federation: Federation, data: ClientData, rows: Float32) -> Float32:
    """How surely a client answers for rows that the server has put among the proxy samples, float32 [n]."""
    proxy = federation.proxy
    with_rows = ProxySet(np.concatenate([proxy.x, rows]), np.concatenate([proxy.owner, np.full(len(rows), -1)]))
    return client_filter(config.method, config.method_config, data, with_rows, config.seed)[len(proxy) :]


def recorded_learner(recording: Recording, name: str, client: int) -> TorchLearner:
    """A client's model as it was recorded: in "final", or a round of four digits."""
    config = recording.config
    learner = untrained(recording.federation, config.model_of(client).name, config.seed)
    found = parameters(recording, name, client)
    learner.load_state(learner.state() | {f"model/{k}": v for k, v in found.items()})
    return learner


def arrived(
    config: Config, federation: Federation, round: int, data: ClientData, learner: Learner, x: Float32
) -> Float32:
    """What arrives of a client's answers for `x`: the method's extract, defended, there and back through the codec."""
    rows = ProxySet(x, np.full(len(x), -1))
    state = ClientState(data, learner, federation.n_classes, np.ones(len(x), np.float32))
    plan = RoundPlan(config.seed, round, np.arange(len(federation.proxy)), config.train)
    values = config.method.extract(learner.predict_logits(x), config.method_config)
    said = config.method.privatise(Knowledge(np.arange(len(x)), values, state.acceptance), state, rows, plan)
    return wire.decode(wire.encode(said, config.codec.name)).values


def aggregate(config: Config, sent: Float32, acceptance: Float32) -> Float32:
    """The teacher on rows that clients claim, float32 [n, C]; rows that nobody claims are even."""
    uploads = [
        Knowledge(np.flatnonzero(row > 0), values[row > 0], row[row > 0])
        for values, row in zip(sent, acceptance, strict=True)
    ]
    teacher = config.method.server_filter(config.method.aggregate(uploads, config.method_config), config.method_config)
    out = np.full(sent.shape[1:], 1 / sent.shape[2], np.float32)
    out[teacher.ids] = teacher.values
    return out


def reference_signals(recording: Recording, candidates: Candidates, population: Population, tick: Tick) -> Arrays:
    """Models of the adversary's own, trained on halves of the population, and the two controls.

    References come in pairs that share the population out, so half of them have seen each of its records, and none a
    candidate. `null`: one more such model, which is attacked as if it were a client's. `canary`: a model that was made
    to memorise records with a wrong label, half of `canary_y`, drawn by coin.

    Returns:
        `others` float32 [R, n, C], `others_z` [R, m, C]; `null`, `null_z`; `canary` [k, C], `canary_z`, `canary_others`
        [R, k, C], `canary_y` int64 [k], `canary_member` bool [k]; `y_z`.
    """
    rng = make_rng(recording.config.seed, Purpose.AUDIT, AuditStream.REFERENCE_MODELS)
    model = recording.config.model[0].name
    out: dict[str, list[Float32]] = {"others": [], "others_z": [], "canary_others": []}
    canaries, wrong, member = mislabelled(population, recording.federation.n_classes, rng)
    for i in range(REFERENCES + 1):
        if i % 2 == 0:
            order = rng.permutation(len(population.y))
        half = order[: len(order) // 2] if i % 2 == 0 else order[len(order) // 2 :]
        batch = labelled(population.x[half], population.y[half], recording.federation.n_classes)
        learner = trained(recording, model, batch, STEPS, i + 1)
        said = [softmax(learner.predict_logits(x)) for x in (candidates.x, population.x, population.x[canaries])]
        tick(f"reference model {i + 1} of {REFERENCES + 1}")
        if i == REFERENCES:
            null = {"null": said[0], "null_z": said[1]}
            break
        for name, values in zip(out, said, strict=True):
            out[name].append(values)
    batch = labelled(population.x[canaries[member]], wrong[member], recording.federation.n_classes)
    learner = trained(recording, model, batch, CANARY_STEPS, REFERENCES + 2)
    tick("positive control")
    return (
        {name: np.stack(values) for name, values in out.items()}
        | null
        | {
            "canary": softmax(learner.predict_logits(population.x[canaries])),
            "canary_z": softmax(learner.predict_logits(population.x)),
            "canary_y": wrong,
            "canary_member": member,
            "y_z": population.y,
        }
    )


def mislabelled(population: Population, n_classes: int, rng: np.random.Generator) -> tuple[Int64, Int64, np.ndarray]:
    """Rows of the population, a wrong label for each, and by a coin whether the model is trained on it."""
    rows = rng.permutation(len(population.y))[: 2 * _CANARIES]
    wrong = (population.y[rows] + rng.integers(1, n_classes, len(rows))) % n_classes
    member = np.arange(len(rows)) < len(rows) // 2
    return rows, wrong, rng.permutation(member)


def trained(recording: Recording, model: str, batch: Batch, steps: int, key: int) -> TorchLearner:
    """A model of the adversary's own; `key` seeds it."""
    seed = recording.config.seed
    learner = untrained(recording.federation, model, seed + key)
    learner.train(draw(batch, steps, 64, make_rng(seed, Purpose.AUDIT, AuditStream.ADVERSARY_TRAINING, key)), _LR)
    return learner
