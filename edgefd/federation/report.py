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


def count_exchange(
    reports: Sequence[Report], teacher: Knowledge | None, teacher_bytes: bytes | None, n_sampled: int
) -> Exchange:
    """Return the received reports with the bytes of knowledge that were sent in both directions.

    Knowledge without rows is not counted, neither of a report nor of the teacher: it need not be sent.

    Args:
        reports: received reports.
        teacher: knowledge that was sent to the clients; None in the first round.
        teacher_bytes: the same, serialised.
        n_sampled: number of clients that it was sent to.
    """
    up = sum(report.knowledge_bytes for report in reports if len(report.knowledge))
    down = len(teacher_bytes) * n_sampled if teacher and teacher_bytes else 0
    return Exchange(reports, up, down)
