"""Helpers of methods whose clients train with a loss of their own when they receive the teacher."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float64
from edgefd.core.knowledge import Knowledge
from edgefd.federation.context import ClientContext
from edgefd.federation.method import accepted_ids, labels_of
from edgefd.federation.values import LOGITS
from edgefd.learners.batches import Batch, passes
from edgefd.learners.probabilities import softmax64


def private_steps(ctx: ClientContext) -> int:
    """Return the number of private batches of a round: as many as a distillation of all proxy rows has."""
    return ctx.epochs * ctx.terms.training.proxy_batches(len(ctx.proxy))


def centred(logits: npt.NDArray[np.floating]) -> Float64:
    """Return logits minus their mean over the classes, [n, C]: such a shift changes no soft label."""
    z = logits.astype(np.float64)
    return np.asarray(z - z.mean(1, keepdims=True))


def centred_logits(ctx: ClientContext) -> Knowledge:
    """Return the centred logits of the queried and accepted proxy rows, as an upload."""
    return labels_of(
        ctx, accepted_ids(ctx), lambda z: np.clip(centred(z), LOGITS.least, LOGITS.most).astype(np.float32)
    )


def digest(ctx: ClientContext, teacher: Knowledge, gradient: Callable[[Float64, Float64], Float64]) -> None:
    """Train on the rows of a teacher of logits, by the gradient of any loss that depends on centred logits only.

    The training step of a learner has the gradient (q - t) / n with respect to the logits of n rows with targets t and
    q = softmax(z). So a step with t = q - n g is a step along g (see `edgefd.learners.losses`).

    Args:
        ctx: the client.
        teacher: the rows to learn.
        gradient: maps the centred logits z [n, C] of the client and those of the teacher to the gradient g [n, C] of
            the loss of the batch with respect to z.
    """
    training, learner = ctx.terms.training, ctx.learner
    rows = Batch(ctx.proxy.x[teacher.ids], teacher.values, teacher.weights)
    batches = passes(rows, ctx.epochs, training.batch_size, ctx.rng)
    for batch in training.augment(batches, ctx.rng):
        z = learner.predict_logits(batch.x)
        g = centred(gradient(centred(z), centred(batch.targets)))
        targets = (softmax64(z) - len(batch) * g).astype(np.float32)
        learner.train([Batch(batch.x, targets, np.ones(len(batch), np.float32))], ctx.lr)
