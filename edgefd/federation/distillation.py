"""Distillation of a teacher's rows into the model of a client."""

from __future__ import annotations

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import Purpose
from edgefd.federation.context import ClientContext
from edgefd.learners.batches import Batch, augment, draw, labelled, mixed, passes, softmax
from edgefd.learners.losses import Schedule
from edgefd.selection import Candidates

_BATCHES = 1
"""last key of the generator that orders the batches of a distillation; it is part of every result"""


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


def distil(ctx: ClientContext, batch: Batch) -> float:
    """Train the client's model on rows of the teacher, with private rows in each batch; return the mean loss."""
    training, data = ctx.terms.training, ctx.data
    rng = ctx.draw(Purpose.DISTIL, _BATCHES).rng
    epochs = training.closing_epochs if ctx.plan.closing else training.distill_epochs
    steps = epochs * -(-len(batch) // training.proxy_rows_per_batch)
    batches = passes(batch, epochs, training.proxy_rows_per_batch, rng)
    if training.private_rows_per_batch:
        private = labelled(data.x, data.y, ctx.terms.n_classes)
        batches = mixed(batches, draw(private, steps, training.private_rows_per_batch, rng))
    n_private = min(training.private_rows_per_batch, len(data.x))
    schedule = Schedule(ctx.plan.round, training.rounds, steps)
    batches = augment(batches, training.augment_shift, rng, training.augment_rotation)
    return ctx.terms.distillation.distil(ctx.learner, batches, ctx.lr, n_private, schedule)
