"""`Method`: what makes one federated distillation method differ from another, as a few functions over arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge, empty, weighted_mean
from edgefd.federation.clients import ClientData, Federation, ProxySet
from edgefd.federation.plan import RoundPlan
from edgefd.federation.state import ClientState
from edgefd.learners.batches import Batch, softmax
from edgefd.learners.learner import Learner

if TYPE_CHECKING:
    from edgefd.federation.plan import RoundPlan
    from edgefd.federation.report import Report
    from edgefd.federation.state import ClientState, Server


T = TypeVar("T")


class MessageKind(StrEnum):
    """The meaning of a row of a method's messages."""

    PROXY_LABELS = "proxy labels"
    """a proxy sample"""
    MULTI_TEACHER = "multi-teacher"
    """a proxy sample; the server sends several teachers, row i of teacher t has id t * P + i"""
    CLASS_LABELS = "class labels"
    """a class"""
    PARAMETERS = "parameters"
    """row 0 holds all parameters of a model"""

    @property
    def of_proxy_rows(self) -> bool:
        """Whether rows stand for proxy samples."""
        return self in (MessageKind.PROXY_LABELS, MessageKind.MULTI_TEACHER)


@dataclass(frozen=True)
class NoConfig:
    """For methods without hyper-parameters."""


def accept_all(data: ClientData, proxy: ProxySet, config: Any, rng: np.random.Generator) -> Float32:
    """Answer for every proxy row, fully sure."""
    return np.ones(len(proxy), np.float32)


def accept_none(data: ClientData, proxy: ProxySet, config: Any, rng: np.random.Generator) -> Float32:
    """Answer for no proxy row."""
    return np.zeros(len(proxy), np.float32)


def soft_labels(logits: Float32, config: Any) -> Float32:
    """What a client sends of its logits: softmax(z)."""
    return softmax(logits)


def mean(uploads: Sequence[Knowledge], config: Any) -> Knowledge:
    """The weighted mean of what was sent, row by row."""
    return weighted_mean(uploads)


def identity(value: T, *_: object) -> T:
    """Return the first argument unchanged: the default of hooks that may change it."""
    return value


def teacher_rows(teacher: Knowledge, data: ClientData, proxy: ProxySet, config: Any, rng: np.random.Generator) -> Batch:
    """Learn the proxy rows that the teacher knows."""
    return Batch(proxy.x[teacher.ids], teacher.values, teacher.weights)


def default_local_step(learner: Learner, batches: Iterable[Batch], lr: float, config: Any) -> float:
    """Train on the batches; the mean loss."""
    return learner.train(batches, lr)


def no_extra_packages(config: Any) -> tuple[str, ...]:
    """What a device has is enough."""
    return ()


@dataclass(frozen=True)
class Method:
    """A method is its functions; what it leaves out is plain averaging of soft labels (FedMD).

    A round calls them in this order, with the method's own `config` last or next to last:

        client_filter(data, proxy, config, rng) -> float32 [P]   how surely the client answers for each proxy row,
                                                                 0 = not at all; depends on data alone, computed once
        extract(logits, config) -> float32 [n, d]                what is sent of the logits of the rows it answers for
        aggregate(uploads, config) -> Knowledge                  at the server: the teacher; order of uploads is fixed
        server_filter(teacher, config) -> Knowledge              at the server: what of it is sent out
        lesson(teacher, data, proxy, config, rng) -> Lesson      at the client, next round: what it learns from that

    and, once, `transform_federation(federation)`: reference methods that train one model on pooled data are federations of one.

    Most methods are no more than that. What some need beside, each where it stands in a round:

        receive(teacher, state, proxy, config) -> Knowledge      before `batch`: what the client makes of what it was
                                                                 sent, with its model at hand: a teacher of its own
        answer(state, proxy, plan, config) -> Knowledge          instead of `extract` of rows: another message
        train(learner, batches, lr, config) -> float             in the steps on private data after evaluation
        teach(reports, teacher, plan, server, config)            instead of `aggregate`, with the last teacher, and
            -> Knowledge                                         labels or a model where the method declares them

    And two that are no method's own, but of a defence (`edgefd.defences`), which any method may be given:

        practise(learner, own, steps, plan, rng) -> float        instead of drawing batches and `train`
        release(knowledge, state, proxy, plan) -> Knowledge      the last thing before rows leave the client

    A whole method, and what a server makes of two clients that disagree about proxy row 1:

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
    summary: str
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
    """what a row of its messages stands for"""
    local_training: Literal["configured", "warmup", "always"] = "configured"
    """batches of private data after evaluation: those of `train.local_steps`. Where that is 0: none; as many as
    distillation would make in round 0, so that clients have learned something before they are first heard; or in all"""
    server_model: bool = False
    """whether the server trains a model of its own, the config's first"""
    proxy_labels: bool = False
    """whether labels of proxy samples are used: such a method is not comparable with one that uses none"""
    packages: Callable[[Any], tuple[str, ...]] = no_extra_packages
    """what a client needs, with that config, of packages that a device does not have"""

    @property
    def uses_proxy(self) -> bool:
        """Whether clients answer for proxy samples at all."""
        return self.client_filter is not accept_none

    @property
    def exchanges(self) -> bool:
        """Whether clients send anything at all."""
        return self.uses_proxy or self.upload is not None

    @property
    def averages_labels(self) -> bool:
        """Whether the server takes the mean of soft labels, for which a robust aggregator may stand in."""
        return self.aggregate is mean and self.server_update is None and self.message is MessageKind.PROXY_LABELS

    @property
    def asks_by_sample(self) -> bool:
        """Whether clients answer for the proxy rows that a plan names, and the teacher is a label for each."""
        return self.uses_proxy and self.upload is None and self.message is MessageKind.PROXY_LABELS

    @property
    def learns_rows(self) -> bool:
        """Whether clients learn soft labels of proxy rows."""
        return self.uses_proxy and self.distillation_targets is teacher_rows and self.message.of_proxy_rows


def upload_accepted_rows(
    method: Method, state: ClientState, proxy: ProxySet, plan: RoundPlan, config: Any
) -> Knowledge:
    """What the method extracts of the logits of all rows that are asked for and claimed."""
    ids = plan.ids[state.acceptance[plan.ids] > 0]
    if not len(ids):
        return empty(state.n_classes)
    values = method.extract(state.learner.predict_logits(proxy.x[ids]), config)
    return Knowledge(ids, values, state.acceptance[ids])
