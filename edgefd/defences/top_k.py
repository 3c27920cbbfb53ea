"""Top-k: the k largest probabilities of a row are told, the rest of its mass is spread evenly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import ProxySet
from edgefd.federation.plan import RoundPlan
from edgefd.federation.state import ClientState
from edgefd.learners.batches import softmax

TEMPERATURES = np.geomspace(0.25, 8.0, 31).astype(np.float32)
_LEAST = np.float32(1e-30)


@dataclass(frozen=True)
class TopK:
    """Keep the k largest probabilities of a row."""

    name: Literal["top_k"] = "top_k"
    k: int = 3
    """probabilities that are told; the others are told as their mean"""
    calibrate: bool = False
    """first set the temperature that fits the client's held-out data, as FIRST does: sharper or softer, but honest"""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError("k must be at least 1")


def privatise(k: Knowledge, state: ClientState, proxy: ProxySet, plan: RoundPlan, settings: TopK) -> Knowledge:
    """The same rows with few values each."""
    values = k.values
    if settings.calibrate:
        held = softmax(state.learner.predict_logits(state.data.x_heldout))
        values = tempered(values, fitted_temperature(held, state.data.y_heldout))
    return replace(k, values=top_k(values, settings.k))


def top_k(p: Float32, k: int) -> Float32:
    """The k largest of each row float32 [n, C] stay; each other one becomes (1 - their sum) / (C - k).

    >>> top_k(np.array([[0.5, 0.25, 0.1875, 0.0625]], np.float32), 2)
    array([[0.5  , 0.25 , 0.125, 0.125]], dtype=float32)
    """
    width = p.shape[1]
    if k >= width:
        return p
    kept = np.argsort(-p, axis=1, kind="stable")[:, :k]
    told = np.take_along_axis(p, kept, 1)
    rest = np.maximum(0, p.sum(1, keepdims=True) - told.sum(1, keepdims=True)) / np.float32(width - k)
    out: Float32 = np.repeat(np.minimum(rest, told.min(1, keepdims=True)), width, axis=1)  # never above what is told
    np.put_along_axis(out, kept, told, axis=1)
    return out


def tempered(p: Float32, temperature: Float32 | np.float32) -> Float32:
    """softmax(z / T) from p = softmax(z): p^(1/T), normalised."""
    z: Float32 = np.log(np.maximum(p, _LEAST)).astype(np.float32) / temperature
    return softmax(z)


def fitted_temperature(p: Float32, y: Int64) -> np.float32:
    """The T of `TEMPERATURES` under which labels int64 [n] are most likely: least mean of -log softmax(z / T)_y."""
    rows = np.arange(len(y))
    losses = [-np.log(np.maximum(tempered(p, t)[rows, y], _LEAST)).mean() for t in TEMPERATURES]
    return np.float32(TEMPERATURES[int(np.argmin(losses))])
