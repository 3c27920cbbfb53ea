"""FKD, also called FD: mean logits of each class, without any proxy set (Jeong et al. 2018; Seo et al. 2020).

What the papers say and what is chosen here: docs/methods/fkd.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.method import MessageKind, Method, accept_none
from edgefd.federation.plan import RoundPlan
from edgefd.federation.state import ClientState
from edgefd.learners.batches import Batch, one_hot, softmax
from edgefd.methods._references import private_rows, undisclosed


@dataclass(frozen=True)
class Config:
    """How much of what others say of a class is learned."""

    strength: float = 1.0
    """lambda: weight of the distillation loss beside that of the label"""

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError("strength must not be negative")


def class_means(logits: Float32, y: Int64) -> Knowledge:
    """z_c = the mean logits of the samples of class c, a row for each class that there is."""
    classes, index = np.unique(y, return_inverse=True)
    total = np.zeros((len(classes), logits.shape[1]))
    np.add.at(total, index, logits)
    means = (total / np.bincount(index)[:, None]).astype(np.float32)
    return Knowledge(classes, means, np.ones(len(classes), np.float32))


def upload(state: ClientState, proxy: ProxySet, plan: RoundPlan, config: Config) -> Knowledge:
    """The mean logits of the client's own classes."""
    return class_means(state.learner.predict_logits(state.data.x), state.data.y)


def aggregate(uploads: Sequence[Knowledge], config: Config) -> Knowledge:
    """For each class the mean over the n_c clients that hold it; the weight is 1 / n_c, for `without` to undo."""
    k = weighted_mean(uploads)
    holders = np.sum([np.isin(k.ids, upload.ids) for upload in uploads], axis=0)
    return Knowledge(k.ids, k.values, (1 / holders).astype(np.float32))


def without(teacher: Knowledge, own: Knowledge) -> Knowledge:
    """Leave one out: g_c = (n_c z_c - own_c) / (n_c - 1) for the classes that others hold as well.

    >>> teacher = Knowledge(np.array([0]), np.array([[2.0, 0.0]], np.float32), np.array([0.5], np.float32))
    >>> own = Knowledge(np.array([0]), np.array([[1.0, 0.0]], np.float32), np.ones(1, np.float32))
    >>> without(teacher, own).values
    array([[3., 0.]], dtype=float32)
    """
    n = np.rint(1 / teacher.weights)
    total = teacher.values.astype(np.float64) * n[:, None]
    mine = np.isin(teacher.ids, own.ids)
    total[mine] -= own.values[np.isin(own.ids, teacher.ids)]
    n[mine] -= 1
    others = n > 0
    values = (total[others] / n[others, None]).astype(np.float32)
    return Knowledge(teacher.ids[others], values, np.ones(int(others.sum()), np.float32))


def personalise_teacher(teacher: Knowledge, state: ClientState, proxy: ProxySet, config: Config) -> Knowledge:
    """What the others say: the model has not changed since the client answered, so its own part is known.

    A client that was not asked, or whose report was late, takes out what it would have said.
    """
    return without(teacher, class_means(state.learner.predict_logits(state.data.x), state.data.y))


def distillation_targets(
    teacher: Knowledge, data: ClientData, proxy: ProxySet, config: Config, rng: np.random.Generator
) -> Batch:
    """Private rows with the loss H(label, q) + lambda H(softmax(g_y), q).

    It is (1 + lambda) H(t, q) with t = (label + lambda softmax(g_y)) / (1 + lambda). Rows of classes that no other
    client holds have their label alone.
    """
    rows = private_rows(teacher, data, proxy, config, rng)
    said = np.zeros((teacher.width, teacher.width), np.float32)
    said[teacher.ids] = softmax(teacher.values)
    y = rows.targets.argmax(1)
    share = (config.strength * np.isin(y, teacher.ids)).astype(np.float32)[:, None]
    return Batch(rows.x, (one_hot(y, teacher.width) + share * said[y]) / (1 + share), 1 + share[:, 0])


METHOD = Method(
    name="fkd",
    summary="mean logits of each class, everybody's but the client's own, learned on private data; no proxy set",
    config=Config,
    client_filter=accept_none,
    aggregate=aggregate,
    distillation_targets=distillation_targets,
    transform_federation=undisclosed,
    personalise_teacher=personalise_teacher,
    upload=upload,
    message=MessageKind.CLASS_LABELS,
)
