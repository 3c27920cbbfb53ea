"""Clipping and Gaussian noise on soft labels, with the sigma that the guarantee requires: docs/guides/defences.md.

One private record may change every row of every report, because the model learned from it. Therefore the whole run
counts as one output of P rows per round for R rounds, and its sensitivity grows with sqrt(P R).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.defences.accounting import gaussian_multiplier
from edgefd.federation.context import ClientContext


@dataclass(frozen=True)
class Noise:
    """Clip each row, add Gaussian noise, and project the row onto the probability simplex."""

    name: Literal["noise"] = "noise"
    epsilon: float = 8.0
    """epsilon of the whole run, for exchanging one private record of a client for another"""
    delta: float = 1e-5
    """delta of the whole run"""
    clip: float = 1.0
    """largest L2 norm of a row; longer rows are scaled down. Probability rows are never longer than 1"""
    seed: int | None = None
    """seed of the noise, for tests only: nothing is claimed with one, because others could subtract the noise. None =
    the noise comes from the entropy of the operating system"""

    def __post_init__(self) -> None:
        check_budget(self.epsilon, self.delta, self.seed)
        if not 0 < self.clip <= 1:
            raise ValueError(
                f"clip must be above 0 and at most 1, the largest norm of a probability row, not {self.clip:g}"
            )

    def privatise(self, ctx: ClientContext, knowledge: Knowledge) -> Knowledge:
        """Return the same rows with noise, projected onto the simplex.

        The projection does not weaken the guarantee against a party that does not know the noise.
        """
        noise = ctx.noise_rng(ctx.plan.round).normal(0, sigma_of(self, ctx), knowledge.values.shape)
        noisy = clipped(knowledge.values, self.clip) + noise
        return replace(knowledge, values=onto_simplex(noisy.astype(np.float32)))


def check_budget(epsilon: float, delta: float, seed: int | None) -> None:
    """Check that (epsilon, delta) and a seed are in the supported range.

    Raises:
        ValueError: if it is not.
    """
    if epsilon < 0.01:
        raise ValueError(
            f"epsilon must be at least 0.01, not {epsilon:g}: below, accountants compute only rounding errors"
        )
    if not 0 < delta < 0.5:
        raise ValueError(f"delta must be above 0 and far below 1, such as 1e-5, not {delta:g}")
    if seed is not None and not 0 <= seed < 2**64:
        raise ValueError(f"seed must be at least 0 and below 2**64, not {seed}")


def sigma_of(settings: Noise, ctx: ClientContext) -> float:
    """Return the noise of each number: m(epsilon, delta) * sqrt(2) clip sqrt(P R), for P rows per round and R rounds.

    Rows are not negative and have a norm of at most `clip`, so two rows differ by at most sqrt(2) clip.
    """
    sensitivity = math.sqrt(2 * len(ctx.plan.ids) * ctx.terms.training.rounds) * settings.clip
    return gaussian_multiplier(settings.epsilon, settings.delta) * sensitivity


def clipped(values: Float32, largest_norm: float) -> Float32:
    """Return rows scaled to an L2 norm of at most `largest_norm`, after negative numbers are set to 0.

    >>> clipped(np.array([[3.0, 4.0], [0.3, 0.4]], np.float32), 1.0)
    array([[0.6, 0.8],
           [0.3, 0.4]], dtype=float32)
    """
    positive = np.maximum(values, 0)
    norms = np.linalg.norm(positive, axis=1, keepdims=True)
    out: Float32 = (positive * np.minimum(1, largest_norm / np.maximum(norms, 1e-30))).astype(np.float32)
    return out


def onto_simplex(values: Float32) -> Float32:
    """Return the nearest probability row of each row: max(v - t, 0), with t such that it sums to 1.

    The algorithm is that of Wang and Carreira-Perpinan (2013).

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
