"""State of a client and of the server between rounds."""

from __future__ import annotations

from dataclasses import dataclass

from edgefd.core.arrays import Float32, Int64
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.learners.learner import Learner


@dataclass(frozen=True, eq=False)
class ClientState:
    """State of a client between rounds. The learner is trained in place.

    `acceptance` float32 [P] holds the acceptance weight of each proxy row: 0 = the client does not answer for it.
    """

    data: ClientData
    learner: Learner
    n_classes: int
    acceptance: Float32


@dataclass(frozen=True, eq=False)
class Server:
    """Data of the server in addition to the reports, for methods that use it."""

    proxy: ProxySet
    n_classes: int
    labels: Int64 | None = None
    """labels of the proxy samples, int64 [P]; None unless the method declares that it uses them"""
    learner: Learner | None = None
    """model of the server; None unless the method declares one"""
