"""`Learner`: the interface of a model that a client or the server trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.errors import RunError
from edgefd.learners.batches import Batch


@dataclass(frozen=True, eq=False)
class Proximal:
    """The proximal term (mu / 2) |theta - theta_t|^2 of FedProx: it adds mu (theta - theta_t) to each gradient."""

    mu: float
    """factor of the term"""
    centre: Mapping[str, np.ndarray]
    """theta_t: a state of the same model, of which the trained parameters are read"""


class Learner(Protocol):
    """A model with its optimizer. It is mutable: training changes it in place."""

    def train(self, batches: Iterable[Batch], lr: float, proximal: Proximal | None = None) -> float:
        """Make one optimizer step per batch at learning rate `lr`. Return the mean loss over the batches.

        The loss of a batch is sum_i w_i H(t_i, softmax(z_i)) / sum_i w_i, where H is the cross-entropy and z
        are the logits. Rows of weight 0 change nothing, so a batch may be padded. The proximal term is added to this
        loss before the optimizer sees its gradient, and is not part of the mean that is returned.
        """
        ...

    def distil(self, batches: Iterable[Batch], lr: float, n_private: int) -> float:
        """Train on batches of the teacher's rows, the last `n_private` rows of which are private rows.

        A model with one head trains on both in the same way.
        """
        ...

    def set_noise(self, *keys: int) -> None:
        """Set the keys, at least 0, of the random numbers that the model draws, such as those of dropout.

        With the same keys, the same calls afterwards draw the same numbers, in every process. Predictions do not change
        the numbers of later calls.
        """
        ...

    def predict_logits(self, x: Float32) -> Float32:
        """Return the logits of samples, float32 [n, C]."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Return parameters, buffers and optimizer state by name. They suffice to continue in another learner."""
        ...

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Restore a state that `state()` returned."""
        ...


class EmbeddingLearner(Learner, Protocol):
    """A learner that also gives embeddings, and trains on `AnchoredBatch`. Learners of exported graphs do not."""

    def embed(self, x: Float32) -> Float32:
        """Return the embeddings of samples, the inputs of the last linear layer: float32 [n, E]."""
        ...


class _Missing:
    """Stands for a model that does not exist yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RunError(f"the filter runs before the first round: it cannot use {name} of the client's model")


NO_LEARNER = cast(Learner, _Missing())
"""Learner of a client before the first round: any use of it raises a RunError."""
