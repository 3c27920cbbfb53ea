"""FKD, also called FD: mean logits of each class, without a proxy set (Jeong et al. 2018; Seo et al. 2020).

What the papers say and what is chosen here: docs/methods/fkd.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.federation.context import ClientContext, ServerContext
from edgefd.federation.method import MessageKind, Method, accept_none
from edgefd.federation.values import LOGITS
from edgefd.learners.batches import Batch, one_hot, softmax
from edgefd.methods._references import sample_private, without_contribution


@dataclass(frozen=True)
class Config:
    """Settings of the distillation."""

    strength: float = 1.0
    """lambda: weight of the distillation loss relative to the loss of the label"""

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError("strength must not be negative")


def class_means(logits: Float32, y: Int64) -> Knowledge:
    """Return z_c, the mean logits of the samples of class c: one row for each class of `y`."""
    classes, index = np.unique(y, return_inverse=True)
    total = np.zeros((len(classes), logits.shape[1]))
    np.add.at(total, index, logits)
    means = (total / np.bincount(index)[:, None]).astype(np.float32)
    return Knowledge(classes, means, np.ones(len(classes), np.float32))


def upload(ctx: ClientContext) -> Knowledge:
    """Return the mean logits of the client's own classes."""
    return class_means(ctx.learner.predict_logits(ctx.data.x), ctx.data.y)


def aggregate(ctx: ServerContext) -> Knowledge:
    """Return the mean of each class over its n_c clients, with weight 1 / n_c, which `without` needs.

    What the server remembers counts fully, because `without` can subtract only a part of weight 1.
    """
    k = weighted_mean(replace(upload, weights=np.ones_like(upload.weights)) for upload in ctx.uploads)
    holders = np.sum([np.isin(k.ids, upload.ids) for upload in ctx.uploads], axis=0)
    return Knowledge(k.ids, k.values, (1 / holders).astype(np.float32))


def without(teacher: Knowledge, own: Knowledge) -> Knowledge:
    """Remove one client from the mean: g_c = (n_c z_c - own_c) / (n_c - 1), for the classes that others hold too.

    >>> teacher = Knowledge(np.array([0]), np.array([[2.0, 0.0]], np.float32), np.array([0.5], np.float32))
    >>> own = Knowledge(np.array([0]), np.array([[1.0, 0.0]], np.float32), np.ones(1, np.float32))
    >>> without(teacher, own).values
    array([[3., 0.]], dtype=float32)
    """
    n = np.rint(1 / teacher.weights)
    total = teacher.values.astype(np.float64) * n[:, None]
    shared = np.isin(teacher.ids, own.ids)
    total[shared] -= own.values[np.isin(own.ids, teacher.ids)]
    n[shared] -= 1
    others = n > 0
    values = (total[others] / n[others, None]).astype(np.float32)
    return Knowledge(teacher.ids[others], values, np.ones(int(others.sum()), np.float32))


def distillation_targets(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Return private rows with targets for the loss H(label, q) + lambda H(softmax(g_y), q).

    g_c is the mean of the other clients. The client computes its own part of the teacher again, because its model has
    not changed since its upload. A client that was not sampled, or whose report was late, removes the part that it
    would have sent. The loss is (1 + lambda) H(t, q) with t = (label + lambda softmax(g_y)) / (1 + lambda). The target
    of a row whose class no other client holds is its label.
    """
    others = without(teacher, upload(ctx))
    rows = sample_private(ctx, others)
    class_probs = np.zeros((others.width, others.width), np.float32)
    class_probs[others.ids] = softmax(others.values)
    y = rows.targets.argmax(1)
    share = (ctx.config.strength * np.isin(y, others.ids)).astype(np.float32)[:, None]
    return Batch(rows.x, (one_hot(y, others.width) + share * class_probs[y]) / (1 + share), 1 + share[:, 0])


METHOD = Method(
    name="fkd",
    summary="mean logits of each class over the other clients, distilled on private data; no proxy set",
    config=Config,
    filter=accept_none,
    distillation_targets=distillation_targets,
    upload=upload,
    aggregate=aggregate,
    transform=without_contribution,
    message=MessageKind.CLASS_LABELS,
    values=LOGITS,
    remembers=True,
)
