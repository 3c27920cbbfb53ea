"""Centralised: one model trained on the data of all clients. The upper bound."""

from dataclasses import replace

from edgefd.federation.clients import Federation, merged
from edgefd.federation.method import MessageKind, Method, accept_none
from edgefd.methods._references import BoundConfig, enough_private


def pool_everything(federation: Federation) -> Federation:
    """Return a federation of one client with all private data and the labelled proxy set: no data stay private."""
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
    config=BoundConfig,
    filter=accept_none,
    distillation_targets=enough_private,
    transform=pool_everything,
    message=MessageKind.NOTHING,
    proxy_labels=True,
)
