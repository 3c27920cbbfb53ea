"""Conversion of the parameters of a model into one vector, and back."""

from __future__ import annotations

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.errors import RunError
from edgefd.learners.learner import Learner


def parameters(learner: Learner) -> Float32:
    """Return all parameters and floating-point buffers of the model in one row, in the order of `state()`."""
    return np.concatenate([v.ravel() for v in _floats(learner).values()]).astype(np.float32)


def set_parameters(learner: Learner, row: Float32) -> None:
    """Load such a row into the model. The state of its optimizer does not change.

    Raises:
        RunError: if the row belongs to a model of another size.
    """
    state, floats, start = learner.state(), _floats(learner), 0
    if (size := sum(v.size for v in floats.values())) != len(row):
        raise RunError(f"a model of {len(row)} parameters was sent, this one has {size}")
    for name, value in floats.items():
        state[name] = row[start : start + value.size].reshape(value.shape).astype(value.dtype)
        start += value.size
    learner.load_state(state)


def _floats(learner: Learner) -> dict[str, np.ndarray]:
    return {n: v for n, v in learner.state().items() if n.startswith("model/") and v.dtype.kind == "f"}
