"""Swing: the more a row looks like one that the client trained on, the softer its answer.

After Swing Distillation (Li et al., arXiv 2212.08349), which gives every item a temperature that rises with how
likely it is private. Its formula is for tokens; the one here is ours: docs/guides/defences.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.defences.top_k import tempered
from edgefd.federation.clients import ProxySet
from edgefd.federation.plan import RoundPlan
from edgefd.federation.state import ClientState
from edgefd.learners.batches import softmax


@dataclass(frozen=True)
class Swing:
    """A temperature for each row."""

    name: Literal["swing"] = "swing"
    temperature: float = 1.0
    """T_0, of rows that the model is less sure of than of any held-out record"""
    swing: float = 4.0
    """kappa: how much higher it is for rows that look like training records"""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError("temperature must be above 0")
        if self.swing < 0:
            raise ValueError("swing must not be negative")


def privatise(k: Knowledge, state: ClientState, proxy: ProxySet, plan: RoundPlan, settings: Swing) -> Knowledge:
    """The same rows, each at its temperature."""
    held = softmax(state.learner.predict_logits(state.data.x_heldout))
    risk = looks_trained_on(k.values, held)
    t: Float32 = np.float32(settings.temperature) * (1 + np.float32(settings.swing) * risk)
    return replace(k, values=tempered(k.values, t[:, None]))


def looks_trained_on(p: Float32, held: Float32) -> Float32:
    """s(x) of each row: the share of held-out records of whose class the model is less sure than of this one's.

    Args:
        p: float32 [n, C] probabilities.
        held: float32 [h, C], of the client's held-out records, which the model has not seen.

    >>> looks_trained_on(np.array([[0.9, 0.1], [0.5, 0.5]], np.float32), np.array([[0.6, 0.4], [0.2, 0.8]], np.float32))
    array([1., 0.], dtype=float32)
    """
    known = np.sort(held.max(1, initial=0))
    out: Float32 = (np.searchsorted(known, p.max(1, initial=0)) / max(len(known), 1)).astype(np.float32)
    return out
