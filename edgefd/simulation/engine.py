"""The in-process engine: all clients of a federation in one process, one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgefd.config import Config
from edgefd.data.federation import ClientData, Federation
from edgefd.knowledge import Knowledge
from edgefd.learner import Learner
from edgefd.metrics import RoundMetrics, measure
from edgefd.models import build_model
from edgefd.round import (
    ClientState,
    Evaluate,
    Exchange,
    Report,
    RoundPlan,
    accuracy,
    client_round,
    plans,
    run_rounds,
    start_client,
)
from edgefd.seeding import Purpose, rng
from edgefd.torch_learner import TorchLearner
from edgefd.wire import received


@dataclass(frozen=True, eq=False)
class InProcess:
    """A transport without a network. Every value still passes through codec and wire format, as in a deployment."""

    config: Config
    federation: Federation
    clients: tuple[ClientState, ...]
    evaluate: Evaluate

    def exchange(self, plan: RoundPlan, teacher: Knowledge | None) -> Exchange:
        """One client after another."""
        codec = self.config.codec.name
        down = 0
        if teacher is not None:
            teacher, down = received(teacher, codec)
        reports, up = [], 0
        for state in self.clients:
            report = client_round(
                self.config.method,
                self.config.method_config,
                state,
                self.federation.proxy,
                plan,
                teacher,
                self.evaluate,
            )
            knowledge, size = received(report.knowledge, codec)
            reports.append(Report(report.client, report.round, knowledge, report.metrics))
            up += size if len(knowledge) else 0
        return Exchange(reports, up, down * len(self.clients))


def make_learner(config: Config, data: ClientData, n_classes: int) -> Learner:
    """The client's own model; models are dealt out to the clients in turn."""
    choice = config.model[data.client % len(config.model)]
    seed = int(rng(config.seed, Purpose.MODEL, data.client).integers(2**31))
    return TorchLearner(build_model(choice.name, data.x.shape[1:], n_classes, seed), config.train.optimizer)


def start(config: Config, federation: Federation) -> InProcess:
    """All clients with their models built and their filters run."""
    torch.set_num_threads(1)  # more threads change bits and, where cores are shared, lose time
    clients = tuple(
        start_client(
            config.method,
            config.method_config,
            data,
            federation.proxy,
            make_learner(config, data, federation.n_classes),
            federation.n_classes,
            config.seed,
        )
        for data in federation.clients
    )

    def on_test_set(learner: Learner) -> dict[str, float]:
        return {"accuracy": accuracy(learner, federation.x_test, federation.y_test)}

    return InProcess(config, federation, clients, on_test_set)


def simulate(config: Config, federation: Federation) -> Iterator[RoundMetrics]:
    """Run the rounds; the metrics of each as it ends. The last ones are of the closing distillation."""
    transport = start(config, federation)
    ids = np.arange(len(federation.proxy))
    todo = plans(config.seed, ids, config.train, config.run.evaluate_every)
    began = time.perf_counter()
    for result in run_rounds(config.method, config.method_config, transport, todo):
        now = time.perf_counter()
        yield measure(result, federation, now - began)
        began = time.perf_counter()


def claims_of(transport: InProcess) -> np.ndarray[Any, np.dtype[np.float32]]:
    """How surely each client claims each proxy row: float32 [clients, P]."""
    return np.stack([state.claims for state in transport.clients])
