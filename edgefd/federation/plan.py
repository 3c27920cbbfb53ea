"""`Training` and `RoundPlan`: how long clients train, and the instructions for one round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Int64
from edgefd.learners.distillation_loss import PLAIN, Distillation
from edgefd.selection.settings import ALL_ROWS, Selection


@dataclass(frozen=True)
class Training:
    """How long and how fast clients train. The `train` section of a config."""

    rounds: int = 30
    """number of rounds; the last one closes with a distillation on its own teacher"""
    local_steps: int = 0
    """batches of private data after the distillation of each round; `private_rows_per_batch` below do better, see the docs"""
    distill_epochs: int = 1
    """passes over the teacher's rows each round"""
    closing_epochs: int = 2
    """passes over the last teacher's rows, at the end"""
    batch_size: int = 64
    """rows of every batch (the last one of a pass may be shorter)"""
    private_rows_per_batch: int = 16
    """of those, in distillation batches, private rows: they keep the client's own knowledge alive"""
    augment_shift: int = 0
    """images are moved by up to so many pixels in every batch (0 = not at all)"""
    optimizer: Literal["sgd", "adam"] = "adam"
    """sgd (momentum 0.9) or adam"""
    lr: float = 0.003
    """learning rate of the first round"""
    final_lr: float = 0.00015
    """learning rate of the last round; it falls along half a cosine in between"""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError("rounds must be at least 1")
        for name in ("local_steps", "distill_epochs", "closing_epochs", "augment_shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if not 0 <= self.private_rows_per_batch < self.batch_size:
            raise ValueError("private_rows_per_batch must be at least 0 and less than batch_size")
        if self.lr <= 0 or self.final_lr < 0:
            raise ValueError("lr must be above 0, and final_lr not negative")

    def lr_at(self, round: int) -> float:
        """lr_r = final + (lr - final) (1 + cos(pi r / R)) / 2, in round r of R."""
        progress = min(round / max(self.rounds, 1), 1.0)
        return self.final_lr + (self.lr - self.final_lr) * (1 + float(np.cos(np.pi * progress))) / 2


@dataclass(frozen=True, eq=False)
class RoundPlan:
    """What the server asks of the clients in one round."""

    seed: int
    round: int
    """0, 1, ... ; round `training.rounds` is the closing one: distil and evaluate, nothing more"""
    ids: Int64
    """proxy rows that may be answered for, ascending"""
    training: Training
    evaluate: bool = True
    clients: tuple[int, ...] | None = None
    """who is asked, ascending; None = everybody. It stays with the server: a device learns only whether it is asked"""
    selection: Selection = ALL_ROWS
    """which rows are asked about, or learned"""
    distillation: Distillation = PLAIN
    """how the teacher's rows are learned"""

    @property
    def closing(self) -> bool:
        """Whether this is the closing distillation, to which clients answer with metrics alone."""
        return self.round >= self.training.rounds
