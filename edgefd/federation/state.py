"""State of a client and of the server between rounds."""

from __future__ import annotations

from dataclasses import dataclass

from edgefd.core.arrays import Float32, Int64
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.learners.learner import Learner


@dataclass(frozen=True, eq=False)
class ClientState:
    """A client between rounds. `learner` changes in place; `acceptance` is how surely it answers for each proxy row."""

    data: ClientData
    learner: Learner
    n_classes: int
    acceptance: Float32


@dataclass(frozen=True, eq=False)
class Server:
    """What a server has beside the reports, for methods that make use of it."""

    proxy: ProxySet
    n_classes: int
    labels: Int64 | None = None
    """int64 [P] of the proxy samples; None unless the method declares that it uses them"""
    learner: Learner | None = None
    """the server's own model; None unless the method declares one"""
