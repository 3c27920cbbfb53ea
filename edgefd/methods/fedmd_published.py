"""FedMD as published: labelled warm-up, then the mean of logits, learned by the L1 loss (arXiv 1910.03581).

What the paper says and what is chosen here: docs/methods/fedmd_published.md.
"""

from __future__ import annotations

import numpy as np

from edgefd.core.arrays import Float64
from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.federation.context import ClientContext, ServerContext
from edgefd.federation.distillation import no_rows
from edgefd.federation.method import Method
from edgefd.federation.values import LOGITS
from edgefd.learners.batches import Batch, one_hot
from edgefd.methods._own_training import centred_logits, digest


def l1_gradient(z: Float64, teacher: Float64) -> Float64:
    """Return the gradient of the mean of |z - teacher| over rows and classes."""
    return np.sign(z - teacher) / z.size


def aggregate(ctx: ServerContext) -> Knowledge:
    """Return the mean of the clients' logits; after round 0, the labels of the proxy set, for the warm-up.

    Raises:
        RunError: if the server has no labels.
    """
    mean = weighted_mean(ctx.uploads)
    if ctx.plan.round > 0 or not len(mean):
        return mean
    if ctx.labels is None:
        raise RunError("fedmd_published needs labels of the proxy set for its warm-up, but the server has none")
    return Knowledge(mean.ids, one_hot(ctx.labels[mean.ids], mean.width), mean.weights)


def distillation_targets(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Return the labelled rows of the warm-up, in round 1; later, digest the teacher and return no row."""
    if ctx.plan.round == 1:
        return Batch(ctx.proxy.x[teacher.ids], teacher.values, teacher.weights)
    digest(ctx, teacher, l1_gradient)
    return no_rows(ctx)


METHOD = Method(
    name="fedmd_published",
    summary="the mean of all clients' logits, learned by the L1 loss after a warm-up on the labelled proxy set",
    distillation_targets=distillation_targets,
    upload=centred_logits,
    aggregate=aggregate,
    values=LOGITS,
    remembers=True,
    answers_queries=False,
    distils_rows=False,
    local_training="always",
    proxy_labels=True,
)
