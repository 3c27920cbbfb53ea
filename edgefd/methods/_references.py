"""Helpers of methods that train on private data alone."""

from dataclasses import replace

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import ClientData, Federation, proxy_labels_of
from edgefd.federation.context import ClientContext
from edgefd.learners.batches import Batch, labelled


def sample_private(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Return as many private rows as there are proxy rows, so that all methods train for the same number of steps."""
    x, y, n = ctx.data.x, ctx.data.y, len(ctx.proxy)
    rows = np.concatenate([ctx.rng.permutation(len(x)) for _ in range(-(-n // len(x)))])[:n]
    return labelled(x[rows], y[rows], teacher.width)


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
