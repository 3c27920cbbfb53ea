"""Helpers of methods that train a model at the server."""

from __future__ import annotations

from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.context import ServerContext
from edgefd.learners.batches import Batch, passes
from edgefd.learners.learner import Learner


def model_of(ctx: ServerContext) -> Learner:
    """Return the model of the server.

    Raises:
        RunError: if the server has no model.
    """
    if ctx.learner is None:
        raise RunError("the method needs a model at the server, but the server has none")
    return ctx.learner


def distil(ctx: ServerContext, mean: Knowledge, epochs: int) -> None:
    """Train the model of the server on the rows of `mean`, at the learning rate of the round."""
    training, round = ctx.terms.training, ctx.plan.round
    rng = make_rng(ctx.terms.seed, Purpose.STUDENT, round)
    batch = Batch(ctx.proxy.x[mean.ids], mean.values, mean.weights)
    batches = passes(batch, epochs, training.batch_size, rng)
    batches = training.augment(batches, rng)
    model_of(ctx).train(batches, training.lr_at(round))
