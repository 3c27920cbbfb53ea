"""FedProx: FedAvg with a proximal term towards the model that was sent (Li et al., arXiv 1812.06127).

What the paper says and what is chosen here: docs/methods/fedprox.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from edgefd.federation.context import ClientContext
from edgefd.learners.batches import Batch
from edgefd.learners.learner import Proximal
from edgefd.methods import fedavg


@dataclass(frozen=True)
class Config:
    """Settings of the proximal term."""

    mu: float = 0.1
    """factor of the proximal term (mu / 2) |theta - theta_t|^2"""

    def __post_init__(self) -> None:
        if self.mu < 0:
            raise ValueError("mu must not be negative")


def local_step(ctx: ClientContext, batches: Iterable[Batch]) -> float:
    """Minimise the loss plus (mu / 2) |theta - theta_t|^2 on the batches; return the mean loss without this term.

    The gradient of each step is that of the loss plus mu (theta - theta_t), before momentum or Adam. theta_t are the
    parameters that the server sent: those of the model when private training begins.
    """
    return ctx.learner.train(batches, ctx.lr, Proximal(ctx.config.mu, ctx.learner.state()))


METHOD = replace(
    fedavg.METHOD,
    name="fedprox",
    summary="FedAvg with a proximal term that keeps each client near the model that it received",
    config=Config,
    local_step=local_step,
)
