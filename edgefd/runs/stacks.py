"""Learners of a run on a GPU: clients of one architecture are stacked, as many at a time as the memory takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgefd.config.schema import Config, Model
from edgefd.federation.clients import ClientData, Federation, ProxySet
from edgefd.learners.device import Device, find_device
from edgefd.learners.dual_head import DualHead
from edgefd.learners.learner import Learner
from edgefd.learners.resident_rows import SamplePool
from edgefd.learners.resident_samples import ResidentSamples, resident
from edgefd.learners.stacked_learner import StackedLearner, why_not_stacked
from edgefd.learners.stacked_model import StackedModel
from edgefd.runs.learners import fits_gpu, initial_model, make_learner, model_sessions, trains_with_torch

_LOG = logging.getLogger(__name__)

_LARGEST_SHARE = 0.5
"""share of the free memory of a device that the steps of stacked clients may take"""
_MOST_CLIENTS = 1024
"""clients in one step, at most: more do not make a GPU faster, and each of them has a thread"""


@dataclass(frozen=True, eq=False)
class Stacks:
    """The learners of all clients, and which of them run together."""

    learners: tuple[Learner, ...]
    stack_of: dict[int, int] = field(default_factory=dict)
    """number of the stack of each client that is in one"""
    at_once: dict[int, int] = field(default_factory=dict)
    """largest number of clients of a stack that run together, by the number of the stack"""

    def groups(self, clients: Sequence[int]) -> Iterator[list[int]]:
        """Yield the clients that run together; one that is in no stack is alone."""
        of_stack: dict[int, list[int]] = {}
        for client in clients:
            of_stack.setdefault(self.stack_of.get(client, -1 - client), []).append(client)
        for stack, members in of_stack.items():
            n_groups = -(-len(members) // self.at_once.get(stack, 1))
            for group in np.array_split(np.array(members), n_groups):
                yield group.tolist()


def device_of(config: Config) -> Device:
    """Return the device on which the clients of a simulation train.

    Raises:
        UserError: if this machine does not have the device of `run.device`.
    """
    name = "cpu" if config.run.device == "auto" and not fits_gpu(config) else config.run.device
    return find_device(name, config.run.precision)


def resident_federation(federation: Federation) -> tuple[Federation, SamplePool]:
    """Return the federation with its samples as rows of one pool, which is the second result."""
    clients = federation.clients
    arrays = [federation.proxy.x, federation.x_test, *(c.x for c in clients), *(c.x_heldout for c in clients)]
    pool = SamplePool(arrays)

    def data(i: int, client: ClientData) -> ClientData:
        return replace(client, x=pool.rows(2 + i), x_heldout=pool.rows(2 + len(clients) + i))

    return replace(
        federation,
        clients=tuple(data(i, client) for i, client in enumerate(clients)),
        proxy=ProxySet(pool.rows(0), federation.proxy.owner),
        x_test=pool.rows(1),
    ), pool


def make_stacks(config: Config, federation: Federation, pool: SamplePool, device: Device) -> Stacks:
    """Build the learners of all clients on a device."""
    samples = resident(pool, device)
    if samples is None:
        _LOG.info("the samples do not fit into the memory of %s: each batch is sent to it", device.label)
    learners: dict[int, Learner] = {}
    stack_of, at_once = dict[int, int](), dict[int, int]()
    sessions = model_sessions(config, federation)
    for number, (choice, clients) in enumerate(_by_model(config, federation).items()):
        reason = _why_alone(config, choice, federation, device)
        if reason or config.run.stack == 1:
            if reason:
                _LOG.warning("clients with the model %s run one after another: %s", choice.name, reason)
            for data in clients:
                learners[data.client] = make_learner(config, data, federation.n_classes, sessions, device)
            continue
        stack = _stack(config, clients, federation.n_classes, device, samples)
        for i, data in enumerate(clients):
            learner = StackedLearner(stack, i)
            learners[data.client] = learner if choice.heads == 1 else DualHead(learner)
            stack_of[data.client] = number
        at_once[number] = _at_once(config, stack, federation)
    return Stacks(tuple(learners[data.client] for data in federation.clients), stack_of, at_once)


def _by_model(config: Config, federation: Federation) -> dict[Model, list[ClientData]]:
    """Return the clients of each architecture; models that differ in their initial weights only are one."""
    groups: dict[Model, list[ClientData]] = {}
    for data in federation.clients:
        groups.setdefault(replace(config.model_of(data.client), init=None), []).append(data)
    return groups


def _why_alone(config: Config, choice: Model, federation: Federation, device: Device) -> str | None:
    """Return why clients of a model cannot be stacked, or None if they can."""
    if not trains_with_torch(config, choice):
        return "ONNX Runtime trains it on the CPU"
    shape = federation.proxy.x.shape[1:]
    model = initial_model(config, federation.clients[0], choice, federation.n_classes)
    return why_not_stacked(model, shape, choice.heads * federation.n_classes, device)


def _stack(
    config: Config, clients: Sequence[ClientData], n_classes: int, device: Device, samples: ResidentSamples | None
) -> StackedModel:
    train = config.train
    stack: StackedModel | None = None
    for i, data in enumerate(clients):
        model = initial_model(config, data, config.model_of(data.client), n_classes)
        if stack is None:
            stack = StackedModel(
                model, len(clients), train.optimizer, train.momentum, train.weight_decay, device, samples
            )
        stack.place(i, model)
    assert stack is not None, "a group has clients"
    return stack


def _at_once(config: Config, stack: StackedModel, federation: Federation) -> int:
    """Return how many clients of a stack run together."""
    if config.run.stack != "auto":
        return config.run.stack
    rows = federation.proxy.x[np.zeros(config.train.largest_batch, np.int64)]
    fit = int(_LARGEST_SHARE * stack.device.free_bytes()) // stack.bytes_per_client(rows)
    return min(max(fit, 1), _MOST_CLIENTS)
