"""Controls of the attacks with shadow federations: models without any candidate, and models that memorised records."""

from __future__ import annotations

import numpy as np

from edgefd.auditing.attacks.reference_models import CANARY_STEPS, STEPS, mislabelled_records, train_model
from edgefd.auditing.attacks.student_models import distilled, probabilities
from edgefd.auditing.measures.membership_formulas import of_label32
from edgefd.auditing.recording.candidates import Candidates, Population
from edgefd.auditing.recording.read import Recording
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Bool, Float32
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.learners.batches import Batch, labelled

_MODELS = 8  # models that memorise, in addition to the one that is attacked


def control_signals(recording: Recording, candidates: Candidates, population: Population) -> Arrays:
    """Return the outputs of models with known training data, on which the same attacks are run as on the recorded run.

    Null: a model trained on half of the population, so on no candidate, and a student of its soft labels on the proxy
    set. Positive: models that memorise wrong labels of the population's records, each record in half of them, and their
    students. These students are distilled on those records too, because otherwise nothing of a wrong label need reach
    them.

    Returns:
        `null`, `null_distilled` float32 [n]: probabilities of the candidates' labels; `memorised`,
        `memorised_distilled` float32 [models + 1, k]: of the wrong labels, with `memorised_in` bool [models + 1, k].
    """
    config, federation = recording.config, recording.federation
    model, seed = config.factory(config.model[0]), config.seed
    rng = make_rng(seed, Purpose.AUDIT, AuditStream.SHADOW_CONTROLS)
    half = rng.permutation(len(population.y))[: len(population.y) // 2]
    batch = labelled(population.x[half], population.y[half], federation.n_classes)
    learner = train_model(recording, model, batch, STEPS, 100)
    proxy = federation.proxy.x
    student = distilled(federation, model, _batch(proxy, probabilities(learner, proxy)), seed, 100)
    null: Arrays = {
        "null": of_label32(probabilities(learner, candidates.x), candidates.y),
        "null_distilled": of_label32(probabilities(student, candidates.x), candidates.y),
    }
    rows, wrong, _ = mislabelled_records(population, federation.n_classes, rng)
    inside = _pairs(_MODELS + 1, len(rows), rng)
    memorised: dict[str, list[Float32]] = {"memorised": [], "memorised_distilled": []}
    for i, selected in enumerate(inside):
        batch = labelled(population.x[rows[selected]], wrong[selected], federation.n_classes)
        learner = train_model(recording, model, batch, CANARY_STEPS, 101 + i)
        queried = np.concatenate([proxy, population.x[rows]])
        student = distilled(federation, model, _batch(queried, probabilities(learner, queried)), seed, 101 + i)
        memorised["memorised"].append(of_label32(probabilities(learner, population.x[rows]), wrong))
        memorised["memorised_distilled"].append(of_label32(probabilities(student, population.x[rows]), wrong))
    return null | {name: np.stack(values) for name, values in memorised.items()} | {"memorised_in": inside}


def _pairs(models: int, k: int, rng: np.random.Generator) -> Bool:
    """Draw which records are in which model, bool [models, k]; the two models of a pair divide the records."""
    halves = [rng.permutation(np.arange(k) < k // 2) for _ in range(-(-models // 2))]
    return np.stack([side for half in halves for side in (half, ~half)])[:models]


def _batch(x: Float32, soft_labels: Float32) -> Batch:
    return Batch(x, soft_labels, np.ones(len(x), np.float32))
