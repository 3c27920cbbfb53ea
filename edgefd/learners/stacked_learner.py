"""`StackedLearner`: one client of a `StackedModel`. The calls of clients in lock step are made as one call."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable

import numpy as np
import torch
from torch import nn

from edgefd.core.arrays import Float32
from edgefd.core.errors import RunError
from edgefd.core.objects import one_line
from edgefd.learners.batches import AnchoredBatch, Batch
from edgefd.learners.device import Device
from edgefd.learners.learner import Proximal
from edgefd.learners.lock_step import gathered
from edgefd.learners.stacked_model import StackedModel, Step
from edgefd.learners.torch_learner import TorchLearner
from edgefd.learners.training_step import check_finite

_TOLERANCE = 1e-3
"""largest difference, as a share of the norm, that is taken for one of rounding"""


class StackedLearner:
    """The model of one client in a stack. See `edgefd.learners.learner.Learner`.

    Args:
        stack: the stack.
        client: position of the client in the stack.
    """

    def __init__(self, stack: StackedModel, client: int) -> None:
        self.stack, self._client = stack, client

    def train(self, batches: Iterable[Batch], lr: float, proximal: Proximal | None = None) -> float:
        """Make one step per batch. Return the mean loss, without the proximal term.

        Raises:
            RunError: if the loss or the weights are not finite.
        """
        mu, centre = (0.0, None) if proximal is None else (proximal.mu, self.stack.centre(dict(proximal.centre)))
        losses = [
            gathered(self.stack.step, Step(self._client, batch, lr, mu, centre), (self._key(batch), proximal is None))
            for batch in batches
        ]
        if not losses:
            return 0.0
        mean, total = gathered(self.stack.mean_losses, (self._client, losses))
        check_finite(mean, total)
        return mean

    def distil(self, batches: Iterable[Batch], lr: float, n_private: int) -> float:
        """Train on rows of the teacher and private rows alike. See `edgefd.learners.learner.Learner`."""
        return self.train(batches, lr)

    def set_noise(self, *keys: int) -> None:
        """Do nothing: a module that draws random numbers is not stacked."""

    def predict_logits(self, x: Float32) -> Float32:
        """Return the logits of samples, float32 [n, C]."""
        return gathered(self.stack.predict, (self._client, x))

    def embed(self, x: Float32) -> Float32:
        """Return the embeddings of samples. See `edgefd.learners.learner.EmbeddingLearner`."""
        return gathered(self.stack.embed, (self._client, x))

    def state(self) -> dict[str, np.ndarray]:
        """Return parameters, buffers and optimizer state, with the names that `TorchLearner.state` gives them."""
        return self.stack.state(self._client)

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Restore a state that `state()` of any learner of this model returned."""
        self.stack.load_state(self._client, state)

    def _key(self, batch: Batch) -> Hashable:
        """Return what batches of one step have in common."""
        anchored = isinstance(batch, AnchoredBatch)
        rows = len(batch) if anchored or self.stack.mixes_rows else 0  # others are filled up to the longest batch
        return batch.x.shape[1:], rows, batch.strength if isinstance(batch, AnchoredBatch) else None


def why_not_stacked(model: nn.Module, shape: tuple[int, ...], n_classes: int, device: Device) -> str | None:
    """Return why a module cannot be stacked, or None if it can.

    Two clients with different parameters make a step of SGD, one with fewer rows than the other, and predict. That is
    compared with the same steps one after another.
    """
    rng = np.random.default_rng(0)
    x = rng.random((5, *shape), np.float32)
    targets = np.eye(n_classes, dtype=np.float32)[np.arange(5) % n_classes]
    whole = Batch(x, targets, np.ones(5, np.float32))
    batches = (whole, whole.rows(np.arange(3)))
    models = [copy.deepcopy(model) for _ in batches]
    with torch.no_grad():
        for p in models[1].parameters():
            p.mul_(0.9)
    try:
        stack = StackedModel(model, len(models), device=device)
        together = [StackedLearner(stack, i) for i in range(len(models))]
        for i, each in enumerate(models):
            stack.place(i, each)
        one_by_one = [TorchLearner(each, device=device) for each in models]
        steps = [Step(i, batch, 1e-3) for i, batch in enumerate(batches)]
        for part in [steps[:1], steps[1:]] if stack.mixes_rows else [steps]:
            stack.step(part)
        for learner, batch in zip(one_by_one, batches, strict=True):
            learner.set_noise(0)
            learner.train([batch], 1e-3)
        for stacked, learner in zip(together, one_by_one, strict=True):
            if not _alike(stacked.predict_logits(x), learner.predict_logits(x)) or not _alike_states(stacked, learner):
                return "its results differ from those of one client after another"
    except (RunError, MemoryError):
        raise
    except Exception as error:  # a user's module may raise anything under vmap
        return one_line(error)[:200]
    return None


def _alike_states(first: StackedLearner, second: TorchLearner) -> bool:
    state, other = first.state(), second.state()
    return state.keys() == other.keys() and all(
        _alike(*(_joined(each, prefix) for each in (state, other))) for prefix in ("model/", "optimizer/")
    )


def _joined(state: dict[str, np.ndarray], prefix: str) -> np.ndarray:
    return np.concatenate([np.ravel(value) for name, value in state.items() if name.startswith(prefix)], dtype=float)


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether arrays are the same but for rounding, which changes single gradients that should be 0 by much."""
    return bool(np.linalg.norm(first - second) <= _TOLERANCE * np.linalg.norm(second) + 1e-12)
