"""`Method`: a federated distillation method, defined by a few functions over arrays (hooks), and their defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, TypeVar

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge, empty, weighted_mean
from edgefd.federation.clients import ClientData, Federation, ProxySet
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.state import ClientState, Server
from edgefd.learners.batches import Batch, softmax
from edgefd.learners.learner import Learner

T = TypeVar("T")


class MessageKind(StrEnum):
    """Meaning of a row in the messages of a method."""

    PROXY_LABELS = "proxy labels"
    """each row is a proxy sample"""
    MULTI_TEACHER = "multi-teacher"
    """each row is a proxy sample; the server sends several teachers, and row i of teacher t has id t * P + i"""
    CLASS_LABELS = "class labels"
    """each row is a class"""
    PARAMETERS = "parameters"
    """the only row, 0, holds all parameters of a model"""

    @property
    def of_proxy_rows(self) -> bool:
        """Whether rows stand for proxy samples."""
        return self in (MessageKind.PROXY_LABELS, MessageKind.MULTI_TEACHER)


@dataclass(frozen=True)
class NoConfig:
    """Config of methods without hyper-parameters."""


def accept_all(data: ClientData, proxy: ProxySet, config: Any, rng: np.random.Generator) -> Float32:
    """Return weight 1 for every proxy row."""
    return np.ones(len(proxy), np.float32)


def accept_none(data: ClientData, proxy: ProxySet, config: Any, rng: np.random.Generator) -> Float32:
    """Return weight 0 for every proxy row."""
    return np.zeros(len(proxy), np.float32)


def soft_labels(logits: Float32, config: Any) -> Float32:
    """Return the probabilities softmax(z) of the logits z."""
    return softmax(logits)


def mean(uploads: Sequence[Knowledge], config: Any) -> Knowledge:
    """Return the weighted mean of the uploads, row by row."""
    return weighted_mean(uploads)


def identity(value: T, *_: object) -> T:
    """Return the first argument unchanged, as the default of hooks that may change it."""
    return value


def teacher_rows(teacher: Knowledge, data: ClientData, proxy: ProxySet, config: Any, rng: np.random.Generator) -> Batch:
    """Return the proxy rows of the teacher, with its values as targets."""
    return Batch(proxy.x[teacher.ids], teacher.values, teacher.weights)


def default_local_step(learner: Learner, batches: Iterable[Batch], lr: float, config: Any) -> float:
    """Train on the batches and return the mean loss."""
    return learner.train(batches, lr)


def no_extra_packages(config: Any) -> tuple[str, ...]:
    """Return no packages: those of a device suffice."""
    return ()


@dataclass(frozen=True)
class Method:
    """A federated distillation method: a name, its hooks and its declared properties.

    Every hook has a default. Together, the defaults are the plain average of soft labels on every proxy row (FedMD).
    `config` is always an instance of the method's own Config class; [P] stands for the number of proxy rows.

    Hooks that run once, before the first round:

    * `transform_federation(federation) -> Federation`: changes the data of a simulation. Reference methods that train
      one model on pooled data return a federation of one client.
    * `client_filter(data, proxy, config, rng) -> float32 [P]`: the acceptance weights of a client, one for each proxy
      row. With weight 0, the client does not answer for the row. They depend on the data alone.

    Hooks of the client, in the order of a round:

    * `personalise_teacher(teacher, state, proxy, config) -> Knowledge`: converts the teacher that was sent into a
      teacher of this client. It may use the client's model.
    * `distillation_targets(teacher, data, proxy, config, rng) -> Batch`: the rows to distil, with their targets.
    * `train(learner, batches, lr, config) -> float`: trains on batches of private data after the evaluation and
      returns the mean loss.
    * `run_local_training(learner, private, steps, plan, rng) -> float`: replaces the drawing of these batches and
      `train`. `private` is the whole private data. It belongs to defences.
    * `extract(logits, config) -> float32 [n, d]`: converts the logits of the accepted rows into the values to send.
    * `upload(state, proxy, plan, config) -> Knowledge`: replaces the default upload (`upload_accepted_rows`, which
      calls `extract`) by another message.
    * `privatise(knowledge, state, proxy, plan) -> Knowledge`: the last change before knowledge is sent. It belongs to
      defences.

    Hooks of the server, in the order of a round:

    * `aggregate(uploads, config) -> Knowledge`: the teacher. Uploads are sorted by client.
    * `server_update(reports, teacher, plan, server, config) -> Knowledge`: replaces `aggregate` if a method needs the
      last teacher, and labels or a model at the server, which the method must declare (`proxy_labels`, `server_model`).
    * `server_filter(teacher, config) -> Knowledge`: the part of the teacher that is sent to clients.

    A defence (`edgefd.defences`) can be combined with any method. It sets `run_local_training` and `privatise`.

    A complete method, and the teacher that it makes of two clients that disagree about proxy row 1:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Config:
    ...     power: float = 2.0
    >>> def sharpened(uploads, config):
    ...     k = weighted_mean(uploads)
    ...     p = k.values**config.power
    ...     return Knowledge(k.ids, p / p.sum(1, keepdims=True), k.weights)
    >>> toy = Method(name="toy", summary="mean, then sharpen", config=Config, aggregate=sharpened)
    >>> ones = np.ones(2, np.float32)
    >>> a = Knowledge(np.array([0, 1]), np.array([[1, 0], [0.9, 0.1]], np.float32), ones)
    >>> b = Knowledge(np.array([1, 2]), np.array([[0.6, 0.4], [0, 1]], np.float32), ones)
    >>> teacher = toy.aggregate([a, b], toy.config())
    >>> teacher.ids.tolist(), teacher.values.round(2).tolist()
    ([0, 1, 2], [[1.0, 0.0], [0.8999999761581421, 0.10000000149011612], [0.0, 1.0]])
    """

    name: str
    """name of the method, as in configs"""
    summary: str
    """one line that describes the method in listings"""
    config: type = NoConfig
    client_filter: Callable[[ClientData, ProxySet, Any, np.random.Generator], Float32] = accept_all
    extract: Callable[[Float32, Any], Float32] = soft_labels
    aggregate: Callable[[Sequence[Knowledge], Any], Knowledge] = mean
    server_filter: Callable[[Knowledge, Any], Knowledge] = identity
    distillation_targets: Callable[[Knowledge, ClientData, ProxySet, Any, np.random.Generator], Batch] = teacher_rows
    transform_federation: Callable[[Federation], Federation] = identity
    personalise_teacher: Callable[[Knowledge, ClientState, ProxySet, Any], Knowledge] = identity
    upload: Callable[[ClientState, ProxySet, RoundPlan, Any], Knowledge] | None = None
    train: Callable[[Learner, Iterable[Batch], float, Any], float] = default_local_step
    server_update: Callable[[Sequence[Report], Knowledge | None, RoundPlan, Server, Any], Knowledge] | None = None
    run_local_training: Callable[[Learner, Batch, int, RoundPlan, np.random.Generator], float] | None = None
    privatise: Callable[[Knowledge, ClientState, ProxySet, RoundPlan], Knowledge] = identity
    message: MessageKind = MessageKind.PROXY_LABELS
    """meaning of a row of its messages"""
    local_training: Literal["configured", "warmup", "always"] = "configured"
    """training on private data after the evaluation, if `train.local_steps` is 0: "configured" = none; "warmup" = in
    round 0, so that clients are trained before their first upload; "always" = in every round. "warmup" and "always"
    train on as many batches as a distillation of all proxy rows has"""
    server_model: bool = False
    """whether the server trains a model of its own (the first model of the config)"""
    proxy_labels: bool = False
    """whether it uses labels of proxy samples: such a method is not comparable with one that uses none"""
    packages: Callable[[Any], tuple[str, ...]] = no_extra_packages
    """function of the config: packages that a client needs and that a device does not have"""

    @property
    def uses_proxy(self) -> bool:
        """Whether clients answer for proxy samples."""
        return self.client_filter is not accept_none

    @property
    def exchanges(self) -> bool:
        """Whether clients send any knowledge."""
        return self.uses_proxy or self.upload is not None

    @property
    def averages_labels(self) -> bool:
        """Whether the server averages soft labels, so that a robust aggregator can replace the mean."""
        return self.aggregate is mean and self.server_update is None and self.message is MessageKind.PROXY_LABELS

    @property
    def answers_queries(self) -> bool:
        """Whether clients answer for the queried proxy rows, and the teacher has one label for each of them."""
        return self.uses_proxy and self.upload is None and self.message is MessageKind.PROXY_LABELS

    @property
    def distils_proxy_rows(self) -> bool:
        """Whether clients distil soft labels of proxy rows."""
        return self.uses_proxy and self.distillation_targets is teacher_rows and self.message.of_proxy_rows


def upload_accepted_rows(
    method: Method, state: ClientState, proxy: ProxySet, plan: RoundPlan, config: Any
) -> Knowledge:
    """Return the values that the method extracts from the logits of all queried and accepted rows."""
    ids = plan.ids[state.acceptance[plan.ids] > 0]
    if not len(ids):
        return empty(state.n_classes)
    values = method.extract(state.learner.predict_logits(proxy.x[ids]), config)
    return Knowledge(ids, values, state.acceptance[ids])
