"""A PATE-style vote inside each client: teachers that share no record elect each row's label, in noise.

After Papernot et al. (arXiv 1610.05755, 1802.08908). A client has too few records to train a network on each shard of
them, so teachers are class means; what the client's own model has learned is not told at all: docs/guides/defences.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import Purpose, make_rng
from edgefd.defences.accounting import gaussian_multiplier
from edgefd.defences.noise import check_budget
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.plan import RoundPlan
from edgefd.federation.state import ClientState
from edgefd.learners.batches import one_hot


@dataclass(frozen=True)
class Pate:
    """A noisy vote of teachers on disjoint shards."""

    name: Literal["pate"] = "pate"
    shards: int = 20
    """teachers of a client"""
    epsilon: float = 8.0
    """of the whole run, against exchanging one private record of a client for another"""
    delta: float = 1e-5

    def __post_init__(self) -> None:
        check_budget(self.epsilon, self.delta)
        if self.shards < 1:
            raise ValueError("shards must be at least 1")


def privatise(k: Knowledge, state: ClientState, proxy: ProxySet, plan: RoundPlan, settings: Pate) -> Knowledge:
    """Labels elected by the shards, of the same rows, all of weight 1.

    Neither teachers nor noise change between rounds, so neither do the labels: they are paid for once.
    """
    rng = make_rng(plan.seed, Purpose.DEFENCE, state.data.client)
    counts = votes(state.data, proxy.x[k.ids], settings.shards, state.n_classes, rng)
    noise = np.random.default_rng(rng.integers(2**63)).normal(0, sigma_of(settings, plan), counts.shape)
    return Knowledge(k.ids, one_hot((counts + noise).argmax(1), k.width), np.ones(len(k), np.float32))


def sigma_of(settings: Pate, plan: RoundPlan) -> float:
    """Noise of each count, m(epsilon, delta) * sqrt(2 P): a record moves one vote on each of P rows."""
    return gaussian_multiplier(settings.epsilon, settings.delta) * math.sqrt(2 * len(plan.ids))


def votes(data: ClientData, x: Float32, shards: int, n_classes: int, rng: np.random.Generator) -> Int64:
    """How many teachers name each class for each row: int64 [n, classes].

    Records are dealt out by lot, so that each is in one shard; a teacher names the class whose mean in its shard is
    nearest. A teacher without records does not vote.
    """
    order = rng.permutation(len(data.y))
    counts: Int64 = np.zeros((len(x), n_classes), np.int64)
    for shard in np.array_split(order, shards):
        if len(shard):
            named = nearest_mean(data.x[shard], data.y[shard], x)
            counts[np.arange(len(x)), named] += 1
    return counts


def nearest_mean(x: Float32, y: Int64, asked: Float32) -> Int64:
    """The class of the nearest of the class means of (x, y), for each row of `asked`."""
    classes = np.unique(y)
    means = np.stack([x[y == c].reshape((y == c).sum(), -1).mean(0) for c in classes])
    flat: npt.NDArray[np.float32] = asked.reshape(len(asked), -1)
    distances = (means**2).sum(1) - 2 * flat @ means.T  # up to what is the same for all classes
    out: Int64 = classes[distances.argmin(1)]
    return out
