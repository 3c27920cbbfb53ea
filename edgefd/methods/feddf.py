"""FedDF: FedAvg, after which the server distils all clients' models into the mean model (Lin et al., arXiv 2006.07242).

What the paper says and what is chosen here: docs/methods/feddf.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.federation.context import ServerContext
from edgefd.federation.method import unchanged
from edgefd.learners.batches import softmax
from edgefd.methods import fedavg
from edgefd.methods._parameters import parameters, set_parameters
from edgefd.methods._server_model import distil, model_of


@dataclass(frozen=True)
class Config:
    """Settings of the distillation at the server."""

    epochs: int = 2
    """passes over the proxy set in each round"""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError("epochs must be at least 1")


def mean_logits(ctx: ServerContext, sent: Sequence[Knowledge]) -> Float32:
    """Return (1 / K) sum_k z_k on the proxy set, with each client's parameters loaded into the server's model."""
    model = model_of(ctx)
    total = np.zeros((len(ctx.proxy), ctx.terms.n_classes))
    for upload in sent:
        set_parameters(model, upload.values[0])
        total += model.predict_logits(ctx.proxy.x)
    return (total / len(sent)).astype(np.float32)


def aggregate(ctx: ServerContext) -> Knowledge:
    """Average the parameters, then minimise KL(softmax(mean of logits), softmax of its own) on the proxy set."""
    sent = [upload for upload in ctx.uploads if len(upload)]
    if not sent:
        return ctx.uploads[0]
    ensemble = softmax(mean_logits(ctx, sent))
    set_parameters(model_of(ctx), fedavg.mean_parameters(sent).values[0])
    distil(ctx, Knowledge(np.arange(len(ctx.proxy)), ensemble, np.ones(len(ctx.proxy), np.float32)), ctx.config.epochs)
    return Knowledge(np.zeros(1, np.int64), parameters(model_of(ctx))[None], np.ones(1, np.float32))


METHOD = replace(
    fedavg.METHOD,
    name="feddf",
    summary="FedAvg, after which the server distils all clients' models into the mean model on the proxy set",
    config=Config,
    aggregate=aggregate,
    transform=unchanged,
    server_model=True,
)
