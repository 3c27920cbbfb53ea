"""SCARLET: sharpened soft labels that are cached for some rounds and not sent again (Azuma et al., arXiv 2504.19602).

What the paper says and what is chosen here: docs/methods/scarlet.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Bool, Float32, Int64
from edgefd.core.knowledge import Knowledge, replaced
from edgefd.federation.context import ClientContext, ServerContext
from edgefd.federation.method import Method, accepted_ids, labels_of


@dataclass(frozen=True)
class Config:
    """Settings of the sharpening and of the cache."""

    beta: float = 1.0
    """exponent of enhanced ERA; 1 = the plain mean"""
    lifetime: int = 3
    """rounds after which the label of a row is queried again; 1 = no cache"""

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError("beta must be above 0")
        if self.lifetime < 1:
            raise ValueError("lifetime must be at least 1")


def due(ids: Int64, round: int, lifetime: int) -> Bool:
    """Return which rows are queried in a round: round-robin, each every `lifetime` rounds; all in the first two rounds.

    The rows depend on the number of the round alone, so caches never differ and no signal is needed. Clients have
    distilled nothing before the second round, so the labels of the first round are not cached.

    >>> due(np.arange(6), 4, 3)
    array([False, False,  True, False, False,  True])
    """
    return (ids + round) % lifetime == 0 if round > 1 else np.ones(len(ids), np.bool_)


def sharpened(values: Float32, beta: float) -> Float32:
    """Return p_c^beta / sum_j p_j^beta (enhanced ERA).

    >>> sharpened(np.array([[0.75, 0.25]], np.float32), 2.0)
    array([[0.9, 0.1]], dtype=float32)
    """
    p = values.astype(np.float64)
    largest = p.max(1, keepdims=True)
    p = np.where(largest > 0, p, 1)  # a coarse codec makes zeros of a row of many small values
    power = (p / np.where(largest > 0, largest, 1)) ** beta  # without the division, all p_c^beta can underflow
    out: Float32 = (power / power.sum(1, keepdims=True)).astype(np.float32)
    return out


def upload(ctx: ClientContext) -> Knowledge:
    """Return soft labels of the accepted rows that are due in this round."""
    ids = accepted_ids(ctx)
    return labels_of(ctx, ids[due(ids, ctx.plan.round, ctx.config.lifetime)])


def aggregate(ctx: ServerContext) -> Knowledge:
    """Return the sharpened new labels, and those of the last teacher for all other rows: the teacher is the cache."""
    k, teacher = ctx.combine(ctx.uploads), ctx.teacher
    new = Knowledge(k.ids, sharpened(k.values, ctx.config.beta), k.weights)
    if teacher is None:
        return new
    return replaced(teacher, ~np.isin(teacher.ids, new.ids), new)


METHOD = Method(
    name="scarlet",
    summary="the mean of all soft labels, sharpened by a power (enhanced ERA); labels are cached for some rounds",
    config=Config,
    upload=upload,
    aggregate=aggregate,
    label_aggregation=True,
    answers_queries=False,
)
