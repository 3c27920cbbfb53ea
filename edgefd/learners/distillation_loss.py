"""How a client learns the teacher's rows: other targets, or another loss, by way of targets.

`edgefd.learners.batches` knows one loss, H(t, q) with q = softmax(z), whose slope by the logits z is q - t. So any loss L whose
slope g sums to 0 over the classes, as it does where only differences of logits count, is learned by t = q - g: the step
is that of L, in torch and in the graph of a device alike. q is then that of the moment, so the client predicts each
batch before it learns it. Formulas and sources: docs/guides/selection-and-losses.md.
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
"""(logits z [n, C], teacher's soft labels p [n, C]) → targets t [n, C] and the loss of each row [n]."""

_LEAST = 1e-6  # probability: no logarithm of 0
_STEP, _KEPT = 5e-4, 0.99  # alpha and beta of TAID's published code


@dataclass(frozen=True)
class Distillation:
    """How the teacher's rows are learned. The `distillation` section of a config."""

    loss: str = "kl"
    """kl; pld: its ranking of the classes; taid: from one's own soft labels towards its; mixed: with the labels of the
    rows that the client contributed; swing: softer where a row resembles the client's own data"""
    temperature: float = 1.0
    """T of kl (both soft labels at T, times T squared) and of swing (the softest)"""
    label_share: float = 0.5
    """mixed: share of the label, beside the teacher"""
    start: float = 0.4
    """taid: share of the teacher at the beginning; at the end it is 1"""

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
"""The teacher's soft labels are the targets."""


def softmax(logits: npt.NDArray[np.floating]) -> Float64:
    """Probabilities by row, float64 [n, C]."""
    e = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def logits_of(p: Float32) -> Float64:
    """Logits of soft labels: log p, with the least that a class can have."""
    return np.log(np.maximum(p.astype(np.float64), _LEAST))


def divergence(p: npt.NDArray[np.floating], q: npt.NDArray[np.floating]) -> Float64:
    """KL(p || q) of each row, float64 [n], in nats.

    >>> divergence(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])).round(4)
    array([0.6931])
    """
    logs = [np.log(np.maximum(x.astype(np.float64), _LEAST)) for x in (p, q)]
    return np.asarray((p * (logs[0] - logs[1])).sum(1))


def with_labels(teacher: Knowledge, contributed: Int64, labels: Int64, share: float) -> Knowledge:
    """On the rows `contributed`, ascending, t = share onehot(y) + (1 - share) p; the others as they are.

    >>> k = Knowledge(np.array([3, 7]), np.full((2, 2), 0.5, np.float32), np.ones(2, np.float32))
    >>> with_labels(k, np.array([7]), np.array([1]), 0.5).values
    array([[0.5 , 0.5 ],
           [0.25, 0.75]], dtype=float32)
    """
    mine = np.flatnonzero(np.isin(teacher.ids, contributed))
    values = teacher.values.copy()
    values[mine] *= np.float32(1 - share)
    values[mine, labels[np.searchsorted(contributed, teacher.ids[mine])]] += np.float32(share)
    return Knowledge(teacher.ids, values, teacher.weights)


def per_row_temperature(teacher: Knowledge, acceptance: Float32, temperature: float) -> Knowledge:
    """Row i at its own temperature T_i = 1 + (T - 1) claims_i, claims float32 [P] in [0, 1]: p^(1/T_i), normalised.

    >>> k = Knowledge(np.array([0, 1]), np.array([[0.9, 0.1]] * 2, np.float32), np.ones(2, np.float32))
    >>> softened(k, np.array([0, 1], np.float32), 2.0).values.round(2)
    array([[0.9 , 0.1 ],
           [0.75, 0.25]], dtype=float32)
    """
    t = 1 + (temperature - 1) * acceptance[teacher.ids].astype(np.float64)[:, None]
    power = np.maximum(teacher.values.astype(np.float64), 0) ** (1 / t)
    return Knowledge(teacher.ids, (power / power.sum(1, keepdims=True)).astype(np.float32), teacher.weights)


def needs_logits(settings: Distillation) -> bool:
    """Whether targets depend on what the client says of a row when it learns it."""
    return settings.loss in ("pld", "taid") or (settings.loss == "kl" and settings.temperature != 1)


def loss_of(settings: Distillation, round: int, rounds: int, steps: int) -> Loss:
    """The loss of a round's distillation of so many steps, for those that need the client's logits.

    The first round in which there is a teacher is 1, the last, closing one is `rounds`.
    """
    if settings.loss == "taid":
        return Taid(settings.start, (round - 1) / rounds, 1 / (rounds * max(steps, 1)))
    return pld if settings.loss == "pld" else lambda z, p: kl_with_temperature(z, p, settings.temperature)


def kl_with_temperature(z: Float32, p: Float32, temperature: float) -> tuple[Float64, Float64]:
    """T^2 KL(p_T || softmax(z / T)), with p_T = p^(1/T), normalised; its slope is T (softmax(z / T) - p_T)."""
    p_t, q_t = softmax(logits_of(p) / temperature), softmax(z.astype(np.float64) / temperature)
    return softmax(z) - temperature * (q_t - p_t), temperature**2 * divergence(p_t, q_t)


def pld(z: Float32, p: Float32) -> tuple[Float64, Float64]:
    """Plackett-Luce distillation: L = sum_k w_k (logsumexp_{l >= k} z[pi_l] - z[pi_k]), w_k = p[pi_k].

    The classes pi are in falling order of p; of equal ones the first comes first. With two classes L is p[pi_1] times
    the cross-entropy of pi_1, as the last place has nothing to lose to.
    """
    order = np.argsort(-p, axis=1, kind="stable")
    s, w = (np.take_along_axis(a.astype(np.float64), order, 1) for a in (z, p))
    s -= s.max(1, keepdims=True)
    rest = np.logaddexp.accumulate(s[:, ::-1], axis=1)[:, ::-1]
    chance = np.exp(np.minimum(s[:, None, :] - rest[:, :, None], 0))  # [n, k, j]: of place j where k's is drawn
    slope = (w[:, :, None] * np.triu(chance)).sum(1) - w
    back = np.empty_like(slope)
    np.put_along_axis(back, order, slope, 1)
    return softmax(z) - back, (w * (rest - s)).sum(1)


class Taid:
    """Temporally adaptive interpolation: t = softmax((1 - s) z + s log p), L = KL(t || q), for rising s.

    With progress u in [0, 1] over the run, s is at least start + (1 - start) u, and rises by alpha sigmoid(m) (1 - s) a
    step, m the moving average of the loss's relative fall.

    Args:
        start: s at the beginning of the run.
        progress: u at the first step.
        each: by how much u rises in a step.
    """

    def __init__(self, start: float, progress: float, each: float) -> None:
        self._start, self._progress, self._each = start, progress, each
        self._momentum, self._last = 0.0, 0.0
        self.share = 0.0
        """s, of the last step"""

    def __call__(self, z: Float32, p: Float32) -> tuple[Float64, Float64]:
        """The targets and losses of a step."""
        own = z.astype(np.float64)
        self.share = max(self.share, self._start + (1 - self._start) * self._progress)
        targets = softmax((1 - self.share) * own + self.share * logits_of(p))
        losses = divergence(targets, softmax(own))
        self._rise(float(losses.mean()))
        return targets, losses

    def _rise(self, loss: float) -> None:
        if self._last > 0:
            self._momentum = _KEPT * self._momentum + (1 - _KEPT) * (self._last - loss) / self._last
        self._last = loss
        self._progress += self._each
        sigmoid = (1 + math.tanh(self._momentum / 2)) / 2
        self.share = min(1.0, self.share + _STEP * sigmoid * (1 - self.share))
