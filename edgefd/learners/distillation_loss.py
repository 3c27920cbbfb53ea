"""Losses of distillation: how a client learns the rows of the teacher.

The training step of a learner has one loss, H(t, q) with q = softmax(z), whose gradient with respect to the logits z is
q - t. Take any loss L whose gradient g sums to 0 over the classes, as it does if L depends only on differences of
logits. It is learned with the targets t = q - g: the step is that of L, in torch and in the graph of a device. Here q
is the value at that step, so the client predicts each batch before it learns it. Formulas and sources:
docs/guides/selection-and-losses.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Float64, Int64
from edgefd.core.errors import hint
from edgefd.core.knowledge import Knowledge

Loss = Callable[[Float32, Float32], tuple[Float64, Float64]]
"""Maps (logits z [n, C], soft labels p [n, C] of the teacher) to targets t [n, C] and the loss of each row [n]."""

_MIN_PROBABILITY = 1e-6  # avoids the logarithm of 0
_STEP, _DECAY = 5e-4, 0.99  # alpha and beta of the published code of TAID


@dataclass(frozen=True)
class Distillation:
    """The `distillation` section of a config: how a client learns the rows of the teacher."""

    loss: str = "kl"
    """kl: towards the teacher's soft labels; pld: the teacher's ranking of the classes; taid: gradually from the
    client's own soft labels to the teacher's; mixed: kl with the true label mixed in on rows that the client
    contributed; swing: kl with a higher temperature on rows that resemble the client's data"""
    temperature: float = 1.0
    """temperature T of kl (both soft labels at T, loss times T squared), or the highest temperature of swing"""
    label_share: float = 0.5
    """share of the true label in a target of mixed; the rest is the teacher's soft label"""
    start: float = 0.4
    """share of the teacher at the beginning of a run with taid; at the end it is 1"""

    def __post_init__(self) -> None:
        if self.loss not in _LOSSES:
            raise ValueError(f"unknown loss {self.loss!r}: {hint(self.loss, _LOSSES)}")
        if not 0 < self.temperature <= 100:
            raise ValueError("temperature must be above 0 and at most 100")
        if not 0 < self.label_share <= 1:
            raise ValueError("label_share must be in (0, 1]")
        if not 0 <= self.start <= 1:
            raise ValueError("start must be in [0, 1]")
        for name, losses in _SETTINGS.items():
            if getattr(self, name) != getattr(Distillation, name) and self.loss not in losses:
                raise ValueError(f"{name} is for loss={' or '.join(losses)}")
        if self.loss == "swing" and self.temperature == 1:
            raise ValueError("swing needs a temperature other than 1")


_LOSSES = ("kl", "pld", "taid", "mixed", "swing")
_SETTINGS = {"temperature": ("kl", "swing"), "label_share": ("mixed",), "start": ("taid",)}
PLAIN = Distillation()
"""Distillation with the teacher's soft labels as targets."""


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


def with_labels(teacher: Knowledge, contributed: Int64, labels: Int64, share: float) -> Knowledge:
    """Mix labels into the teacher's rows that the client contributed: t = share onehot(y) + (1 - share) p.

    `contributed` holds the ids of these rows in ascending order. The other rows do not change.

    >>> k = Knowledge(np.array([3, 7]), np.full((2, 2), 0.5, np.float32), np.ones(2, np.float32))
    >>> with_labels(k, np.array([7]), np.array([1]), 0.5).values
    array([[0.5 , 0.5 ],
           [0.25, 0.75]], dtype=float32)
    """
    rows = np.flatnonzero(np.isin(teacher.ids, contributed))
    values = teacher.values.copy()
    values[rows] *= np.float32(1 - share)
    values[rows, labels[np.searchsorted(contributed, teacher.ids[rows])]] += np.float32(share)
    return Knowledge(teacher.ids, values, teacher.weights)


def per_row_temperature(teacher: Knowledge, acceptance: Float32, temperature: float) -> Knowledge:
    """Soften row i to p^(1/T_i), normalised, with T_i = 1 + (T - 1) a_i and the acceptance weights a, float32 [P].

    >>> k = Knowledge(np.array([0, 1]), np.array([[0.9, 0.1]] * 2, np.float32), np.ones(2, np.float32))
    >>> per_row_temperature(k, np.array([0, 1], np.float32), 2.0).values.round(2)
    array([[0.9 , 0.1 ],
           [0.75, 0.25]], dtype=float32)
    """
    t = 1 + (temperature - 1) * acceptance[teacher.ids].astype(np.float64)[:, None]
    power = np.maximum(teacher.values.astype(np.float64), 0) ** (1 / t)
    return Knowledge(teacher.ids, (power / power.sum(1, keepdims=True)).astype(np.float32), teacher.weights)


