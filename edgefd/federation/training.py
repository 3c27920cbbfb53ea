"""`Training`: the training protocol of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.errors import UserError
from edgefd.learners.batches import Batch, augment
from edgefd.learners.optimizer import MOMENTUM


@dataclass(frozen=True)
class Training:
    """Duration and learning rate of the training of clients. The `train` section of a config."""

    rounds: int = 30
    """number of rounds; after the last one, clients distil its teacher and are evaluated"""
    local_steps: int = 0
    """batches of private data after the distillation of each round; `private_rows_per_batch` gives better results"""
    local_epochs: int = 0
    """number of passes over the private data after the distillation of each round, instead of `local_steps`"""
    warmup_steps: int = 0
    """number of batches of private data in round 0 only, before those of `local_steps` or `local_epochs` and before the
    first upload"""
    local_batch_size: int | None = None
    """rows per batch of private data in these steps (None = batch_size)"""
    adjusted_steps: int | Literal["auto"] = "auto"
    """number of batches of private rows between those of the teacher, with a loss that teaches how the client's classes
    differ and not how frequent they are (docs/methods/edgefd.md); auto = one pass over the private rows, but at least
    as many batches as the distillation of the whole proxy set has; 0 = none; methods without proxy set have none"""
    distill_epochs: int = 1
    """passes over the rows of the teacher in each round"""
    closing_epochs: int = 2
    """passes over the rows of the last teacher, in the closing round"""
    catch_up: int = 10
    """largest number of teachers for which a client makes passes in a round: its newest one, and one for each round
    that it missed before; 1 = none for missed rounds"""
    batch_size: int = 64
    """rows per batch (the last batch of a pass may be smaller)"""
    private_rows_per_batch: int = 16
    """private rows in each distillation batch (part of `batch_size`): they preserve the client's own knowledge"""
    augment_shift: int = 0
    """maximal random shift of the images of every batch, in pixels (0 = no shift)"""
    augment_rotation: float = 0.0
    """maximal random rotation of the images of every batch in both directions, in degrees (0 = no rotation)"""
    min_samples: int = 8
    """private training samples below which a client is a listener: it learns from the teacher, but sends neither soft
    labels nor metrics of its own (0 = none is); for methods that exchange labels of proxy rows"""
    min_classes: int = 1
    """classes among these samples below which a client is a listener (1 = none is)"""
    optimizer: Literal["sgd", "adam"] = "adam"
    """optimizer of the clients: sgd or adam"""
    momentum: float = MOMENTUM
    """momentum of sgd, in [0, 1); 0 = plain SGD"""
    weight_decay: float = 0.0
    """factor of the parameters that is added to their gradients, as in torch.optim (L2 regularisation)"""
    reset_optimizer: bool = False
    """whether each round starts with a fresh optimizer: moments and number of steps become 0 before the distillation of
    a round; methods that replace the parameters of a client, such as fedavg, always reset it"""
    lr: float = 0.003
    """learning rate of the first round"""
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    """learning rate of the later rounds: cosine = falls to `final_lr` along half a cosine; constant = `lr`; step = `lr`
    times `step_factor` for every `step_rounds` rounds that have passed"""
    final_lr: float = 0.00015
    """learning rate of the last round; for schedule=cosine only"""
    step_rounds: int = 10
    """rounds between two falls of the learning rate, at least 1; for schedule=step only"""
    step_factor: float = 0.5
    """factor of each fall of the learning rate, in (0, 1]; for schedule=step only"""
    initial: Literal["shared", "own"] = "shared"
    """initial parameters of the clients: shared = the same for all clients with the same model; own = drawn for each
    client from a seed of its own (simulations only)"""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError("rounds must be at least 1")
        local = ("local_steps", "local_epochs", "warmup_steps", "min_samples", "min_classes")
        for name in (*local, "distill_epochs", "closing_epochs", "augment_shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.adjusted_steps != "auto" and self.adjusted_steps < 0:
            raise ValueError("adjusted_steps must be auto, 0 or more")
        if self.catch_up < 1:
            raise ValueError("catch_up must be at least 1")
        if not 0 <= self.augment_rotation <= 180:
            raise ValueError("augment_rotation must be from 0 to 180 degrees")
        if not 0 <= self.private_rows_per_batch < self.batch_size:
            raise ValueError("private_rows_per_batch must be at least 0 and less than batch_size")
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < float("inf"):
            raise ValueError("momentum must be at least 0 and below 1, and weight_decay not negative")
        if self.optimizer == "adam" and self.momentum != MOMENTUM:
            raise ValueError("momentum is a setting of optimizer sgd: remove it, or choose sgd")
        if self.local_steps and self.local_epochs:
            raise ValueError("local_steps and local_epochs exclude each other: set one of them to 0")
        if self.local_batch_size is not None and self.local_batch_size < 1:
            raise ValueError("local_batch_size must be at least 1")
        if self.lr <= 0 or self.final_lr < 0:
            raise ValueError("lr must be above 0, and final_lr not negative")
        if self.step_rounds < 1 or not 0 < self.step_factor <= 1:
            raise ValueError("step_rounds must be at least 1, and step_factor in (0, 1]")

    @property
    def proxy_rows_per_batch(self) -> int:
        """Rows of the teacher in each distillation batch."""
        return self.batch_size - self.private_rows_per_batch

    @property
    def private_batch_size(self) -> int:
        """Rows of a batch of private data."""
        return self.batch_size if self.local_batch_size is None else self.local_batch_size

    @property
    def largest_batch(self) -> int:
        """Rows of the largest batch of any step."""
        return max(self.batch_size, self.private_batch_size)

    @property
    def trains_locally(self) -> bool:
        """Whether the settings ask for batches of private data after the distillation of every round."""
        return self.local_steps > 0 or self.local_epochs > 0

    def proxy_batches(self, n_rows: int) -> int:
        """Return the number of batches of one pass over rows of a teacher."""
        return -(-n_rows // self.proxy_rows_per_batch)

    def augment(self, batches: Iterator[Batch], rng: np.random.Generator) -> Iterator[Batch]:
        """Rotate and shift the images of batches at random, as far as the settings say."""
        return augment(batches, self.augment_shift, rng, self.augment_rotation)

    def private_steps(self, round: int, n_private: int) -> int:
        """Return the number of batches of private data that the settings ask for in a round.

        Args:
            round: number of the round, from 0.
            n_private: private rows of the client.
        """
        an_epoch = -(-n_private // self.private_batch_size)
        steps = self.local_steps + self.local_epochs * an_epoch
        return steps + (self.warmup_steps if round == 0 else 0)

    def adjusted_batches(self, n_proxy: int, n_private: int, epochs: int) -> int:
        """Return the number of batches for `adjusted_steps` in a round, if the client has several classes.

        Args:
            n_proxy: rows of the proxy set.
            n_private: private rows of the client.
            epochs: passes over the rows of the teacher in the round.
        """
        if self.adjusted_steps != "auto":
            return self.adjusted_steps
        return epochs * max(self.proxy_batches(n_proxy), -(-n_private // self.private_batch_size))

    def check_shift(self, shape: tuple[int, ...]) -> None:
        """Check that samples of this shape can be shifted and rotated as the settings say.

        Raises:
            UserError: if they are no images, or no larger than the shift.
        """
        if self.augment_rotation and len(shape) != 3:
            raise UserError(
                f"train.augment_rotation rotates images, but samples have shape {list(shape)}, not three axes: set it "
                "to 0"
            )
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
        """Return how many passes over the teacher a client makes that has missed this number of teachers before.

        >>> training = Training(distill_epochs=1, closing_epochs=2, catch_up=4)
        >>> [training.epochs(missed, False) for missed in (0, 1, 9)], training.epochs(1, True)
        ([1, 2, 4], 3)
        """
        newest = self.closing_epochs if closing else self.distill_epochs
        return newest + min(missed, self.catch_up - 1) * self.distill_epochs

    def most_steps(self, n_proxy: int, n_private: int) -> int:
        """Return the largest number of training steps in a round, if `n_proxy` rows are distilled."""
        most = max(self.epochs(self.catch_up, closing) for closing in (False, True))
        taught = most * self.proxy_batches(n_proxy)
        return taught + self.adjusted_batches(n_proxy, n_private, most) + self.private_steps(0, n_private)

    def lr_at(self, round: int) -> float:
        """Return the learning rate of round r of R.

        cosine: final + (lr - final) (1 + cos(pi r / R)) / 2; constant: lr; step: lr step_factor^floor(r / step_rounds).
        """
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "step":
            return self.lr * float(self.step_factor ** (round // self.step_rounds))
        progress = min(round / max(self.rounds, 1), 1.0)
        return self.final_lr + (self.lr - self.final_lr) * (1 + float(np.cos(np.pi * progress))) / 2
