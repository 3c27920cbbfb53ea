"""`Method`: a federated distillation method, defined by six functions (hooks) and its declared capabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.clients import Federation
from edgefd.federation.context import ClientContext, ServerContext
from edgefd.federation.distillation import teacher_rows
from edgefd.federation.values import SOFT_LABELS, ValueRange
from edgefd.learners.batches import Batch, softmax


class MessageKind(StrEnum):
    """Meaning of a row in the messages of a method."""

    PROXY_LABELS = "proxy labels"
    """each row is a proxy sample"""
    MULTI_TEACHER = "multi-teacher"
    """each row is a proxy sample, and a client sends all queried rows or none; the server sends several teachers, and
    row i of teacher t has id t * P + i"""
    CLASS_LABELS = "class labels"
    """each row is a class"""
    PROTOTYPES = "prototypes"
    """each row is a class, and its values are a mean of embeddings, the inputs of the last layer of a model"""
    PARAMETERS = "parameters"
    """the only row, 0, holds all parameters of a model"""
    NOTHING = "nothing"
    """clients send no row: the method is a reference without any exchange"""

    @property
    def of_proxy_rows(self) -> bool:
        """Whether rows stand for proxy samples."""
        return self in (MessageKind.PROXY_LABELS, MessageKind.MULTI_TEACHER)


@dataclass(frozen=True)
class NoConfig:
    """Config of methods without hyper-parameters."""


def accept_all(ctx: ClientContext) -> Float32:
    """Return weight 1 for every proxy row."""
    return np.ones(len(ctx.proxy), np.float32)


def accept_none(ctx: ClientContext) -> Float32:
    """Return weight 0 for every proxy row."""
    return np.zeros(len(ctx.proxy), np.float32)


def accepted_ids(ctx: ClientContext) -> Int64:
    """Return the ids of the queried proxy rows for which the client answers."""
    return ctx.plan.ids[ctx.acceptance[ctx.plan.ids] > 0]


def labels_of(ctx: ClientContext, ids: Int64, values: Callable[[Float32], Float32] = softmax) -> Knowledge:
    """Return a client's knowledge about proxy rows: `values` of its logits, with its acceptance weights.

    Args:
        ctx: the client.
        ids: accepted proxy rows, ascending.
        values: function of logits, float32 [n, C], such as their probabilities.
    """
    if not len(ids):
        return empty(ctx.terms.n_classes)
    return Knowledge(ids, values(ctx.learner.predict_logits(ctx.proxy.x[ids])), ctx.acceptance[ids])


def soft_labels(ctx: ClientContext) -> Knowledge:
    """Return the probabilities softmax(z) of the logits z, for all queried and accepted rows."""
    return labels_of(ctx, accepted_ids(ctx))


def plain_steps(ctx: ClientContext, batches: Iterable[Batch]) -> float:
    """Train on the batches and return the mean loss."""
    return ctx.learner.train(batches, ctx.lr)


def mean(ctx: ServerContext) -> Knowledge:
    """Return the average of the uploads, row by row."""
    return ctx.combine(ctx.uploads)


def unchanged(federation: Federation) -> Federation:
    """Return the federation as it is."""
    return federation


def no_extra_packages(config: Any) -> tuple[str, ...]:
    """Return no packages: those of a device suffice."""
    return ()


@dataclass(frozen=True)
class Method:
    """A federated distillation method: a name, six hooks and declared capabilities.

    Every hook has a default. Together, the defaults are the plain average of soft labels on every proxy row (FedMD).
    Hooks of a client take a `ClientContext`, hooks of the server a `ServerContext`; `ctx.config` is always an instance
    of the method's own Config class. [P] stands for the number of proxy rows.

    * `filter(ctx) -> float32 [P]`: the acceptance weights of a client, one for each proxy row. With weight 0, the
      client does not answer for the row. It runs once, before the first round, and has no access to the model.
    * `distillation_targets(ctx, teacher) -> Batch`: the rows to distil, with their targets. It may convert the teacher
      that was sent into a teacher of this client, with the client's model. `teacher_rows` applies the selection rule
      and the distillation loss of the config.
    * `local_step(ctx, batches) -> float`: trains on batches of private data after the evaluation and returns the mean
      loss.
    * `upload(ctx) -> Knowledge`: the message of the client. `labels_of` makes one of chosen proxy rows.
    * `aggregate(ctx) -> Knowledge`: the teacher, from `ctx.uploads`, which are sorted by client. If a method declares
      `remembers`, they include the remembered knowledge of absent clients. If a method needs labels or a model at the
      server, it must declare them (`proxy_labels`, `server_model`).
    * `transform(federation) -> Federation`: changes the data of a simulation. Reference methods that train one model on
      pooled data return a federation of one client.

    Capabilities are declared, never inferred from the hooks: a method that does not declare one is refused where a
    config needs it. A defence (`edgefd.defences`) wraps `upload` or replaces `local_step`.

    A complete method, and the teacher that it makes of two clients that disagree about proxy row 1:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Config:
    ...     power: float = 2.0
    >>> def sharpened(ctx):
    ...     k = ctx.combine(ctx.uploads)
    ...     p = k.values**ctx.config.power
    ...     return Knowledge(k.ids, p / p.sum(1, keepdims=True), k.weights)
    >>> toy = Method("toy", "mean, then sharpen", config=Config, aggregate=sharpened, label_aggregation=True)
    """

    name: str
    """name of the method, as in configs"""
    summary: str
    """one line that describes the method in listings"""
    config: type = NoConfig
    """frozen dataclass of its settings"""
    filter: Callable[[ClientContext], Float32] = accept_all
    distillation_targets: Callable[[ClientContext, Knowledge], Batch] = teacher_rows
    local_step: Callable[[ClientContext, Iterable[Batch]], float] = plain_steps
    upload: Callable[[ClientContext], Knowledge] = soft_labels
    aggregate: Callable[[ServerContext], Knowledge] = mean
    transform: Callable[[Federation], Federation] = unchanged
    message: MessageKind = MessageKind.PROXY_LABELS
    """meaning of a row of its messages"""
    values: ValueRange = SOFT_LABELS
    """range of the values in the reports and in the teacher; a message with other values is refused"""
    label_aggregation: bool = False
    """whether `aggregate` averages soft labels by `ctx.combine`, so that a robust aggregator can replace the mean"""
    remembers: bool = False
    """whether the server remembers the newest knowledge of each client, so that `ctx.uploads` includes that of absent
    clients, with weights that fall with its age (`coordinator.memory_discount`)"""
    answers_queries: bool = True
    """whether clients answer for all queried rows that they accept, and the teacher has one label for each of them, so
    that the server can query fewer rows; it has no meaning for other messages than proxy labels"""
    distils_rows: bool = True
    """whether clients distil the teacher's soft labels by `teacher_rows`, which applies selection and distillation; it
    has no meaning for messages that are not of proxy rows"""
    privacy_accounting: bool = False
    """whether the accounting of a defence with an epsilon covers the method: which rows a client sends, and their
    weights, do not depend on private data, and clients distil and train in the standard way"""
    local_training: Literal["configured", "warmup", "always"] = "configured"
    """training on private data after the evaluation, if `train.local_steps` and `train.local_epochs` are 0:
    "configured" = none; "warmup" = in round 0, so that clients are trained before their first upload, unless
    `train.warmup_steps` is set; "always" = in every round. "warmup" and "always" train on as many batches as a
    distillation of all proxy rows has"""
    server_model: bool = False
    """whether the server trains a model of its own (the first model of the config)"""
    proxy_labels: bool = False
    """whether it uses labels of proxy samples: such a method is not comparable with one that uses none"""
    packages: Callable[[Any], tuple[str, ...]] = no_extra_packages
    """function of the config: packages that a client needs and that a device does not have"""

    @property
    def exchanges(self) -> bool:
        """Whether clients send any knowledge."""
        return self.message is not MessageKind.NOTHING

    def adjusted_steps(self, ctx: ClientContext) -> int:
        """Return the number of batches of private rows within a distillation, see `train.adjusted_steps`.

        It is 0 for a client of one class, which learns nothing from them, and for methods whose clients do not distil
        soft labels of proxy rows.
        """
        if not (self.message.of_proxy_rows and self.distils_rows) or len(np.unique(ctx.data.y)) < 2:
            return 0
        return ctx.terms.training.adjusted_batches(len(ctx.proxy), len(ctx.data.x), ctx.epochs)

    def local_steps(self, ctx: ClientContext) -> int:
        """Return the number of batches of private data after the evaluation of a round."""
        training, round = ctx.terms.training, ctx.plan.round
        steps = training.private_steps(round, len(ctx.data.x))
        warmup = self.local_training == "warmup" and round == 0 and not training.warmup_steps
        if training.trains_locally or not (warmup or self.local_training == "always"):
            return steps
        return steps + training.distill_epochs * training.proxy_batches(len(ctx.proxy))
