"""Distillation of a teacher's rows into the model of a client."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import Purpose
from edgefd.federation.context import ClientContext
from edgefd.learners.batches import Batch, draw, mixed, passes, softmax
from edgefd.learners.losses import Schedule, class_shares, logit_adjusted, step
from edgefd.selection import Candidates

_BATCHES, _ADJUSTED = 1, 2
"""last keys of the generators that order the batches of a distillation; they are part of every result"""


def teacher_rows(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Return the rows of the teacher that the selection rule chooses, with the targets of the distillation loss."""

    def client_probs() -> Float32:
        return ctx.probs(teacher.ids)

    def reference() -> Float32:
        return _probs_after_distilling(ctx, _batch(ctx, teacher))

    candidates = Candidates(teacher, client_probs, reference, ctx.draw(Purpose.SUBSET).rng)
    return _batch(ctx, ctx.terms.selection.subset(candidates) if len(teacher) else teacher)


def _batch(ctx: ClientContext, teacher: Knowledge) -> Batch:
    data = ctx.data
    rows = ctx.terms.distillation.prepare(teacher, ctx.acceptance, data.contributed, data.contributed_y)
    return Batch(ctx.proxy.x[rows.ids], rows.values, rows.weights)


def _probs_after_distilling(ctx: ClientContext, batch: Batch) -> Float32:
    """Return soft labels of the batch by the client's model after it has distilled the batch. The model is restored."""
    before = ctx.learner.state()
    distil(ctx, batch)
    probs = softmax(ctx.learner.predict_logits(batch.x))
    ctx.learner.load_state(before)
    return probs


def distil(ctx: ClientContext, batch: Batch, adjusted_steps: int = 0) -> dict[str, float]:
    """Train the client's model on rows of the teacher; return the mean losses by the names of their metrics.

    Each batch holds private rows too. Between these batches there are `adjusted_steps` batches of private rows alone
    with the loss of `edgefd.learners.losses.logit_adjusted`. A client that missed teachers makes more passes, as far as
    `train.catch_up` allows, so its total of passes is at most that of a client that took part in every round.
    """
    training, data = ctx.terms.training, ctx.data
    rng = ctx.draw(Purpose.DISTIL, _BATCHES).rng
    steps = ctx.epochs * training.proxy_batches(len(batch))
    batches = passes(batch, ctx.epochs, training.proxy_rows_per_batch, rng)
    if training.private_rows_per_batch:
        batches = mixed(batches, draw(ctx.private, steps, training.private_rows_per_batch, rng))
    n_private = min(training.private_rows_per_batch, len(data.x))
    schedule = Schedule(ctx.plan.round, training.rounds, steps)
    batches = training.augment(batches, rng)
    if not adjusted_steps:
        loss = ctx.terms.distillation.distil(ctx.learner, batches, ctx.lr, n_private, schedule)
        return {"distil_loss": loss} if steps else {}
    loss_of_teacher = ctx.terms.distillation.step_loss(schedule)
    loss_of_labels = logit_adjusted(class_shares(data.y, ctx.terms.n_classes))
    own = private_batches(ctx.draw(Purpose.DISTIL, _ADJUSTED), ctx.private, adjusted_steps)
    taught, private_losses = [], []
    for is_private in spread(steps, adjusted_steps):
        if is_private:
            private_losses.append(step(ctx.learner, next(own), ctx.lr, 0, loss_of_labels))
        else:
            taught.append(step(ctx.learner, next(batches), ctx.lr, n_private, loss_of_teacher))
    means = {"distil_loss": taught, "train_loss": private_losses}
    return {name: sum(losses) / len(losses) for name, losses in means.items() if losses}


def spread(n: int, k: int) -> Iterator[bool]:
    """Yield n times False and k times True, each spread evenly.

    >>> list(spread(4, 2))
    [False, False, True, False, False, True]
    """
    total = n + k
    return ((i + 1) * k // total > i * k // total for i in range(total))


def private_batches(ctx: ClientContext, rows: Batch, steps: int) -> Iterator[Batch]:
    """Draw batches of private rows alone with the generator of the context, and augment their images."""
    training = ctx.terms.training
    return training.augment(draw(rows, steps, training.private_batch_size, ctx.rng), ctx.rng)


def no_rows(ctx: ClientContext) -> Batch:
    """Return a batch without rows: there is nothing to distil."""
    return Batch(ctx.proxy.x[:0], np.empty((0, ctx.terms.n_classes), np.float32), np.empty(0, np.float32))
