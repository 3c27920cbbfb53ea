"""FedProx: FedAvg with a proximal term towards the model that was sent (Li et al., arXiv 1812.06127).

What the paper says and what is chosen here: docs/methods/fedprox.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from edgefd.federation.context import ClientContext
from edgefd.learners.batches import Batch
from edgefd.methods import fedavg
from edgefd.methods._parameters import parameters, set_parameters


@dataclass(frozen=True)
class Config:
    """Settings of the proximal term."""

    mu: float = 0.1
    """factor of the proximal term (mu / 2) |theta - theta_t|^2"""

    def __post_init__(self) -> None:
        if self.mu < 0:
            raise ValueError("mu must not be negative")


def local_step(ctx: ClientContext, batches: Iterable[Batch]) -> float:
    """Train with a proximal step of (mu / 2) |theta - theta_t|^2 after each step on the loss; return the mean loss.

    The proximal step is theta <- (theta + lr mu theta_t) / (1 + lr mu), at the learning rate lr of the loss. theta_t
    are the parameters that the server sent: those of the model when private training begins.
    """
    learner, lr = ctx.learner, ctx.lr
    sent = parameters(learner)
    pull = np.float32(lr * ctx.config.mu)
    losses = []
    for batch in batches:
        losses.append(learner.train([batch], lr))
        set_parameters(learner, ((parameters(learner) + pull * sent) / (1 + pull)).astype(np.float32))
    return float(np.mean(losses)) if losses else 0.0


METHOD = replace(
    fedavg.METHOD,
    name="fedprox",
    summary="FedAvg with a proximal term that keeps each client near the model that it received",
    config=Config,
    local_step=local_step,
)
