"""Calibration: does a model that says 0.8 hold in 8 of 10 cases? (Guo et al., arXiv 1706.04599)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32, Int64

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Rows by their confidence, the largest probability p, in equally wide bins: bin b of B holds b/B < p <= (b+1)/B.

    Sums, so that those of many clients add up.
    """

    count: list[int]
    """rows in each bin"""
    confidence: list[float]
    """sum of their confidences"""
    correct: list[int]
    """how many of them are right"""

    def __post_init__(self) -> None:
        if not len(self.count) == len(self.confidence) == len(self.correct) == BINS:
            raise ValueError(f"count, confidence and correct must have {BINS} bins each")


def reliability(probabilities: Float32, y: Int64) -> Reliability:
    """From probabilities float32 [n, C] and labels int64 [n]; the most probable class is what a row says.

    >>> reliability(np.array([[0.9, 0.1], [0.05, 0.95]], np.float32), np.array([0, 0])).count[-2:]
    [1, 1]
    """
    confidence = probabilities.max(1).astype(np.float64)
    confidence = np.nan_to_num(confidence)  # of a model that has diverged: it is sure of nothing
    right = probabilities.argmax(1) == y
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return Reliability(
        count=np.bincount(bins, minlength=BINS).tolist(),
        confidence=np.bincount(bins, confidence, BINS).tolist(),
        correct=np.bincount(bins[right], minlength=BINS).tolist(),
    )


def ece(found: Reliability) -> float:
    """Expected calibration error: sum_b n_b / n |correct_b / n_b - confidence_b / n_b|, over bins b of n_b rows.

    >>> says = np.array([[0.9, 0.1], [0.9, 0.1]], np.float32)
    >>> round(ece(reliability(says, np.array([0, 1]))), 3)  # 0.9 said, 0.5 right
    0.4
    """
    gaps = np.abs(np.array(found.correct) - np.array(found.confidence))
    return float(gaps.sum()) / max(sum(found.count), 1)


def pooled(parts: Iterable[Reliability]) -> Reliability:
    """All rows of all parts."""
    count, confidence, correct = np.zeros(BINS, np.int64), np.zeros(BINS), np.zeros(BINS, np.int64)
    for part in parts:
        count += part.count
        confidence += part.confidence
        correct += part.correct
    return Reliability(count.tolist(), confidence.tolist(), correct.tolist())
