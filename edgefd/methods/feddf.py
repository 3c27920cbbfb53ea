"""FedDF: FedAvg, after which the server distils all clients' models into the mean model (Lin et al., arXiv 2006.07242).

What the paper says and what is chosen here: docs/methods/feddf.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.federation.method import identity
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.state import Server
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


def mean_logits(sent: Sequence[Knowledge], server: Server) -> Float32:
    """Return (1 / K) sum_k z_k on the proxy set, with each client's parameters loaded into the server's model."""
    model = model_of(server)
    total = np.zeros((len(server.proxy), server.n_classes))
    for upload in sent:
        set_parameters(model, upload.values[0])
        total += model.predict_logits(server.proxy.x)
    return (total / len(sent)).astype(np.float32)


def server_update(
    reports: Sequence[Report], teacher: Knowledge | None, plan: RoundPlan, server: Server, config: Config
) -> Knowledge:
    """Average the parameters, then minimise KL(softmax(mean of logits), softmax of its own) on the proxy set."""
    sent = [r.knowledge for r in reports if len(r.knowledge)]
    if not sent:
        return reports[0].knowledge
    ensemble = softmax(mean_logits(sent, server))
    set_parameters(model_of(server), fedavg.aggregate(sent, config).values[0])
    targets = Knowledge(np.arange(len(server.proxy)), ensemble, np.ones(len(server.proxy), np.float32))
    distil(server, targets, plan, config.epochs)
    return Knowledge(np.zeros(1, np.int64), parameters(model_of(server))[None], np.ones(1, np.float32))


METHOD = replace(
    fedavg.METHOD,
    name="feddf",
    summary="FedAvg, after which the server distils all clients' models into the mean model on the proxy set",
    config=Config,
    transform_federation=identity,
    server_update=server_update,
    server_model=True,
)
