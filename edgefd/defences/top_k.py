"""Top-k: a client sends the k largest probabilities of a row; the remaining mass is divided equally."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.federation.context import ClientContext
from edgefd.learners.batches import softmax

TEMPERATURES = np.geomspace(0.25, 8.0, 31).astype(np.float32)
"""The temperatures from which `calibrate` chooses."""
_MIN_PROBABILITY = np.float32(1e-30)


@dataclass(frozen=True)
class TopK:
    """Keep the k largest probabilities of a row, and divide the remaining mass equally."""

    name: Literal["top_k"] = "top_k"
    k: int = 3
    """number of probabilities that are sent as they are; the others are sent as their mean"""
    calibrate: bool = False
    """whether the client first sets the temperature that fits its held-out data best, as FIRST does: soft labels may
    become sharper or softer, but they are calibrated"""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError("k must be at least 1")

    def privatise(self, ctx: ClientContext, knowledge: Knowledge) -> Knowledge:
        """Return the same rows with at most k + 1 different values each."""
        values = knowledge.values
        if self.calibrate:
            heldout_probs = softmax(ctx.learner.predict_logits(ctx.data.x_heldout))
            values = tempered(values, fitted_temperature(heldout_probs, ctx.data.y_heldout))
        return replace(knowledge, values=top_k(values, self.k))


def top_k(p: Float32, k: int) -> Float32:
    """Keep the k largest values of each row, float32 [n, C]; each other one becomes (1 - their sum) / (C - k).

    >>> top_k(np.array([[0.5, 0.25, 0.1875, 0.0625]], np.float32), 2)
    array([[0.5  , 0.25 , 0.125, 0.125]], dtype=float32)
    """
    width = p.shape[1]
    if k >= width:
        return p
    top = np.argsort(-p, axis=1, kind="stable")[:, :k]
    largest = np.take_along_axis(p, top, 1)
    rest = np.maximum(0, p.sum(1, keepdims=True) - largest.sum(1, keepdims=True)) / np.float32(width - k)
    out: Float32 = np.repeat(np.minimum(rest, largest.min(1, keepdims=True)), width, axis=1)  # at most the k-th value
    np.put_along_axis(out, top, largest, axis=1)
    return out


def tempered(p: Float32, temperature: Float32 | np.float32) -> Float32:
    """Return softmax(z / T) for p = softmax(z), which is p^(1/T), normalised."""
    z: Float32 = np.log(np.maximum(p, _MIN_PROBABILITY)).astype(np.float32) / temperature
    return softmax(z)


def fitted_temperature(p: Float32, y: Int64) -> np.float32:
    """Return the T of `TEMPERATURES` with the smallest mean of -log softmax(z / T)_y for labels y, int64 [n]."""
    rows = np.arange(len(y))
    losses = [-np.log(np.maximum(tempered(p, t)[rows, y], _MIN_PROBABILITY)).mean() for t in TEMPERATURES]
    return np.float32(TEMPERATURES[int(np.argmin(losses))])
