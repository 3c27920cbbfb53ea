"""PATE inside each client: teachers on disjoint shards of its records choose the label of each row in a noisy vote.

The method follows Papernot et al. (arXiv 1610.05755, 1802.08908). A client has too few records to train a network on
each shard, so teachers are class means. Nothing that the client's own model has learned is sent:
docs/guides/defences.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.defences.accounting import gaussian_multiplier
from edgefd.defences.noise import check_budget
from edgefd.federation.clients import ClientData
from edgefd.federation.context import ClientContext
from edgefd.learners.batches import one_hot

_SHARDS, _NOISE = 0, 1  # last keys of the generators


@dataclass(frozen=True)
class Pate:
    """A noisy vote of teachers on disjoint shards of the records of a client."""

    name: Literal["pate"] = "pate"
    shards: int = 20
    """number of shards, and of teachers, of a client"""
    epsilon: float = 8.0
    """epsilon of the whole run, for exchanging one private record of a client for another"""
    delta: float = 1e-5
    """delta of the whole run"""
    seed: int | None = None
    """seed of shards and noise, for tests only: nothing is claimed with one, because others could subtract the noise.
    None = they come from the entropy of the operating system"""

    def __post_init__(self) -> None:
        check_budget(self.epsilon, self.delta, self.seed)
        if self.shards < 1:
            raise ValueError("shards must be at least 1")

    def privatise(self, ctx: ClientContext, knowledge: Knowledge) -> Knowledge:
        """Return the labels of the same rows that the shards vote for, all with weight 1.

        Teachers and noise do not change between rounds, so the label of a row never changes: the privacy budget is
        spent once, whatever rows the server queries. All rows vote in each round, because the arithmetic of fewer rows
        may round otherwise.
        """
        counts = votes(ctx.data, ctx.proxy.x, self.shards, ctx.terms.n_classes, ctx.noise_rng(_SHARDS))
        labels = (counts + ctx.noise_rng(_NOISE).normal(0, sigma_of(self, ctx), counts.shape)).argmax(1)
        ones = np.ones(len(knowledge), np.float32)
        return Knowledge(knowledge.ids, one_hot(labels[knowledge.ids], knowledge.width), ones)


def sigma_of(settings: Pate, ctx: ClientContext) -> float:
    """Return the noise of each count, m(epsilon, delta) * sqrt(2 P): a record changes one vote on each of P rows.

    P is the number of all proxy rows, also if the server queries fewer: it queries others in another round.
    """
    n_rows = len(ctx.proxy) if ctx.terms.selection.queries else len(ctx.plan.ids)
    return gaussian_multiplier(settings.epsilon, settings.delta) * math.sqrt(2 * n_rows)


def votes(data: ClientData, x: Float32, shards: int, n_classes: int, rng: np.random.Generator) -> Int64:
    """Count the votes of the teachers for each class of each row: int64 [n, classes].

    Records are assigned to shards at random, each record to one shard. A teacher votes for the class whose mean in its
    shard is nearest. A teacher without records does not vote.
    """
    order = rng.permutation(len(data.y))
    counts: Int64 = np.zeros((len(x), n_classes), np.int64)
    for shard in np.array_split(order, shards):
        if len(shard):
            voted = nearest_mean(data.x[shard], data.y[shard], x)
            counts[np.arange(len(x)), voted] += 1
    return counts


def nearest_mean(x: Float32, y: Int64, queried: Float32) -> Int64:
    """Return for each row of `queried` the class with the nearest mean, from the class means of (x, y)."""
    classes = np.unique(y)
    means = np.stack([x[y == c].reshape((y == c).sum(), -1).mean(0) for c in classes])
    flat: npt.NDArray[np.float32] = queried.reshape(len(queried), -1)
    distances = (means**2).sum(1) - 2 * flat @ means.T  # without the term that is equal for all classes
    out: Int64 = classes[distances.argmin(1)]
    return out
