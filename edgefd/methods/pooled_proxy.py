"""Pooled proxy: one central model trained on the *labelled* proxy set, the result of simply sharing these data."""

from dataclasses import replace

import numpy as np

from edgefd.federation.clients import Federation, merged, proxy_labels_of
from edgefd.federation.method import MessageKind, Method, accept_none
from edgefd.methods._references import BoundConfig, enough_private


def proxy_only(federation: Federation) -> Federation:
    """Return a federation of one client that holds the proxy samples with their labels."""
    holder = merged(federation, private=False)
    table = np.bincount(proxy_labels_of(federation), minlength=federation.n_classes)[None]
    return replace(federation, clients=(holder,), table=table)


METHOD = Method(
    name="pooled_proxy",
    summary="reference: one central model on the labelled proxy set",
    config=BoundConfig,
    filter=accept_none,
    distillation_targets=enough_private,
    transform=proxy_only,
    message=MessageKind.NOTHING,
    proxy_labels=True,
)
