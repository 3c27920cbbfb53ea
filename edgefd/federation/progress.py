"""`Progress`: the state of a server between two rounds, with the best held-out accuracy so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.changes import Exchanged
from edgefd.federation.memory import Memory
from edgefd.selection import SelectionState


@dataclass(frozen=True)
class BestRound:
    """The evaluated round with the highest mean held-out accuracy so far; the first of equal ones."""

    round: int
    accuracy: float
    """mean over the reporting clients of the accuracy of each on its own held-out data"""
    later: int = 0
    """number of evaluations after it"""


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
    method_state: Mapping[str, np.ndarray] = field(default_factory=dict)
    """arrays that `Method.aggregate` keeps from round to round, by name; empty if the method keeps none"""
    best: BestRound | None = None
    """best round so far; None before the first evaluation"""
    closed: bool = False
    """whether the closing round is completed, so that no round follows"""
    exchanged: Exchanged = field(default_factory=Exchanged)
    """knowledge that the server has published and received; empty unless the federation sends only changes"""
