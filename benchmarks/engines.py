"""Engines that run the workload: edgefd, a naive loop as in most example code, and pfl (PyPI `pfl`)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.workload import BATCH, LR, MOMENTUM, Case, config, federation
from edgefd.learners.models import build_model
from edgefd.rounds.loop import run_rounds
from edgefd.runs.execute import make_server
from edgefd.simulation.engine import open_transport


class Engine(Protocol):
    """An engine that runs rounds one at a time."""

    def round(self) -> None:
        """Run one round."""
        ...

    def close(self) -> None:
        """End all processes of the engine, if it has any."""
        return


def round_seconds(engine: Engine, rounds: int) -> list[float]:
    """Run rounds, close the engine, and return the seconds of each round."""
    seconds = []
    try:
        for _ in range(rounds):
            began = time.perf_counter()
            engine.round()
            seconds.append(time.perf_counter() - began)
    finally:
        engine.close()
    return seconds


class Ours(Engine):
    """The in-process engine of edgefd."""

    def __init__(self, case: Case, workers: int, settings: Mapping[str, Any] | None = None) -> None:
        chosen, data = config(case, workers, settings), federation(case)
        self._transport = open_transport(chosen, data)
        self._transport.start()
        self._rounds = run_rounds(make_server(chosen, data), self._transport)

    def round(self) -> None:
        """Implement `Engine`."""
        next(self._rounds)

    def close(self) -> None:
        """Implement `Engine`."""
        self._transport.pool.close()


class PlainCNN(nn.Module):
    """The `cnn` of edgefd, written the usual way: ReLU before pooling, default memory layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5)
        self.fc1, self.fc2 = nn.Linear(320, 50), nn.Linear(50, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        out: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return out


def plain_model(case: Case) -> nn.Module:
    """Build the model of a case as example code does."""
    if case.model == "mlp":
        layers = [nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
        return nn.Sequential(nn.Flatten(), *layers)
    if case.model == "cnn":
        return PlainCNN()
    return build_model(case.model, (1, 28, 28), 10, 0)


def client_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, shared: TensorDataset, private: DataLoader[Any]
) -> Tensor:
    """Train one epoch on the proxy rows and one on the private rows, and return the soft labels of the proxy rows."""
    model.train()
    for loader in (DataLoader(shared, BATCH, shuffle=True), private):
        for x, target in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), target).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return torch.cat([model(x).softmax(1) for (x, _) in DataLoader(shared, 256)])


class Naive(Engine):
    """Clients that run in turn with `threads` torch threads, each with its own model, optimizer and DataLoaders.

    All samples are in the memory of the device.
    """

    def __init__(self, case: Case, threads: int, device: torch.device | None = None) -> None:
        self._threads = threads
        device = device or torch.device("cpu")
        fed = federation(case)
        self._proxy = torch.from_numpy(fed.proxy.x).to(device)
        self._teacher = torch.full((len(self._proxy), 10), 0.1, device=device)
        self._models = [plain_model(case).to(device) for _ in fed.clients]
        self._optimizers = [torch.optim.SGD(m.parameters(), LR, MOMENTUM) for m in self._models]
        private = (
            TensorDataset(torch.from_numpy(c.x).to(device), torch.from_numpy(c.y).to(device)) for c in fed.clients
        )
        self._loaders = [DataLoader(d, BATCH, shuffle=True) for d in private]

    def round(self) -> None:
        """Implement `Engine`."""
        torch.set_num_threads(self._threads)
        predictions = [self._client(*c) for c in zip(self._models, self._optimizers, self._loaders, strict=True)]
        self._teacher = torch.stack(predictions).mean(0)
        torch.set_num_threads(1)

    def _client(self, model: nn.Module, optimizer: torch.optim.Optimizer, private: DataLoader[Any]) -> Tensor:
        shared = TensorDataset(self._proxy, self._teacher)
        return client_step(model, optimizer, shared, private)


class Pfl(Engine):
    """The simulated backend and PyTorchModel of pfl in one process: its user loop, weight swapping and statistics."""

    def __init__(self, case: Case) -> None:
        os.environ.setdefault("PFL_PYTORCH_DEVICE", "cpu")
        from benchmarks.pfl_peer import PflFederation

        torch.set_num_threads(1)
        self._federation = PflFederation(case, plain_model(case))

    def round(self) -> None:
        """Implement `Engine`."""
        asyncio.run(self._federation.round())
