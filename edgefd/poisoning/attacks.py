"""Simulated attackers: clients that do the honest round and then send something else, for as many rows as they can.

An attacker is a wrapper of what leaves an honest client: its claims (`acceptance_of`) and its report (`poisoned`). What it
learns and measures is untouched, so its own accuracy is that of a client that listens and lies.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.report import Report
from edgefd.learners.batches import one_hot


@dataclass(frozen=True)
class Attack:
    """Who attacks, and how. The `attack` section of a config; for simulations only."""

    name: Literal["none", "label_flip", "random", "constant", "colluding"] = "none"
    """label_flip: class c is called C - 1 - c; random: any class, sure of it; constant: class 0; colluding: the wrong
    class that all attackers have agreed on for each row"""
    clients: tuple[int, ...] = ()
    """the attackers"""
    fraction: float = 0.0
    """or so large a share of the clients, drawn by the seed"""

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError("fraction must be in [0, 1]")
        if min(self.clients, default=0) < 0 or len(set(self.clients)) < len(self.clients):
            raise ValueError("clients must be different numbers, not negative")
        if self.clients and self.fraction:
            raise ValueError("give clients or fraction, not both")
        if (self.name == "none") == bool(self.clients or self.fraction):
            raise ValueError("an attack needs a name other than none, and clients or a fraction above 0")


def attackers(attack: Attack, n_clients: int, seed: int) -> frozenset[int]:
    """Which clients attack.

    Raises:
        UserError: if one of `attack.clients` does not exist.
    """
    if absent := [c for c in attack.clients if c >= n_clients]:
        raise UserError(f"attack.clients names client {absent[0]}; there are {n_clients}, from 0")
    if not attack.fraction:  # asked for each client in each round: no numbers are drawn for nothing
        return frozenset(attack.clients)
    drawn = make_rng(seed, Purpose.ATTACKERS).permutation(n_clients)[: round(attack.fraction * n_clients)]
    return frozenset(int(c) for c in drawn)


def acceptance_of(acceptance: Float32) -> Float32:
    """What an attacker claims where an honest client would claim `acceptance`: every row, with weight 1."""
    return np.ones_like(acceptance)


def poisoned(report: Report, attack: Attack, seed: int) -> Report:
    """The report that an attacker sends instead: the same rows and metrics, other soft labels, weights 1."""
    k = report.knowledge
    values = _lies(k, attack, seed, report.round, report.client)
    return dataclasses.replace(report, knowledge=Knowledge(k.ids, values, np.ones(len(k), np.float32)))


def _lies(honest: Knowledge, attack: Attack, seed: int, round: int, client: int) -> Float32:
    n, width = len(honest), honest.width
    match attack.name:
        case "label_flip":
            return honest.values[:, ::-1]
        case "random":
            classes: Int64 = make_rng(seed, Purpose.ATTACK, round, client).integers(0, width, n)
            return one_hot(classes, width)
        case "constant":
            return one_hot(np.zeros(n, np.int64), width)
        case "colluding":
            top = int(honest.ids[-1]) + 1 if n else 0
            agreed: Int64 = make_rng(seed, Purpose.ATTACK).integers(0, width, top)
            return one_hot(agreed[honest.ids], width)
        case "none":
            return honest.values
