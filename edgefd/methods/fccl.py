"""FCCL: cross-correlation of a client's logits with the mean logits, and distillation of its own past (CVPR 2022).

What the paper says and what is chosen here: docs/methods/fccl.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float64
from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.federation.context import ClientContext
from edgefd.federation.distillation import no_rows, private_batches
from edgefd.federation.method import Method
from edgefd.federation.values import LOGITS
from edgefd.learners.batches import Batch, softmax
from edgefd.methods._own_training import centred_logits, digest, private_steps


@dataclass(frozen=True)
class Config:
    """Settings of the losses."""

    off_diagonal: float = 0.0051
    """lambda: factor of the loss of pairs of different classes"""
    past: float = 1.0
    """factor of KL(own soft labels before the round, own soft labels) on private rows"""

    def __post_init__(self) -> None:
        if self.off_diagonal < 0 or self.past < 0:
            raise ValueError("off_diagonal and past must not be negative")


def correlation_loss(z: Float64, teacher: Float64, off_diagonal: float) -> tuple[float, Float64]:
    """Return the loss of a batch and its gradient with respect to the logits z, [n, C].

    With both logits standardised over the batch, c_ij is the mean of the products of z_i and teacher_j. The loss is
    sum_i (c_ii - 1)^2 + lambda sum_{i != j} (c_ij + 1)^2.
    """
    n, n_classes = z.shape
    own, scale = _standardised(z)
    other, _ = _standardised(teacher)
    c = own.T @ other / n
    same = np.eye(n_classes, dtype=bool)
    gap = np.where(same, c - 1, c + 1)
    factor = np.where(same, 1.0, off_diagonal)
    by_own = other @ (2 * factor * gap).T / n
    gradient = by_own - by_own.mean(0) - own * (by_own * own).sum(0) / max(n - 1, 1)
    return float((factor * gap**2).sum()), gradient * scale


def _standardised(z: Float64) -> tuple[Float64, Float64]:
    """Return z minus its mean, divided by its deviation s (n - 1), for each class; and 1 / s. Both are 0 if s is 0."""
    if len(z) < 2:
        return np.zeros_like(z), np.zeros(z.shape[1])
    deviation = z.std(0, ddof=1)
    scale = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0.0)
    return (z - z.mean(0)) * scale, scale


def distillation_targets(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Learn the mean logits, then private rows with the loss H(y, q) + past KL(q_0, q), and return no row.

    q_0 are the client's soft labels before the round. Soft cross-entropy has the same gradient as KL.
    """
    data, config = ctx.data, ctx.config
    before, past = softmax(ctx.learner.predict_logits(data.x)), np.float32(config.past)
    digest(ctx, teacher, lambda z, t: correlation_loss(z, t, config.off_diagonal)[1])
    rows = ctx.private
    targets = ((rows.targets + past * before) / (1 + past)).astype(np.float32)
    ctx.learner.train(private_batches(ctx, Batch(rows.x, targets, rows.weights), private_steps(ctx)), ctx.lr)
    return no_rows(ctx)


METHOD = Method(
    name="fccl",
    summary="the mean of all clients' logits, learned by their cross-correlation; clients also distil their own past",
    config=Config,
    distillation_targets=distillation_targets,
    upload=centred_logits,
    aggregate=lambda ctx: weighted_mean(ctx.uploads),
    values=LOGITS,
    remembers=True,
    answers_queries=False,
    distils_rows=False,
    local_training="warmup",
)
