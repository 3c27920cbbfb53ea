"""`Distillation`: the interface of the losses, and training with targets that depend on the client's logits.

The training step of a learner has one loss, H(t, q) with q = softmax(z), whose gradient with respect to the logits z is
q - t. Take any loss L whose gradient g sums to 0 over the classes, as it does if L depends only on differences of
logits. A step with the targets t = q - g changes the parameters as a step of L would, in torch and in the graph of a
device. Here q is the value at that step, so the client predicts each batch before it learns it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32, Float64, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.learners.batches import Batch
from edgefd.learners.learner import Learner

StepLoss = Callable[[Float32, Float32], tuple[Float64, Float64]]
"""Maps (logits z [n, C], soft labels p [n, C] of the teacher) to targets t [n, C] and the loss of each row [n]."""


@dataclass(frozen=True)
class Schedule:
    """Position of a distillation in its run.

    The first round with a teacher has the number 1. The last round, which closes the run, has the number `rounds`.
    """

    round: int
    rounds: int
    steps: int
    """steps of this distillation"""


@dataclass(frozen=True)
class Distillation:
    """Loss of the distillation; this base has the teacher's soft labels as targets.

    A loss overrides `prepare` if its targets depend on the client's data alone, or `step_loss` if they depend on its
    logits at each step.
    """

    loss: str = "kl"
    """name of the loss"""

    def prepare(
        self, teacher: Knowledge, acceptance: Float32, contributed: Int64, contributed_y: Int64 | None
    ) -> Knowledge:
        """Return the teacher with the targets of the loss.

        Args:
            teacher: the rows to distil.
            acceptance: acceptance weights of the client, float32 [P].
            contributed: ascending ids of the proxy rows that the client contributed.
            contributed_y: labels of these rows; None if the client has not kept them.
        """
        return teacher

    def step_loss(self, schedule: Schedule) -> StepLoss | None:
        """Return the loss for the steps of one distillation; None if its targets do not depend on the logits."""
        return None

    @property
    def stepwise(self) -> bool:
        """Whether the targets depend on the client's logits at each step."""
        return self.step_loss(Schedule(1, 1, 1)) is not None

    def distil(
        self, learner: Learner, batches: Iterable[Batch], lr: float, n_private: int, schedule: Schedule
    ) -> float:
        """Train on batches whose last `n_private` rows are private rows with their labels; return the mean loss."""
        loss = self.step_loss(schedule)
        if loss is None:
            return learner.distil(batches, lr, n_private)
        losses = [step(learner, batch, lr, n_private, loss) for batch in batches]
        return sum(losses) / max(len(losses), 1)


def step(learner: Learner, batch: Batch, lr: float, n_private: int, loss: StepLoss | None) -> float:
    """Make one step on a batch whose last `n_private` rows are private rows with their labels; return the mean loss.

    With a loss of the step, the client predicts the other rows first, and private rows do not count in the mean.
    """
    if loss is None:
        return learner.distil([batch], lr, n_private)
    n = len(batch) - n_private
    targets, losses = loss(learner.predict_logits(batch.x[:n]), batch.targets[:n])
    mixture = np.concatenate([targets.astype(np.float32), batch.targets[n:]])
    learner.train([Batch(batch.x, mixture, batch.weights)], lr)
    return float(losses.mean())
