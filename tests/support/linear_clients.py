"""A small federation of four clients with linear models: fast enough to run rounds of every method."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.context import ClientContext, client_context
from edgefd.federation.method import Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.federation.report import Report
from edgefd.federation.terms import FederationTerms
from edgefd.federation.training import Training
from edgefd.learners.batches import Batch, softmax
from edgefd.learners.learner import Proximal
from edgefd.methods import get_method, method_names
from edgefd.rounds.client import client_filter, client_round
from edgefd.rounds.server import Server, server_round

CLASSES, ROWS = 4, 60
RNG = np.random.default_rng(0)
MEANS = 4 * np.eye(CLASSES, 6)

METHODS = [get_method(name) for name in method_names()]


def with_methods(methods: Iterable[Method] = METHODS) -> pytest.MarkDecorator:
    """Run a test once for each of the methods."""
    return pytest.mark.parametrize("method", list(methods), ids=lambda method: method.name)


class Linear:
    """A learner of 6 numbers per sample: softmax regression by plain gradient descent."""

    def __init__(self) -> None:
        self.w = np.zeros((6, CLASSES), np.float32)

    def train(self, batches: Iterable[Batch], lr: float, proximal: Proximal | None = None) -> float:
        losses = []
        for b in batches:
            p, shares = softmax(b.x @ self.w), b.weights / b.weights.sum()
            losses.append(float(-(np.log(p + 1e-9) * b.targets).sum(1) @ shares))
            gradient = b.x.T @ ((p - b.targets) * shares[:, None])
            if proximal is not None:
                gradient = gradient + np.float32(proximal.mu) * (self.w - proximal.centre["model/w"])
            self.w = self.w - np.float32(lr) * gradient
        return float(np.mean(losses)) if losses else 0.0

    def distil(self, batches: Iterable[Batch], lr: float, n_private: int) -> float:
        return self.train(batches, lr)

    def set_noise(self, *keys: int) -> None:
        """Do nothing: the learner draws no random numbers."""

    def predict_logits(self, x: np.ndarray) -> np.ndarray:
        return (x @ self.w).astype(np.float32)

    def embed(self, x: np.ndarray) -> np.ndarray:
        return np.tanh(x)

    def state(self) -> dict[str, np.ndarray]:
        return {"model/w": self.w.copy(), "optimizer/step": np.ones((), np.float32)}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.w = state["model/w"].copy()


def _client(i: int) -> ClientData:
    """Return a client with the classes i and i + 1, so that two clients hold each class."""
    y = np.repeat([i, (i + 1) % CLASSES], 20)[RNG.permutation(40)]
    x = RNG.normal(MEANS[y], 1, (40, 6)).astype(np.float32)
    contributed = np.arange(15 * i, 15 * i + 15)
    return ClientData(client=i, x=x[:30], y=y[:30], x_heldout=x[30:], y_heldout=y[30:], contributed=contributed)


CLIENTS = [_client(i) for i in range(CLASSES)]
LABELS = np.repeat(np.arange(CLASSES), 15)
PROXY = ProxySet(x=RNG.normal(MEANS[LABELS], 1, (ROWS, 6)).astype(np.float32), owner=LABELS)
TRAINING = Training(
    rounds=4, local_steps=3, adjusted_steps=0, batch_size=16, private_rows_per_batch=4, optimizer="sgd", lr=0.05
)


TERMS = FederationTerms("", {}, "float32", 7, CLASSES, PROXY.sha256, training=TRAINING)


def acceptance(method: Method, i: int = 0) -> np.ndarray:
    return client_filter(method, method.config(), CLIENTS[i], PROXY, dataclasses.replace(TERMS, seed=5))


def new_clients(method: Method) -> list[ClientContext]:
    return [
        client_context(data, Linear(), PROXY, acceptance(method, data.client), TERMS, method.config())
        for data in CLIENTS
    ]


def plan(round: int) -> RoundPlan:
    return RoundPlan(round, np.arange(ROWS), closing=round >= TRAINING.rounds)


def in_round(client: ClientContext, round: int, **training: object) -> ClientContext:
    """Return a client that took part in the last round, in a round with changed settings of the training."""
    terms = dataclasses.replace(client.terms, training=dataclasses.replace(TRAINING, **training))
    return dataclasses.replace(client, plan=plan(round), terms=terms, next_round=round)


def new_server(method: Method) -> Server:
    return Server(
        method,
        method.config(),
        TERMS,
        len(CLIENTS),
        PROXY,
        labels=LABELS if method.proxy_labels else None,
        learner=Linear() if method.server_model else None,
    )


def aggregated(
    method: Method, reports: Sequence[Report], round: int = 0, teacher: Knowledge | None = None
) -> Knowledge:
    """Return the teacher that a new server makes of reports."""
    made = server_round(new_server(method), reports, plan(round), Progress(round, teacher)).teacher
    assert made is not None
    return made


def play(
    method: Method, rounds: int, order: int = 1
) -> tuple[list[list[Report]], list[Knowledge], list[ClientContext]]:
    """Run rounds from the start: the reports and the teacher of each, and the clients after them.

    With order=-1, the server receives the reports in reverse order.
    """
    clients, server, progress = new_clients(method), new_server(method), Progress()
    reports, teachers = [], []
    for r in range(rounds):
        sent = [client_round(method, in_round(client, r), progress.teacher) for client in clients]
        progress = server_round(server, sent[::order], plan(r), progress)
        assert progress.teacher is not None
        reports.append(sent)
        teachers.append(progress.teacher)
    return reports, teachers, clients
