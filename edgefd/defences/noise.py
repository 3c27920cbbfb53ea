"""Clipping and Gaussian noise on soft labels, with the sigma that the guarantee takes: docs/guides/defences.md.

One private record may change every row of every report, since the model learned from it. So what is noisy is the whole
run's output, P rows a round for R rounds, and its sensitivity grows with sqrt(P R).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import Purpose, make_rng
from edgefd.defences.accounting import gaussian_multiplier
from edgefd.federation.clients import ProxySet
from edgefd.federation.plan import RoundPlan
from edgefd.federation.state import ClientState


@dataclass(frozen=True)
class Noise:
    """Clip each row, add Gaussian noise, and make it a probability row again."""

    name: Literal["noise"] = "noise"
    epsilon: float = 8.0
    """of the whole run, against exchanging one private record of a client for another"""
    delta: float = 1e-5
    clip: float = 1.0
    """largest L2 norm of a row: longer ones are scaled down. Probability rows are never longer than 1"""

    def __post_init__(self) -> None:
        check_budget(self.epsilon, self.delta)
        if not 0 < self.clip <= 1:
            raise ValueError("clip must be above 0, and at most 1, which no probability row exceeds")


def check_budget(epsilon: float, delta: float) -> None:
    """Whether (epsilon, delta) can be asked for at all."""
    if epsilon < 0.01:
        raise ValueError("epsilon must be at least 0.01: below, what accountants compute is rounding")
    if not 0 < delta < 0.5:
        raise ValueError("delta must be above 0 and far below 1, such as 1e-5")


def privatise(k: Knowledge, state: ClientState, proxy: ProxySet, plan: RoundPlan, settings: Noise) -> Knowledge:
    """The same rows with noise, projected onto the simplex: to whom the noise is unknown, that undoes nothing."""
    rng = make_rng(plan.seed, Purpose.DEFENCE, plan.round, state.data.client)
    noisy = clipped(k.values, settings.clip) + rng.normal(0, sigma_of(settings, plan), k.values.shape)
    return replace(k, values=onto_simplex(noisy.astype(np.float32)))


def sigma_of(settings: Noise, plan: RoundPlan) -> float:
    """Noise of each number, sigma = m(epsilon, delta) * sqrt(2) clip sqrt(P R), for P rows a round and R rounds.

    Rows are not negative and no longer than `clip`, so no two are further apart than sqrt(2) clip.
    """
    sensitivity = math.sqrt(2 * len(plan.ids) * plan.training.rounds) * settings.clip
    return gaussian_multiplier(settings.epsilon, settings.delta) * sensitivity


def clipped(values: Float32, most: float) -> Float32:
    """Rows scaled to an L2 norm of at most `most`, what is negative in them taken as 0.

    >>> clipped(np.array([[3.0, 4.0], [0.3, 0.4]], np.float32), 1.0)
    array([[0.6, 0.8],
           [0.3, 0.4]], dtype=float32)
    """
    positive = np.maximum(values, 0)
    norms = np.linalg.norm(positive, axis=1, keepdims=True)
    out: Float32 = (positive * np.minimum(1, most / np.maximum(norms, 1e-30))).astype(np.float32)
    return out


def onto_simplex(values: Float32) -> Float32:
    """The nearest probability row to each: max(v - t, 0) with t such that it sums to 1 (Wang, Carreira-Perpinan 2013).

    >>> onto_simplex(np.array([[0.5, 1.5, -9.0], [0.2, 0.3, 0.5]], np.float32))
    array([[0. , 1. , 0. ],
           [0.2, 0.3, 0.5]], dtype=float32)
    """
    v = values.astype(np.float64)
    ordered = -np.sort(-v, axis=1)
    excess = (np.cumsum(ordered, axis=1) - 1) / np.arange(1, v.shape[1] + 1)
    last = (ordered > excess).sum(1) - 1
    out: Float32 = np.maximum(v - excess[np.arange(len(v)), last][:, None], 0).astype(np.float32)
    return out
