"""FedProto: clients exchange mean embeddings of classes, and train towards them (Tan et al., arXiv 2105.00243).

What the paper says and what is chosen here: docs/methods/fedproto.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.federation.context import ClientContext
from edgefd.federation.distillation import no_rows, private_batches
from edgefd.federation.method import MessageKind, Method, accept_none
from edgefd.federation.values import EMBEDDINGS
from edgefd.learners.batches import AnchoredBatch, Batch
from edgefd.learners.learner import EmbeddingLearner
from edgefd.methods._own_training import private_steps
from edgefd.methods._references import without_contribution
from edgefd.methods.fkd import class_means


@dataclass(frozen=True)
class Config:
    """Settings of the training towards prototypes."""

    strength: float = 1.0
    """lambda: factor of the mean squared distance between an embedding and the prototype of its class"""

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError("strength must not be negative")


def upload(ctx: ClientContext) -> Knowledge:
    """Return the prototype of each class of the client: the mean embedding of its samples.

    Raises:
        UserError: if the embeddings of the model are the samples themselves.
    """
    x = ctx.data.x
    embeddings = cast(EmbeddingLearner, ctx.learner).embed(x)
    if np.array_equal(embeddings, x.reshape(len(x), -1)):
        raise UserError(
            "the model has only one layer, so its embeddings are the samples and its prototypes means of raw samples: "
            "use a model with a hidden layer, such as mlp"
        )
    return class_means(embeddings, ctx.data.y)


def anchored(batches: Iterable[Batch], prototypes: Knowledge, strength: float) -> Iterator[AnchoredBatch]:
    """Add the prototype of its class to each row of batches of labelled rows."""
    for batch in batches:
        y = batch.targets.argmax(1)
        known = np.isin(y, prototypes.ids)
        anchors: Float32 = np.zeros((len(y), prototypes.width), np.float32)
        anchors[known] = prototypes.values[np.searchsorted(prototypes.ids, y[known])]
        yield AnchoredBatch(batch.x, batch.targets, batch.weights, anchors, known.astype(np.float32), strength)


def distillation_targets(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Train on private rows with the loss H(y, q) + lambda |f(x) - prototype_y|^2 / E, and return no row."""
    batches = private_batches(ctx, ctx.private, private_steps(ctx))
    ctx.learner.train(anchored(batches, teacher, ctx.config.strength), ctx.lr)
    return no_rows(ctx)


METHOD = Method(
    name="fedproto",
    summary="the mean embedding of each class over clients, towards which clients train; no proxy set",
    config=Config,
    filter=accept_none,
    distillation_targets=distillation_targets,
    upload=upload,
    aggregate=lambda ctx: weighted_mean(ctx.uploads),
    transform=without_contribution,
    message=MessageKind.PROTOTYPES,
    values=EMBEDDINGS,
    remembers=True,
    local_training="warmup",
)
