"""DS-FL: the mean of all clients' soft labels, sharpened to reduce its entropy (Itahara et al., arXiv 2008.06180).

What the paper says and what is chosen here: docs/methods/dsfl.md.
"""

from dataclasses import dataclass
from typing import Literal

from edgefd.core.knowledge import Knowledge
from edgefd.federation.context import ServerContext
from edgefd.federation.method import Method
from edgefd.learners.batches import softmax


@dataclass(frozen=True)
class Config:
    """Settings of the aggregation of soft labels."""

    aggregation: Literal["era", "mean"] = "era"
    """era: entropy reduction, softmax(mean / T); mean: simple aggregation"""
    temperature: float = 0.1
    """T of era: the smaller, the sharper"""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError("temperature must be above 0")


def era(mean: Knowledge, temperature: float) -> Knowledge:
    """Return softmax(p / T) of the mean p (entropy reduction).

    It is a softmax of *probabilities*, so no value is above e^(1/T) / (e^(1/T) + C - 1).

    >>> import numpy as np
    >>> k = Knowledge(np.array([0]), np.array([[0.6, 0.4]], np.float32), np.ones(1, np.float32))
    >>> era(k, 0.1).values.round(3)
    array([[0.881, 0.119]], dtype=float32)
    """
    return Knowledge(mean.ids, softmax(mean.values / temperature), mean.weights)


def aggregate(ctx: ServerContext) -> Knowledge:
    """Return the mean of the soft labels, sharpened if the config says so."""
    mean = ctx.combine(ctx.uploads)
    return mean if ctx.config.aggregation == "mean" else era(mean, ctx.config.temperature)


METHOD = Method(
    name="dsfl",
    summary="the mean of all clients' soft labels, sharpened by a softmax at T = 0.1 (ERA); no filter",
    config=Config,
    aggregate=aggregate,
    label_aggregation=True,
    remembers=True,
    privacy_accounting=True,
)
