"""The workload of every engine in a benchmark: one whole round of federated distillation.

Each client trains one epoch on the P proxy rows with soft targets and one epoch on its n private rows, both in batches
of 64 with SGD and momentum, and then predicts soft labels for all P proxy rows. The server averages them. The data are
MNIST images without augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.data.datasets import load_dataset
from edgefd.federation.clients import ClientData, Federation, ProxySet, scale_of

BATCH, LR, MOMENTUM = 64, 0.01, 0.9


@dataclass(frozen=True)
class Case:
    """A model, a number of clients, and the private rows of each client. `proxy` = None: as many proxy rows."""

    model: str
    clients: int
    rows: int
    proxy: int | None = None

    @property
    def name(self) -> str:
        """Name of the case in tables."""
        return f"{self.model} {self.clients} x {self.rows}"

    @property
    def proxy_rows(self) -> int:
        """Number of proxy rows, P."""
        return self.proxy or self.rows


def federation(case: Case) -> Federation:
    """Create clients and a proxy set with rows of mnist_mini, drawn with replacement."""
    mini = load_dataset("mnist_mini")
    rng = np.random.default_rng(0)
    scale = scale_of(mini.x_train)
    x, y = scale(mini.x_train), mini.y_train
    clients = []
    for i in range(case.clients):
        rows = rng.integers(len(x), size=case.rows)
        clients.append(ClientData(i, x[rows], y[rows], x[rows[:8]], y[rows[:8]], np.empty(0, np.int64)))
    shared = rng.integers(len(x), size=case.proxy_rows)
    return Federation(
        clients=tuple(clients),
        proxy=ProxySet(x[shared], np.full(len(shared), -1)),
        proxy_labels=y[shared],
        x_test=x[:8],
        y_test=y[:8],
        n_classes=10,
        scale=scale,
        table=np.ones((case.clients, 10), np.int64),
        raw_samples_disclosed=0,
    )


def config(case: Case, workers: int, settings: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration of an edgefd run with the same workload; `settings` are further ones of `run`."""
    return parse_config(
        {
            "model": {"name": case.model},
            "method": {"name": "fedmd"},
            "partition": {"name": "iid", "n_clients": case.clients},
            "codec": {"name": "float32"},
            "train": {
                "rounds": 10_000,
                "local_steps": -(-case.rows // BATCH),
                "private_rows_per_batch": 0,
                "adjusted_steps": 0,
                "batch_size": BATCH,
                "optimizer": "sgd",
                "lr": LR,
                "final_lr": LR,
            },
            "run": {"workers": workers, "evaluate_every": 10_000, **(settings or {})},
        }
    )
