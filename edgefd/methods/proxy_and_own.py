"""Proxy and own: each client trains on its private data and on the *labelled* proxy set, without any exchange."""

from dataclasses import replace

import numpy as np

from edgefd.core.arrays import Int64
from edgefd.federation.clients import ClientData, Federation, proxy_labels_of
from edgefd.federation.method import MessageKind, Method, accept_none
from edgefd.methods._references import whole_private


def with_labelled_proxy(federation: Federation) -> Federation:
    """Return the federation in which each client also holds the proxy samples with their labels.

    Raises:
        UserError: if the proxy set has no labels.
    """
    y = proxy_labels_of(federation)
    return replace(federation, clients=tuple(_joined(data, federation, y) for data in federation.clients))


def _joined(data: ClientData, federation: Federation, y: Int64) -> ClientData:
    x = np.concatenate([data.x, federation.proxy.x])
    none = np.empty(0, np.int64)
    return replace(data, x=x, y=np.concatenate([data.y, y]), contributed=none, contributed_y=none, rows=None)


METHOD = Method(
    name="proxy_and_own",
    summary="reference: each client trains alone on its private data and the labelled proxy set",
    filter=accept_none,
    distillation_targets=whole_private,
    transform=with_labelled_proxy,
    message=MessageKind.NOTHING,
    proxy_labels=True,
)
