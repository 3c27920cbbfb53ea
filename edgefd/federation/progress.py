"""`Progress`: the state of a server between two rounds."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgefd.core.knowledge import Knowledge
from edgefd.federation.memory import Memory
from edgefd.selection import SelectionState


@dataclass(frozen=True, eq=False)
class Progress:
    """State of a server between two rounds."""

    next_round: int = 0
    teacher: Knowledge | None = None
    """teacher of the last round; None before the first one"""
    selection_state: SelectionState | None = None
    """state of the selection rule; None if the rule has no state"""
    memory: Memory = field(default_factory=dict)
    """newest knowledge of each client; empty if the server needs no memory"""
