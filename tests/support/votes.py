"""Small uploads, clients and learners for closed-form tests."""

from dataclasses import replace

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.context import ClientContext, ServerContext, client_context
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.terms import FederationTerms
from edgefd.learners.learner import Proximal

NONE = np.empty(0, np.int64)


def votes(ids: list[int], rows: list[list[float]]) -> Knowledge:
    """Return knowledge with rows of weight 1."""
    return Knowledge(np.array(ids), np.array(rows, np.float32), np.ones(len(ids), np.float32))


def report(client: int, ids: list[int], rows: list[list[float]]) -> Report:
    return Report(client, 0, votes(ids, rows))


def proxy(n: int) -> ProxySet:
    """Return a public proxy set whose row i is the number i."""
    return ProxySet(np.arange(n, dtype=np.float32)[:, None], np.full(n, -1))


TERMS = FederationTerms("", {}, "float32", 0, 2, "")


def server(
    reports: list[Report], config: object = None, round: int = 0, teacher: Knowledge | None = None, **more: object
) -> ServerContext:
    """Return a server in a round with a proxy set of three rows and two classes."""
    return ServerContext(reports, teacher, RoundPlan(round, np.arange(3)), proxy(3), TERMS, config, **more)


class Fixed:
    """A learner whose logits for row i of `proxy` are row i of a table, and whose parameters are a few numbers."""

    def __init__(self, logits: list[list[float]] | None = None, parameters: list[float] | None = None) -> None:
        self.logits = np.array(logits or [[0.0, 0.0]], np.float32)
        self.parameters = np.array(parameters or [0.0], np.float32)
        self.moments = np.ones(2, np.float32)
        self.steps = 0

    def train(self, batches: object, lr: float, proximal: Proximal | None = None) -> float:
        """Add lr to every parameter in each step."""
        self.proximal = proximal
        for _ in batches:
            self.parameters = self.parameters + np.float32(lr)
            self.steps += 1
        return 1.0

    def set_noise(self, *keys: int) -> None:
        """Do nothing: the learner draws no random numbers."""

    def predict_logits(self, x: np.ndarray) -> np.ndarray:
        out: np.ndarray = self.logits[x[:, 0].astype(int)]
        return out

    def state(self) -> dict[str, np.ndarray]:
        return {
            "model/a": self.parameters[:1].copy(),
            "model/b": self.parameters[1:].copy(),
            "model/count": np.array(3),
            "optimizer/m": self.moments.copy(),
        }

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        assert state["model/count"] == 3
        self.moments = state["optimizer/m"]
        self.parameters = np.concatenate([state["model/a"], state["model/b"]])


def holder(client: int, learner: Fixed, config: object = None, n: int = 4, round: int = 0) -> ClientContext:
    """Return a client with `n` samples and two classes that accepts every row of `proxy(3)`, in a round."""
    x, y = np.zeros((n, 1), np.float32), np.zeros(n, np.int64)
    data = ClientData(client, x, y, x[:1], y[:1], NONE)
    context = client_context(data, learner, proxy(3), np.ones(3, np.float32), TERMS, config)
    return replace(context, plan=RoundPlan(round, np.arange(3)))
