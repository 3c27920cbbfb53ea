"""FedAvg: the mean of all clients' parameters, weighted by their samples (McMahan et al., arXiv 1602.05629).

What the paper says and what is chosen here: docs/methods/fedavg.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.federation.context import ClientContext
from edgefd.federation.distillation import no_rows
from edgefd.federation.method import MessageKind, Method, accept_none
from edgefd.federation.values import PARAMETERS
from edgefd.learners.batches import Batch
from edgefd.learners.optimizer import reset_optimizer
from edgefd.methods._parameters import parameters, set_parameters
from edgefd.methods._references import without_contribution

MOST_SAMPLES = 10**6
"""largest number of samples: weights are in (0, 1], so n samples have weight n / MOST_SAMPLES, with the same mean"""


def upload(ctx: ClientContext) -> Knowledge:
    """Return one row: its values are the parameters, its weight is proportional to the number of samples."""
    n = len(ctx.data.x)
    if n > MOST_SAMPLES:
        raise RunError(f"client {ctx.data.client} has {n} samples; parameters are averaged for up to {MOST_SAMPLES}")
    weight = np.array([n / MOST_SAMPLES], np.float32)
    return Knowledge(np.zeros(1, np.int64), parameters(ctx.learner)[None], weight)


def mean_parameters(uploads: Sequence[Knowledge]) -> Knowledge:
    """Return sum_k n_k theta_k / sum_k n_k, or no row if no upload has parameters."""
    sent = [u for u in uploads if len(u)]
    return weighted_mean(sent) if sent else uploads[0]


def distillation_targets(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Load the mean into the client's model, with a fresh optimizer; return no row: there is nothing to distil."""
    if len(teacher):
        set_parameters(ctx.learner, teacher.values[0])
        reset_optimizer(ctx.learner)
    return no_rows(ctx)


METHOD = Method(
    name="fedavg",
    summary="the mean of all clients' parameters, weighted by number of samples; one shared model, no proxy set",
    filter=accept_none,
    distillation_targets=distillation_targets,
    upload=upload,
    aggregate=lambda ctx: mean_parameters(ctx.uploads),
    transform=without_contribution,
    message=MessageKind.PARAMETERS,
    values=PARAMETERS,
    local_training="always",
)
