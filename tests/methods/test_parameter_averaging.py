"""Whole runs of FedAvg and FedProx against an independent implementation with `torch.optim` and autograd."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgefd.config.load import parse_config
from edgefd.federation.clients import ClientData
from edgefd.learners.models import build_model
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import open_transport, simulate

ROUNDS, STEPS, LR, DECAY = 3, 6, 0.02, 0.01


def reference(clients: Sequence[ClientData], model: nn.Module, mu: float) -> list[np.ndarray]:
    """Return the mean parameters after all rounds.

    Every step is on all rows of a client, and every round has a new optimizer.
    """
    mean = [p.detach().double() for p in model.parameters()]
    total = sum(len(c.x) for c in clients)
    for _ in range(ROUNDS):
        new = [torch.zeros_like(p) for p in mean]
        for client in clients:
            weight, bias = (p.clone().requires_grad_() for p in mean)
            optimizer = torch.optim.SGD([weight, bias], LR, momentum=0.9, weight_decay=DECAY)
            x, y = torch.from_numpy(client.x).double().flatten(1), torch.from_numpy(client.y)
            for _ in range(STEPS):
                loss = F.cross_entropy(x @ weight.T + bias, y)
                for p, sent in zip((weight, bias), mean, strict=True):
                    loss = loss + mu / 2 * ((p - sent) ** 2).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            for out, p in zip(new, (weight, bias), strict=True):
                out += p.detach() * len(client.x) / total
        mean = new
    return [p.numpy() for p in mean]


@pytest.mark.parametrize("learner", ["torch", "onnx"])
@pytest.mark.parametrize(("method", "mu"), [("fedavg", 0.0), ("fedprox", 1.0)])
def test_a_run_has_the_parameters_of_an_independent_implementation(method: str, mu: float, learner: str) -> None:
    config = parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 300},
            "partition": {"name": "quantity_skew", "n_clients": 3},
            "model": {"name": "linear"},
            "method": {"name": method, **({"mu": mu} if mu else {})},
            "codec": {"name": "float32"},
            "train": {
                **{"rounds": ROUNDS, "local_steps": STEPS, "batch_size": 300, "optimizer": "sgd", "lr": LR},
                **{"schedule": "constant", "weight_decay": DECAY},
            },
            "run": {"workers": 0, "learner": learner},
        }
    )
    federation = prepare(config).federation
    transport = open_transport(config, federation)
    list(simulate(transport))
    state = transport.state.clients[0].learner.state()
    start = build_model("linear", federation.proxy.x.shape[1:], 10, config.seed)
    expected = reference(federation.clients, start, mu)
    assert len({len(c.x) for c in federation.clients}) > 1  # the number of samples is a weight
    for name, value in zip(("model/fc.weight", "model/fc.bias"), expected, strict=True):
        assert np.abs(state[name] - value).max() < 1e-5
    assert (
        max(np.abs(a - b).max() for a, b in zip(expected, reference(federation.clients, start, 1 - mu), strict=True))
        > 1e-3
    )
