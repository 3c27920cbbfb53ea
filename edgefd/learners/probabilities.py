"""Probabilities, logits and divergences in float64, for losses and rules that compare soft labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Float64

_MIN_PROBABILITY = 1e-6  # avoids the logarithm of 0


def softmax64(logits: npt.NDArray[np.floating]) -> Float64:
    """Return the probabilities of each row of logits, computed in float64: float64 [n, C]."""
    e = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def logits_of(p: Float32) -> Float64:
    """Return logits of soft labels: log p, with a lower bound on p."""
    return np.log(np.maximum(p.astype(np.float64), _MIN_PROBABILITY))


def divergence(p: npt.NDArray[np.floating], q: npt.NDArray[np.floating]) -> Float64:
    """Return KL(p || q) of each row, float64 [n], in nats.

    >>> divergence(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])).round(4)
    array([0.6931])
    """
    logs = [np.log(np.maximum(x.astype(np.float64), _MIN_PROBABILITY)) for x in (p, q)]
    return np.asarray((p * (logs[0] - logs[1])).sum(1))
