"""Calibration of a model: how often it is right at each confidence (Guo et al., arXiv 1706.04599)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32, Int64

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Rows binned by confidence, the largest probability p: bin b of B holds the rows with b/B < p <= (b+1)/B.

    The fields hold sums, so the fields of several clients can be added.
    """

    count: list[int]
    """number of rows in each bin"""
    confidence: list[float]
    """sum of the confidences in each bin"""
    correct: list[int]
    """number of rows in each bin whose most probable class is the label"""

    def __post_init__(self) -> None:
        if not len(self.count) == len(self.confidence) == len(self.correct) == BINS:
            raise ValueError(f"count, confidence and correct must have {BINS} bins each")


def reliability(probabilities: Float32, y: Int64) -> Reliability:
    """Return the bins of probabilities float32 [n, C] with labels int64 [n]; the prediction is the most probable class.

    >>> reliability(np.array([[0.9, 0.1], [0.05, 0.95]], np.float32), np.array([0, 0])).count[-2:]
    [1, 1]
    """
    confidence = probabilities.max(1).astype(np.float64)
    confidence = np.nan_to_num(confidence)  # a diverged model predicts NaN: its confidence counts as 0
    right = probabilities.argmax(1) == y
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return Reliability(
        count=np.bincount(bins, minlength=BINS).tolist(),
        confidence=np.bincount(bins, confidence, BINS).tolist(),
        correct=np.bincount(bins[right], minlength=BINS).tolist(),
    )


def ece(bins: Reliability) -> float:
    """Return the expected calibration error, sum_b n_b / n |correct_b / n_b - confidence_b / n_b|; bin b has n_b rows.

    >>> probs = np.array([[0.9, 0.1], [0.9, 0.1]], np.float32)
    >>> round(ece(reliability(probs, np.array([0, 1]))), 3)  # confidence 0.9, accuracy 0.5
    0.4
    """
    gaps = np.abs(np.array(bins.correct) - np.array(bins.confidence))
    return float(gaps.sum()) / max(sum(bins.count), 1)


def pooled(parts: Iterable[Reliability]) -> Reliability:
    """Return the bins of all rows of all parts."""
    count, confidence, correct = np.zeros(BINS, np.int64), np.zeros(BINS), np.zeros(BINS, np.int64)
    for part in parts:
        count += part.count
        confidence += part.confidence
        correct += part.correct
    return Reliability(count.tolist(), confidence.tolist(), correct.tolist())
