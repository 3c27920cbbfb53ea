"""Helpers of methods that train a model at the server."""

from __future__ import annotations

from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.plan import RoundPlan
from edgefd.federation.state import Server
from edgefd.learners.batches import Batch, augment, passes
from edgefd.learners.learner import Learner


def model_of(server: Server) -> Learner:
    """Return the model of the server.

    Raises:
        RunError: if the server has no model.
    """
    if server.learner is None:
        raise RunError("the method needs a model at the server, but the server has none")
    return server.learner


def distil(server: Server, mean: Knowledge, plan: RoundPlan, epochs: int) -> None:
    """Train the model of the server on the rows of `mean`, at the learning rate of the round."""
    rng = make_rng(plan.seed, Purpose.STUDENT, plan.round)
    batch = Batch(server.proxy.x[mean.ids], mean.values, mean.weights)
    batches = passes(batch, epochs, plan.training.batch_size, rng)
    model_of(server).train(augment(batches, plan.training.augment_shift, rng), plan.training.lr_at(plan.round))
