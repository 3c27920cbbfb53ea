"""Centralised: one model on everybody's data. The upper bound."""

from dataclasses import replace

from edgefd.federation.clients import Federation, merged
from edgefd.federation.method import Method, accept_none
from edgefd.methods._references import private_rows


def everything(federation: Federation) -> Federation:
    """A federation of one client, which holds all private data and the labelled proxy set: nothing stays private."""
    shared = 0 if federation.kept else federation.raw_samples_disclosed  # kept rows are among the private ones
    return replace(
        federation,
        clients=(merged(federation, private=True),),
        table=federation.table.sum(0, keepdims=True),
        raw_samples_disclosed=shared + sum(len(c.x) for c in federation.clients),
    )


METHOD = Method(
    name="centralised",
    summary="reference: one central model on all clients' data and the labelled proxy set",
    client_filter=accept_none,
    distillation_targets=private_rows,
    transform_federation=everything,
    proxy_labels=True,
)
