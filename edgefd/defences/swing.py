"""Swing: the more a row resembles a training record of the client, the higher the temperature of its soft label.

It follows Swing Distillation (Li et al., arXiv 2212.08349), in which the temperature of an item rises with the
probability that the item is private. That formula is for tokens; the formula here is ours: docs/guides/defences.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.defences.top_k import tempered
from edgefd.federation.context import ClientContext
from edgefd.learners.batches import softmax


@dataclass(frozen=True)
class Swing:
    """A temperature for each row, T_0 (1 + kappa s(x))."""

    name: Literal["swing"] = "swing"
    temperature: float = 1.0
    """T_0: temperature of rows on which the model is less confident than on every held-out record"""
    swing: float = 4.0
    """kappa: relative increase of the temperature for rows that resemble training records"""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError("temperature must be above 0")
        if self.swing < 0:
            raise ValueError("swing must not be negative")

    def privatise(self, ctx: ClientContext, knowledge: Knowledge) -> Knowledge:
        """Return the same rows, each with its temperature."""
        heldout_probs = softmax(ctx.learner.predict_logits(ctx.data.x_heldout))
        risk = similarity_to_training(knowledge.values, heldout_probs)
        t: Float32 = np.float32(self.temperature) * (1 + np.float32(self.swing) * risk)
        return replace(knowledge, values=tempered(knowledge.values, t[:, None]))


def similarity_to_training(p: Float32, heldout_probs: Float32) -> Float32:
    """Return s(x) of each row: the share of held-out records on which the model is less confident than on x.

    Args:
        p: probabilities of the rows, float32 [n, C].
        heldout_probs: probabilities of the client's held-out records, which are not training records, float32 [h, C].

    >>> heldout_probs = np.array([[0.6, 0.4], [0.2, 0.8]], np.float32)
    >>> similarity_to_training(np.array([[0.9, 0.1], [0.5, 0.5]], np.float32), heldout_probs)
    array([1., 0.], dtype=float32)
    """
    confidences = np.sort(heldout_probs.max(1, initial=0))
    less_confident = np.searchsorted(confidences, p.max(1, initial=0))
    out: Float32 = (less_confident / max(len(confidences), 1)).astype(np.float32)
    return out
