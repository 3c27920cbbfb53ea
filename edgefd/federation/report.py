"""`Report`: the result of one client's round; `Exchange`: all reports of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgefd.core.knowledge import Knowledge


@dataclass(frozen=True, eq=False)
class Report:
    """A client's answer: its knowledge and its metrics (such as the accuracy on its own held-out data)."""

    client: int
    round: int
    knowledge: Knowledge
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Exchange:
    """What came back in a round, and the serialised bytes of knowledge that travelled."""

    reports: Sequence[Report]
    bytes_up: int
    bytes_down: int
