"""FedED: a server model distils the mean of all soft labels and sends its own soft labels (Sui et al., EMNLP 2020).

What the paper says and what is chosen here: docs/methods/feded.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.federation.method import Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.state import Server
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


def server_update(
    reports: Sequence[Report], teacher: Knowledge | None, plan: RoundPlan, server: Server, config: Config
) -> Knowledge:
    """Distil the mean of the clients' soft labels into the server's model; return the soft labels of that model."""
    mean = weighted_mean([r.knowledge for r in reports])
    if not len(mean):
        return mean
    distil(server, mean, plan, config.epochs)
    server_probs = softmax(model_of(server).predict_logits(server.proxy.x[mean.ids]))
    return Knowledge(mean.ids, server_probs, np.ones(len(mean), np.float32))


METHOD = Method(
    name="feded",
    summary="a server model distils the mean of all soft labels and sends its own soft labels",
    config=Config,
    server_update=server_update,
    server_model=True,
)
