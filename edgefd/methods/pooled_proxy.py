"""Pooled proxy: one central model on the *labelled* proxy set: what simply sharing that data would give."""

from dataclasses import replace

import numpy as np

from edgefd.federation.clients import Federation, merged, proxy_labels_of
from edgefd.federation.method import Method, accept_none
from edgefd.methods._references import private_rows


def proxy_only(federation: Federation) -> Federation:
    """A federation of one client, which holds the proxy samples with their labels."""
    holder = merged(federation, private=False)
    table = np.bincount(proxy_labels_of(federation), minlength=federation.n_classes)[None]
    return replace(federation, clients=(holder,), table=table)


METHOD = Method(
    name="pooled_proxy",
    summary="reference: one central model on the labelled proxy set",
    client_filter=accept_none,
    distillation_targets=private_rows,
    transform_federation=proxy_only,
    proxy_labels=True,
)
