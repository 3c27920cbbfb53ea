"""Robust aggregates: what the server may make of votes some of which are poisoned, instead of their weighted mean.

`median`, `trimmed_mean` and `geometric_median` look at one row at a time: voters with less than half of a row's weight
(the share `trim`, for the trimmed mean) cannot overrule the others. `distance` looks at whole clients. Votes are
soft labels: what is negative in them counts as 0, and they are scaled to sum 1, so that no vote is larger than another.
docs/guides/poisoning.md says what each rule does with one and two voters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float64
from edgefd.core.knowledge import Knowledge, weighted_mean

Aggregate = Callable[[Sequence[Knowledge]], Knowledge]


@dataclass(frozen=True)
class Aggregator:
    """How the server makes one teacher of many votes. The `aggregator` section of a config."""

    name: Literal["mean", "median", "trimmed_mean", "geometric_median", "distance"] = "mean"
    """distance weighs whole clients by how far they are from the mean; the others look at one row at a time"""
    trim: float = 0.2
    """trimmed_mean: the share of a row's weight that is cut off at either end"""
    one_vote: bool = False
    """divide each client's weights by their sum: who claims every row is worth little on each"""
    min_voters: int = 1
    """rows that fewer clients answered are left out of the teacher: nobody is sent one client's own answer"""

    def __post_init__(self) -> None:
        if self.min_voters < 1:
            raise ValueError("min_voters must be at least 1")
        if not 0 <= self.trim < 0.5:
            raise ValueError("trim must be at least 0 and below 0.5")


def aggregate_of(choice: Aggregator) -> Aggregate:
    """The function that a config asks for."""
    rules: dict[str, Aggregate] = {
        "mean": weighted_mean,
        "median": median,
        "trimmed_mean": functools.partial(trimmed_mean, trim=choice.trim),
        "geometric_median": geometric_median,
        "distance": distance,
    }
    rule = rules[choice.name]
    return lambda uploads: rule(_heard(uploads, choice))


def _heard(uploads: Sequence[Knowledge], choice: Aggregator) -> Sequence[Knowledge]:
    heard = with_voters(uploads, choice.min_voters) if choice.min_voters > 1 else uploads
    return one_vote(heard) if choice.one_vote else heard


def with_voters(uploads: Sequence[Knowledge], least: int) -> list[Knowledge]:
    """The uploads without rows that fewer than `least` of them hold.

    >>> two, three = np.ones((2, 2), np.float32) / 2, np.ones(3, np.float32)
    >>> a, b = Knowledge(np.array([0, 1]), two, three[:2]), Knowledge(np.array([1, 2]), two, three[:2])
    >>> [k.ids.tolist() for k in with_voters([a, b], 2)]
    [[1], [1]]
    """
    if not uploads:
        return []
    ids, counts = np.unique(np.concatenate([u.ids for u in uploads]), return_counts=True)
    enough = ids[counts >= least]
    kept = [np.isin(u.ids, enough) for u in uploads]
    return [Knowledge(u.ids[k], u.values[k], u.weights[k]) for u, k in zip(uploads, kept, strict=True)]


def one_vote(uploads: Sequence[Knowledge]) -> list[Knowledge]:
    """The uploads with weights w_c[i] / sum_j w_c[j]: every client has one vote in all, however many rows it claims.

    >>> k = Knowledge(np.array([0, 1]), np.eye(2, dtype=np.float32), np.array([1, 0.25], np.float32))
    >>> one_vote([k])[0].weights
    array([0.8, 0.2], dtype=float32)
    """
    return [Knowledge(u.ids, u.values, u.weights / u.weights.sum()) if len(u) else u for u in uploads]


def median(uploads: Sequence[Knowledge]) -> Knowledge:
    """For every row the weighted median of each coordinate, scaled to sum 1.

    Where exactly half of the weight lies on either side it is the mean of the two middle votes. A row whose medians are
    all 0 (no class has half of the weight behind it) is absent: of that row nothing is known.

    Raises:
        ValueError: without uploads, or if they differ in width.
    """
    return _row_by_row(uploads, _median)


def trimmed_mean(uploads: Sequence[Knowledge], trim: float = 0.2) -> Knowledge:
    """For every row and coordinate the weighted mean of what is left when `trim` of the weight goes at either end.

    A vote at the border is cut in part, so the rule is continuous: trim = 0 is the mean, and towards 0.5 it becomes the
    median. Scaled to sum 1; a row with nothing left is absent.

    Raises:
        ValueError: without uploads, or if they differ in width.
    """
    return _row_by_row(uploads, functools.partial(_trimmed, trim=trim))


def geometric_median(uploads: Sequence[Knowledge], steps: int = 30) -> Knowledge:
    """For every row the point g that minimises sum_c w_c |v_c - g|, by Weiszfeld's iteration from the mean.

    It is an average of the votes, so it sums to 1. Of two votes of the same weight it is the mean.

    Raises:
        ValueError: without uploads, or if they differ in width.
    """
    return _row_by_row(uploads, functools.partial(_weiszfeld, steps=steps))


