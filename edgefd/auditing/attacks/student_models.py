"""Student models: distilled by an adversary who has only the soft labels that a client sent for proxy samples."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from edgefd.config.schema import Config
from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge, empty
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import Federation
from edgefd.federation.report import Report
from edgefd.learners.batches import Batch, draw, softmax
from edgefd.learners.models import Factory, build_model, is_foreign
from edgefd.learners.torch_learner import RecordedSteps, TorchLearner

_STEPS = 300
_BATCH = 64
_LR = 0.003


def untrained(federation: Federation, model: str | Factory, seed: int) -> TorchLearner:
    """Build an untrained model for the federation's samples."""
    shape = federation.proxy.x.shape[1:]
    recorded_steps = None
    if isinstance(model, str) and not is_foreign(model):
        recorded_steps = _recorded_steps(model, shape, federation.n_classes)
    return TorchLearner(build_model(model, shape, federation.n_classes, seed), "adam", recorded_steps=recorded_steps)


@functools.cache
def _recorded_steps(model: str, shape: tuple[int, ...], n_classes: int) -> RecordedSteps:
    """Return the recorded training steps of a model, which all learners of this process share."""
    return {}


def student(config: Config, federation: Federation, client: int, sent: Knowledge, *key: int) -> TorchLearner:
    """Distil a model of the client's architecture from soft labels of proxy rows alone; `key` seeds it."""
    return distilled(
        federation,
        config.factory(config.model_of(client)),
        Batch(federation.proxy.x[sent.ids], sent.values, sent.weights),
        *key,
    )


def distilled(federation: Federation, model: str | Factory, batch: Batch, *key: int) -> TorchLearner:
    """Train a model on soft labels; without rows it stays untrained. `key` seeds it."""
    rng = make_rng(key[0], Purpose.AUDIT, AuditStream.STUDENT_MODELS, *key[1:])
    learner = untrained(federation, model, int(rng.integers(2**31)))
    if len(batch):
        learner.train(draw(batch, _STEPS, _BATCH, rng), _LR)
    return learner


def last_sent(reports: Sequence[Report], n_clients: int, n_classes: int) -> list[Knowledge]:
    """Return the last knowledge that each client sent, which may be empty; reports are in order of their rounds."""
    latest = [empty(n_classes)] * n_clients
    for report in reports:
        if len(report.knowledge):
            latest[report.client] = report.knowledge
    return latest


def probabilities(learner: TorchLearner, x: Float32) -> Float32:
    """Return class probabilities of a model, float32 [n, C]."""
    return softmax(learner.predict_logits(np.ascontiguousarray(x)))
