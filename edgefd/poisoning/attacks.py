"""Simulated attackers: clients that run the honest round, but send false knowledge for as many rows as they can.

An attacker changes only the output of an honest client: its acceptance weights (`acceptance_of`) and its report
(`poisoned`). Its training and its metrics are unchanged, so its accuracy is that of an honest client which receives the
poisoned teacher.
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
    """Attack and attackers. The `attack` section of a config, for simulations only."""

    name: Literal["none", "label_flip", "random", "constant", "colluding"] = "none"
    """label_flip: class c becomes C - 1 - c; random: a random class, as one-hot label; constant: class 0;
    colluding: for each row, a random class on which all attackers agree"""
    clients: tuple[int, ...] = ()
    """numbers of the attackers"""
    fraction: float = 0.0
    """share of clients that are attackers, drawn by the seed; an alternative to `clients`"""

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
    """Return the clients that attack.

    Raises:
        UserError: if a client of `attack.clients` does not exist.
    """
    if absent := [c for c in attack.clients if c >= n_clients]:
        raise UserError(f"attack.clients names client {absent[0]}, but the clients are 0 to {n_clients - 1}")
    if not attack.fraction:  # called for each client in each round, so it draws only if necessary
        return frozenset(attack.clients)
    drawn = make_rng(seed, Purpose.ATTACKERS).permutation(n_clients)[: round(attack.fraction * n_clients)]
    return frozenset(int(c) for c in drawn)


def acceptance_of(acceptance: Float32) -> Float32:
    """Return the acceptance weights of an attacker: 1 for every row, whatever the honest `acceptance` is."""
    return np.ones_like(acceptance)


def poisoned(report: Report, attack: Attack, seed: int) -> Report:
    """Return the report that an attacker sends: the same rows and metrics, false soft labels, weights 1."""
    k = report.knowledge
    values = _false_labels(k, attack, seed, report.round, report.client)
    return dataclasses.replace(report, knowledge=Knowledge(k.ids, values, np.ones(len(k), np.float32)))


def _false_labels(honest: Knowledge, attack: Attack, seed: int, round: int, client: int) -> Float32:
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