def distance(uploads: Sequence[Knowledge], cut: float = 2.0, steps: int = 20) -> Knowledge:
    """The weighted mean t without the clients whose votes lie far from it.

    D_c^2 = sum_i w_c[i] |v_c[i] - t[i]|^2 / sum_i w_c[i] over the rows that client c sent. Left out is who has
    D_c > cut * median(D) + 0.01; t and who is left out are found in turn, from the plain mean on. A client counts as a
    whole: a row with one honest voter and two liars is won by the honest one, if the others are known as liars from
    elsewhere. Rows that nobody else sent are absent. Uploads are added one at a time, so memory is O(rows sent).

    Raises:
        ValueError: without uploads, or if they differ in width.
    """
    votes = [Knowledge(u.ids, _probabilities(u.values).astype(np.float32), u.weights) for u in uploads]
    teacher = weighted_mean(votes)
    kept = np.ones(len(votes), np.bool_)
    for _ in range(steps):
        apart = np.array([_distance(v, teacher) for v in votes])
        near = apart <= cut * np.median(apart) + 0.01
        if np.array_equal(near, kept):
            break
        kept = near
        teacher = weighted_mean(v for v, near in zip(votes, kept, strict=True) if near)
    return teacher


def _distance(vote: Knowledge, teacher: Knowledge) -> float:
    """Over the rows that the teacher knows; 0 without any: nothing speaks against who is alone with its rows."""
    shared = np.isin(vote.ids, teacher.ids)
    if not shared.any():
        return 0.0
    apart = vote.values[shared].astype(np.float64) - teacher.values[np.searchsorted(teacher.ids, vote.ids[shared])]
    return float(np.sqrt(np.average((apart**2).sum(1), weights=vote.weights[shared])))


def _row_by_row(uploads: Sequence[Knowledge], rule: Callable[[Float64, Float64], Float64]) -> Knowledge:
    """`rule(values [m, k, d], weights [m, k]) -> [m, d]` for all m rows with k voters, for each k; scaled to sum 1.

    Memory is O(rows sent): rows are grouped by their number of voters, and never padded to the largest.
    """
    width = weighted_mean(uploads).width  # says what is wrong with uploads that do not fit
    where = np.concatenate([u.ids for u in uploads])
    order = np.argsort(where, kind="stable")
    ids, starts, counts = np.unique(where[order], return_index=True, return_counts=True)
    values = np.concatenate([_probabilities(u.values) for u in uploads])[order]
    weights = np.concatenate([u.weights for u in uploads])[order].astype(np.float64)
    out = np.zeros((len(ids), width))
    for k in np.unique(counts):
        rows = np.flatnonzero(counts == k)
        votes = starts[rows][:, None] + np.arange(k)
        out[rows] = rule(values[votes], weights[votes] / weights[votes].sum(1, keepdims=True))
    total = out.sum(1)
    known = total > 1e-12
    scaled = (out[known] / total[known, None]).astype(np.float32)
    return Knowledge(ids[known], scaled, np.ones(int(known.sum()), np.float32))


def _median(values: Float64, weights: Float64) -> Float64:
    values, upto = _sorted(values, weights)
    low = _at(values, (upto < 0.5 - 1e-9).sum(1))
    high = _at(values, np.minimum((upto <= 0.5 + 1e-9).sum(1), values.shape[1] - 1))
    return (low + high) / 2


def _trimmed(values: Float64, weights: Float64, trim: float) -> Float64:
    values, upto = _sorted(values, weights)
    left = np.diff(np.clip(upto, trim, 1 - trim), axis=1, prepend=trim)
    out: Float64 = (left * values).sum(1) / (1 - 2 * trim)
    return out


def _weiszfeld(values: Float64, weights: Float64, steps: int) -> Float64:
    centre: Float64 = (weights[..., None] * values).sum(1)
    for _ in range(steps):
        apart = np.sqrt(((values - centre[:, None]) ** 2).sum(2)) + 1e-9
        pull = weights / apart
        centre = (pull[..., None] * values).sum(1) / pull.sum(1, keepdims=True)
    return centre


def _sorted(values: Float64, weights: Float64) -> tuple[Float64, Float64]:
    """Votes ascending in each coordinate, and the weight up to and with each: both [m, k, d]."""
    order = values.argsort(1, kind="stable")
    upto = np.take_along_axis(np.broadcast_to(weights[..., None], values.shape), order, 1).cumsum(1)
    return np.take_along_axis(values, order, 1), upto


def _at(values: Float64, index: npt.NDArray[np.int64]) -> Float64:
    out: Float64 = np.take_along_axis(values, index[:, None], 1)[:, 0]
    return out


def _probabilities(values: npt.NDArray[np.float32]) -> Float64:
    """Rows without what is negative, scaled to sum 1; a row with nothing above 0 says as little as a uniform one."""
    positive = np.maximum(values, 0).astype(np.float64)
    total = positive.sum(1, keepdims=True)
    return np.where(total > 0, positive / np.where(total > 0, total, 1), 1 / max(values.shape[1], 1))
