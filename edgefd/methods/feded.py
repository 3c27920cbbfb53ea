"""FedED: a server model distils the mean of all soft labels and sends its own soft labels (Sui et al., EMNLP 2020).

What the paper says and what is chosen here: docs/methods/feded.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.context import ServerContext
from edgefd.federation.method import Method
from edgefd.learners.batches import softmax
from edgefd.methods._server_model import distil, model_of


@dataclass(frozen=True)
class Config:
    """Settings of the distillation at the server."""

    epochs: int = 2
    """passes over the mean soft labels in each round"""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError("epochs must be at least 1")


def aggregate(ctx: ServerContext) -> Knowledge:
    """Distil the mean of the clients' soft labels into the server's model; return the soft labels of that model."""
    mean = ctx.combine(ctx.uploads)
    if not len(mean):
        return mean
    distil(ctx, mean, ctx.config.epochs)
    server_probs = softmax(model_of(ctx).predict_logits(ctx.proxy.x[mean.ids]))
    return Knowledge(mean.ids, server_probs, np.ones(len(mean), np.float32))


METHOD = Method(
    name="feded",
    summary="a server model distils the mean of all soft labels and sends its own soft labels",
    config=Config,
    aggregate=aggregate,
    label_aggregation=True,
    remembers=True,
    privacy_accounting=True,
    server_model=True,
)
