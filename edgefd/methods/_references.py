"""Helpers of methods that train on private data alone."""

from dataclasses import dataclass, replace

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import ClientData, Federation, proxy_labels_of
from edgefd.federation.context import ClientContext
from edgefd.learners.batches import Batch, labelled


@dataclass(frozen=True)
class BoundConfig:
    """Settings of a reference that trains one central model, as a bound for federations."""

    min_steps: int = 2000
    """least number of training steps in the whole run; each round has at least a pass over all rows of the model"""

    def __post_init__(self) -> None:
        if self.min_steps < 0:
            raise ValueError("min_steps must not be negative")


def sample_private(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Return as many private rows as there are proxy rows, so that all methods train for the same number of steps."""
    return _private_rows(ctx, len(ctx.proxy), teacher.width)


def whole_private(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Return as many private rows as there are proxy rows, but at least every private row once.

    So each round trains for an epoch or more, and a small proxy set limits nothing.
    """
    return _private_rows(ctx, max(len(ctx.proxy), len(ctx.data.x)), teacher.width)


def enough_private(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Return at least every private row once, and as many as `min_steps` of a `BoundConfig` needs in each round."""
    training = ctx.terms.training
    passes = max(training.distill_epochs, 1) * training.rounds
    of_steps = -(-ctx.config.min_steps // passes) * training.proxy_rows_per_batch
    return _private_rows(ctx, max(len(ctx.proxy), len(ctx.data.x), of_steps), teacher.width)


def _private_rows(ctx: ClientContext, n: int, n_classes: int) -> Batch:
    """Return n private rows. Every row occurs once before any row occurs again."""
    x, y = ctx.data.x, ctx.data.y
    rows = np.concatenate([ctx.rng.permutation(len(x)) for _ in range(-(-n // len(x)))])[:n]
    return labelled(x[rows], y[rows], n_classes)


def without_contribution(federation: Federation) -> Federation:
    """Return the federation without contributed samples: each client trains on its own samples itself."""
    clients = tuple(_return_contributed(data, federation) for data in federation.clients)
    return replace(federation, clients=clients, raw_samples_disclosed=0)


def _return_contributed(data: ClientData, federation: Federation) -> ClientData:
    none = np.empty(0, np.int64)
    if federation.kept or not len(data.contributed):
        return replace(data, contributed=none, contributed_y=none)
    x = np.concatenate([data.x, federation.proxy.x[data.contributed]])
    y = np.concatenate([data.y, proxy_labels_of(federation)[data.contributed]])
    return replace(data, x=x, y=y, contributed=none, contributed_y=none, rows=None)
