"""`Training`: the training protocol of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.errors import UserError


@dataclass(frozen=True)
class Training:
    """Duration and learning rate of the training of clients. The `train` section of a config."""

    rounds: int = 30
    """number of rounds; after the last one, clients distil its teacher and are evaluated"""
    local_steps: int = 0
    """batches of private data after the distillation of each round; `private_rows_per_batch` gives better results"""
    distill_epochs: int = 1
    """passes over the rows of the teacher in each round"""
    closing_epochs: int = 2
    """passes over the rows of the last teacher, in the closing round"""
    catch_up: int = 1
    """largest number of teachers for which a client makes passes in a round: its newest one, and one for each round
    that it missed before; 1 = none for missed rounds"""
    batch_size: int = 64
    """rows per batch (the last batch of a pass may be smaller)"""
    private_rows_per_batch: int = 16
    """private rows in each distillation batch (part of `batch_size`): they preserve the client's own knowledge"""
    augment_shift: int = 0
    """maximal random shift of the images of every batch, in pixels (0 = no shift)"""
    optimizer: Literal["sgd", "adam"] = "adam"
    """optimizer of the clients: sgd (with momentum 0.9) or adam"""
    lr: float = 0.003
    """learning rate of the first round"""
    final_lr: float = 0.00015
    """learning rate of the last round; in between, it falls along half a cosine"""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError("rounds must be at least 1")
        for name in ("local_steps", "distill_epochs", "closing_epochs", "augment_shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.catch_up < 1:
            raise ValueError("catch_up must be at least 1")
        if not 0 <= self.private_rows_per_batch < self.batch_size:
            raise ValueError("private_rows_per_batch must be at least 0 and less than batch_size")
        if self.lr <= 0 or self.final_lr < 0:
            raise ValueError("lr must be above 0, and final_lr not negative")

    @property
    def proxy_rows_per_batch(self) -> int:
        """Rows of the teacher in each distillation batch."""
        return self.batch_size - self.private_rows_per_batch

    def check_shift(self, shape: tuple[int, ...]) -> None:
        """Check that samples of this shape can be shifted.

        Raises:
            UserError: if they are no images, or no larger than the shift.
        """
        if self.augment_shift and len(shape) != 3:
            raise UserError(
                f"train.augment_shift shifts images, but samples have shape {list(shape)}, not three axes: set it to 0"
            )
        if self.augment_shift and self.augment_shift >= min(shape[1:]):
            raise UserError(
                f"train.augment_shift={self.augment_shift} would move images of {shape[1]} x {shape[2]} pixels out of "
                "view: set a smaller one"
            )

    def epochs(self, missed: int, closing: bool) -> int:
        """Return the passes over the rows of the teacher of a client that has missed this number of teachers before.

        >>> training = Training(distill_epochs=1, closing_epochs=2, catch_up=4)
        >>> [training.epochs(missed, False) for missed in (0, 1, 9)], training.epochs(1, True)
        ([1, 2, 4], 3)
        """
        newest = self.closing_epochs if closing else self.distill_epochs
        return newest + min(missed, self.catch_up - 1) * self.distill_epochs

    def most_steps(self, n_proxy: int) -> int:
        """Return the largest number of training steps in a round, if `n_proxy` rows are distilled."""
        batches = -(-n_proxy // self.proxy_rows_per_batch)
        most = max(self.epochs(self.catch_up, closing) for closing in (False, True))
        return most * batches + self.local_steps

    def lr_at(self, round: int) -> float:
        """Return the learning rate of round r of R: final + (lr - final) (1 + cos(pi r / R)) / 2."""
        progress = min(round / max(self.rounds, 1), 1.0)
        return self.final_lr + (self.lr - self.final_lr) * (1 + float(np.cos(np.pi * progress))) / 2