def needs_logits(settings: Distillation) -> bool:
    """Return whether the targets depend on the logits of the client at the step in which it learns them."""
    return settings.loss in ("pld", "taid") or (settings.loss == "kl" and settings.temperature != 1)


def loss_of(settings: Distillation, round: int, rounds: int, steps: int) -> Loss:
    """Return the loss for the distillation of one round in `steps` steps, for losses that need the client's logits.

    The first round with a teacher has the number 1. The last round, which closes the run, has the number `rounds`.
    """
    if settings.loss == "taid":
        return Taid(settings.start, (round - 1) / rounds, 1 / (rounds * max(steps, 1)))
    return pld if settings.loss == "pld" else lambda z, p: kl_with_temperature(z, p, settings.temperature)


def kl_with_temperature(z: Float32, p: Float32, temperature: float) -> tuple[Float64, Float64]:
    """Return targets and losses of T^2 KL(p_T || q_T), p_T = p^(1/T) normalised, q_T = softmax(z / T).

    Its gradient with respect to z is T (q_T - p_T).
    """
    p_t, q_t = softmax64(logits_of(p) / temperature), softmax64(z.astype(np.float64) / temperature)
    return softmax64(z) - temperature * (q_t - p_t), temperature**2 * divergence(p_t, q_t)


def pld(z: Float32, p: Float32) -> tuple[Float64, Float64]:
    """Return targets and losses of Plackett-Luce distillation.

    L = sum_k w_k (logsumexp_{l >= k} z[pi_l] - z[pi_k]), w_k = p[pi_k], where pi orders the classes from the largest p
    to the smallest; of classes with equal p, the one with the smaller number comes first. With two classes, L is
    p[pi_1] times the cross-entropy of pi_1, because the term of the last place is 0.
    """
    order = np.argsort(-p, axis=1, kind="stable")
    s, w = (np.take_along_axis(a.astype(np.float64), order, 1) for a in (z, p))
    s -= s.max(1, keepdims=True)
    rest = np.logaddexp.accumulate(s[:, ::-1], axis=1)[:, ::-1]
    # [n, k, j]: probability that place k of the ranking is given to the class at place j
    chance = np.exp(np.minimum(s[:, None, :] - rest[:, :, None], 0))
    ranked_gradient = (w[:, :, None] * np.triu(chance)).sum(1) - w
    gradient = np.empty_like(ranked_gradient)
    np.put_along_axis(gradient, order, ranked_gradient, 1)
    return softmax64(z) - gradient, (w * (rest - s)).sum(1)


class Taid:
    """Temporally adaptive interpolation: t = softmax((1 - s) z + s log p), L = KL(t || q), for rising s.

    With the progress u in [0, 1] over the run, s is at least start + (1 - start) u. It rises by
    alpha sigmoid(m) (1 - s) per step, where m is the moving average of the relative decrease of the loss.

    Args:
        start: s at the beginning of the run.
        progress: u at the first step.
        progress_per_step: increase of u per step.
    """

    def __init__(self, start: float, progress: float, progress_per_step: float) -> None:
        self._start, self._progress, self._progress_per_step = start, progress, progress_per_step
        self._momentum, self._last_loss = 0.0, 0.0
        self.share = 0.0
        """s after the last step"""

    def __call__(self, z: Float32, p: Float32) -> tuple[Float64, Float64]:
        """Return the targets and losses of one step, and update s."""
        logits = z.astype(np.float64)
        self.share = max(self.share, self._start + (1 - self._start) * self._progress)
        targets = softmax64((1 - self.share) * logits + self.share * logits_of(p))
        losses = divergence(targets, softmax64(logits))
        self._rise(float(losses.mean()))
        return targets, losses

    def _rise(self, loss: float) -> None:
        if self._last_loss > 0:
            self._momentum = _DECAY * self._momentum + (1 - _DECAY) * (self._last_loss - loss) / self._last_loss
        self._last_loss = loss
        self._progress += self._progress_per_step
        sigmoid = (1 + math.tanh(self._momentum / 2)) / 2
        self.share = min(1.0, self.share + _STEP * sigmoid * (1 - self.share))
