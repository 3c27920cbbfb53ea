"""Helpers of reference methods that exchange nothing."""

from dataclasses import replace
from typing import Any

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import ClientData, Federation, ProxySet, proxy_labels_of
from edgefd.learners.batches import Batch, labelled


def private_rows(teacher: Knowledge, data: ClientData, proxy: ProxySet, config: Any, rng: np.random.Generator) -> Batch:
    """As many private rows as there are proxy rows, so that it trains for as many steps as what it is compared with."""
    rows = np.concatenate([rng.permutation(len(data.x)) for _ in range(-(-len(proxy) // len(data.x)))])[: len(proxy)]
    return labelled(data.x[rows], data.y[rows], teacher.width)


def undisclosed(federation: Federation) -> Federation:
    """The same clients, none of whom hands out a sample: what they contributed is theirs to train on."""
    clients = tuple(_given_back(data, federation) for data in federation.clients)
    return replace(federation, clients=clients, raw_samples_disclosed=0)


def _given_back(data: ClientData, federation: Federation) -> ClientData:
    nobodys = np.empty(0, np.int64)
    if federation.kept or not len(data.contributed):
        return replace(data, contributed=nobodys, contributed_y=nobodys)
    x = np.concatenate([data.x, federation.proxy.x[data.contributed]])
    y = np.concatenate([data.y, proxy_labels_of(federation)[data.contributed]])
    return replace(data, x=x, y=y, contributed=nobodys, contributed_y=nobodys, rows=None)
