"""Helpers of methods that train on private data alone."""

from dataclasses import replace
from typing import Any

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import ClientData, Federation, ProxySet, proxy_labels_of
from edgefd.learners.batches import Batch, labelled


def sample_private(
    teacher: Knowledge, data: ClientData, proxy: ProxySet, config: Any, rng: np.random.Generator
) -> Batch:
    """Return as many private rows as there are proxy rows, so that all methods train for the same number of steps."""
    rows = np.concatenate([rng.permutation(len(data.x)) for _ in range(-(-len(proxy) // len(data.x)))])[: len(proxy)]
    return labelled(data.x[rows], data.y[rows], teacher.width)


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
