"""FedProx: FedAvg whose clients are held near the model they were sent (Li et al., arXiv 1812.06127).

What the paper says and what is chosen here: docs/methods/fedprox.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from edgefd.learners.batches import Batch
from edgefd.learners.learner import Learner
from edgefd.methods import fedavg
from edgefd.methods._parameters import parameters, set_parameters


@dataclass(frozen=True)
class Config:
    """How strongly clients are held."""

    mu: float = 0.1
    """of the term (mu / 2) |theta - theta_t|^2"""

    def __post_init__(self) -> None:
        if self.mu < 0:
            raise ValueError("mu must not be negative")


def train(learner: Learner, batches: Iterable[Batch], lr: float, config: Config) -> float:
    """After each step on the loss, the proximal step of (mu / 2) |theta - theta_t|^2 at the same learning rate.

    It is theta <- (theta + lr mu theta_t) / (1 + lr mu).
    theta_t, what the client was sent, is what its model holds when private training begins.
    """
    sent = parameters(learner)
    pull = np.float32(lr * config.mu)
    losses = []
    for batch in batches:
        losses.append(learner.train([batch], lr))
        set_parameters(learner, ((parameters(learner) + pull * sent) / (1 + pull)).astype(np.float32))
    return float(np.mean(losses)) if losses else 0.0


METHOD = replace(
    fedavg.METHOD,
    name="fedprox",
    summary="FedAvg with a term that holds each client near the model it was sent",
    config=Config,
    train=train,
)
