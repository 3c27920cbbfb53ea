"""Level 1 signals: the outputs of models that the adversary trains itself, and of the models of both controls."""

from __future__ import annotations

import numpy as np

from edgefd.auditing.attacks.student_models import untrained
from edgefd.auditing.progress import OnStep
from edgefd.auditing.recording.candidates import Candidates, Population
from edgefd.auditing.recording.read import Recording
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Float32, Int64
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.learners.batches import Batch, draw, labelled, softmax
from edgefd.learners.models import Factory
from edgefd.learners.torch_learner import TorchLearner

REFERENCES = 4
STEPS = 300  # training steps of a reference model
CANARY_STEPS = 400  # training steps of a model that memorises
_CANARIES = 200  # mislabelled records that a model memorises for the positive control
_LR = 0.003


def reference_signals(recording: Recording, candidates: Candidates, population: Population, on_step: OnStep) -> Arrays:
    """Train reference models on halves of the population, and the models of both controls; return their outputs.

    References come in pairs that divide the population between them, so half of them have seen each of its records, and
    none has seen a candidate. `null`: one more such model, which is attacked as if it were a client's. `canary`: a
    model that memorised records with a wrong label, the half of `canary_y` that a random draw selected.

    Returns:
        `others` float32 [R, n, C], `others_z` [R, m, C]; `null`, `null_z`; `canary` [k, C], `canary_z`, `canary_others`
        [R, k, C], `canary_y` int64 [k], `canary_member` bool [k]; `y_z`.
    """
    rng = make_rng(recording.config.seed, Purpose.AUDIT, AuditStream.REFERENCE_MODELS)
    model = recording.config.factory(recording.config.model[0])
    outputs: dict[str, list[Float32]] = {"others": [], "others_z": [], "canary_others": []}
    canaries, wrong, member = mislabelled_records(population, recording.federation.n_classes, rng)
    for i in range(REFERENCES + 1):
        if i % 2 == 0:
            order = rng.permutation(len(population.y))
        half = order[: len(order) // 2] if i % 2 == 0 else order[len(order) // 2 :]
        batch = labelled(population.x[half], population.y[half], recording.federation.n_classes)
        learner = train_model(recording, model, batch, STEPS, i + 1)
        probs = [softmax(learner.predict_logits(x)) for x in (candidates.x, population.x, population.x[canaries])]
        on_step(f"reference model {i + 1} of {REFERENCES + 1}")
        if i == REFERENCES:
            null = {"null": probs[0], "null_z": probs[1]}
            break
        for name, values in zip(outputs, probs, strict=True):
            outputs[name].append(values)
    batch = labelled(population.x[canaries[member]], wrong[member], recording.federation.n_classes)
    learner = train_model(recording, model, batch, CANARY_STEPS, REFERENCES + 2)
    on_step("positive control")
    return (
        {name: np.stack(values) for name, values in outputs.items()}
        | null
        | {
            "canary": softmax(learner.predict_logits(population.x[canaries])),
            "canary_z": softmax(learner.predict_logits(population.x)),
            "canary_y": wrong,
            "canary_member": member,
            "y_z": population.y,
        }
    )


def mislabelled_records(
    population: Population, n_classes: int, rng: np.random.Generator
) -> tuple[Int64, Int64, np.ndarray]:
    """Draw rows of the population, a wrong label for each, and whether the model is trained on it."""
    rows = rng.permutation(len(population.y))[: 2 * _CANARIES]
    wrong = (population.y[rows] + rng.integers(1, n_classes, len(rows))) % n_classes
    member = np.arange(len(rows)) < len(rows) // 2
    return rows, wrong, rng.permutation(member)


def train_model(recording: Recording, model: str | Factory, batch: Batch, steps: int, key: int) -> TorchLearner:
    """Train a model of the adversary's own; `key` seeds it."""
    seed = recording.config.seed
    learner = untrained(recording.federation, model, seed + key)
    learner.train(draw(batch, steps, 64, make_rng(seed, Purpose.AUDIT, AuditStream.ADVERSARY_TRAINING, key)), _LR)
    return learner
