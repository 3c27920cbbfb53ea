"""Controls of the attacks that use shadows: models with nothing to find in them, and models with something planted."""

from __future__ import annotations

import numpy as np

from edgefd.audit.attacks.model_outputs import CANARY_STEPS, STEPS, mislabelled, trained
from edgefd.audit.attacks.student_models import distilled, probabilities
from edgefd.audit.measures import attack_scores as attacks
from edgefd.audit.recording.candidates import Candidates, Population
from edgefd.audit.recording.read import Recording
from edgefd.audit.recording.signal_store import Arrays
from edgefd.core.arrays import Bool, Float32, Int64
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.learners.batches import Batch, labelled

_MODELS = 8  # that memorise, beside the one that is attacked


def control_signals(recording: Recording, candidates: Candidates, population: Population) -> Arrays:
    """What models of known content say; the same attacks are run on them as on the recorded run.

    Null: a model trained on half of the population, so on no candidate, and a student of its answers on the proxy set.
    Positive: models that memorise wrong labels of the population's records, each record in half of them, and their
    students, which are asked about those records too: without that nothing of a wrong label need come through.

    Returns:
        `null`, `null_distilled` float32 [n]: probabilities of the candidates' labels; `memorised`,
        `memorised_distilled` float32 [models + 1, k]: of the wrong labels, with `memorised_in` bool [models + 1, k].
    """
    config, federation = recording.config, recording.federation
    model, seed = config.model[0].name, config.seed
    rng = make_rng(seed, Purpose.AUDIT, AuditStream.SHADOW_CONTROLS)
    half = rng.permutation(len(population.y))[: len(population.y) // 2]
    batch = labelled(population.x[half], population.y[half], federation.n_classes)
    learner = trained(recording, model, batch, STEPS, 100)
    proxy = federation.proxy.x
    student = distilled(federation, model, _batch(proxy, probabilities(learner, proxy)), seed, 100)
    out: Arrays = {
        "null": _of(probabilities(learner, candidates.x), candidates.y),
        "null_distilled": _of(probabilities(student, candidates.x), candidates.y),
    }
    rows, wrong, _ = mislabelled(population, federation.n_classes, rng)
    inside = _pairs(_MODELS + 1, len(rows), rng)
    said: dict[str, list[Float32]] = {"memorised": [], "memorised_distilled": []}
    for i, chosen in enumerate(inside):
        batch = labelled(population.x[rows[chosen]], wrong[chosen], federation.n_classes)
        learner = trained(recording, model, batch, CANARY_STEPS, 101 + i)
        asked = np.concatenate([proxy, population.x[rows]])
        student = distilled(federation, model, _batch(asked, probabilities(learner, asked)), seed, 101 + i)
        said["memorised"].append(_of(probabilities(learner, population.x[rows]), wrong))
        said["memorised_distilled"].append(_of(probabilities(student, population.x[rows]), wrong))
    return out | {name: np.stack(values) for name, values in said.items()} | {"memorised_in": inside}


def _pairs(models: int, k: int, rng: np.random.Generator) -> Bool:
    """Who is in which model: two share the records out."""
    halves = [rng.permutation(np.arange(k) < k // 2) for _ in range(-(-models // 2))]
    return np.stack([side for half in halves for side in (half, ~half)])[:models]


def _batch(x: Float32, soft_labels: Float32) -> Batch:
    return Batch(x, soft_labels, np.ones(len(x), np.float32))


def _of(p: Float32, y: Int64) -> Float32:
    return attacks.of_label(p, y).astype(np.float32)
