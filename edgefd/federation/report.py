"""`Report`: the result of one client's round; `Exchange`: all reports of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgefd.core.knowledge import Knowledge


@dataclass(frozen=True, eq=False)
class Report:
    """Knowledge and metrics that a client sends (such as the accuracy on its own held-out data)."""

    client: int
    round: int
    knowledge: Knowledge
    metrics: dict[str, float] = field(default_factory=dict)
    knowledge_bytes: int = 0
    """size of the serialised knowledge as it was received; 0 in a report that was not sent yet"""


@dataclass(frozen=True, eq=False)
class Exchange:
    """Reports of a round, and the serialised bytes of knowledge that were sent."""

    reports: Sequence[Report]
    bytes_up: int
    bytes_down: int
    virtual_seconds: float | None = None
    """duration of the round on the virtual clock of a simulation with `devices`; None without one"""
    joules: float | None = None
    """energy of all devices for their work that began in the round; None without a virtual clock"""


def count_exchange(reports: Sequence[Report], bytes_down: int) -> Exchange:
    """Return the received reports with the bytes of knowledge that were sent in both directions.

    A report without rows is not counted: its knowledge need not be sent.

    Args:
        reports: received reports.
        bytes_down: serialised bytes of the teachers that were sent to the clients.
    """
    return Exchange(reports, sum(report.knowledge_bytes for report in reports if len(report.knowledge)), bytes_down)
