"""Robust aggregation rules for votes of which some are poisoned, as alternatives to the weighted mean.

`median`, `trimmed_mean` and `geometric_median` treat one row at a time: voters with less than half of a row's weight
(the share `trim`, for the trimmed mean) cannot overrule the others. `distance` treats whole clients. Votes are soft
labels: negative values count as 0, and votes are scaled to sum 1, so that no vote is larger than another.
docs/guides/poisoning.md describes what each rule does with one and two voters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Float64
from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.federation.memory import RecalledKnowledge
from edgefd.poisoning.row_weight import RowWeight, with_row_weights

Aggregate = Callable[[Sequence[Knowledge]], Knowledge]


@dataclass(frozen=True)
class Aggregator:
    """Rule by which the server aggregates votes. The `aggregator` section of a config."""

    name: Literal["mean", "median", "trimmed_mean", "geometric_median", "distance"] = "mean"
    """rule: distance removes whole clients that are far from the mean; the others treat one row at a time"""
    trim: float = 0.2
    """trimmed_mean: share of a row's weight that is cut off at each end"""
    one_vote: bool = False
    """divide each client's weights by their sum: a client that answers for every row has little weight on each"""
    min_voters: int = 1
    """least voters of a row; the teacher omits other rows, so from 2 on it never holds the answer of a single client"""
    row_weight: RowWeight = "one"
    """how much clients learn from a row of the teacher: one = all rows alike; mass = by the acceptance weights of its
    voters; agreement = by its largest probability; entropy = by how far its entropy is below that of a uniform label"""

    def __post_init__(self) -> None:
        if self.min_voters < 1:
            raise ValueError("min_voters must be at least 1")
        if not 0 <= self.trim < 0.5:
            raise ValueError("trim must be at least 0 and below 0.5")


def aggregate_of(choice: Aggregator) -> Aggregate:
    """Return the aggregation function of a config."""
    rules: dict[str, Aggregate] = {
        "mean": weighted_mean,
        "median": median,
        "trimmed_mean": functools.partial(trimmed_mean, trim=choice.trim),
        "geometric_median": geometric_median,
        "distance": distance,
    }
    rule = rules[choice.name]

    def aggregate(uploads: Sequence[Knowledge]) -> Knowledge:
        votes = _counted_votes(uploads, choice)
        return with_row_weights(rule(votes), votes, choice.row_weight)

    return aggregate


def _counted_votes(uploads: Sequence[Knowledge], choice: Aggregator) -> Sequence[Knowledge]:
    votes = with_voters(uploads, choice.min_voters) if choice.min_voters > 1 else uploads
    return one_vote(votes) if choice.one_vote else votes


def with_voters(uploads: Sequence[Knowledge], least: int) -> list[Knowledge]:
    """Return the uploads without the rows that fewer than `least` of them hold.

    >>> two, three = np.ones((2, 2), np.float32) / 2, np.ones(3, np.float32)
    >>> a, b = Knowledge(np.array([0, 1]), two, three[:2]), Knowledge(np.array([1, 2]), two, three[:2])
    >>> [k.ids.tolist() for k in with_voters([a, b], 2)]
    [[1], [1]]
    """
    if not uploads:
        return []
    ids, counts = np.unique(np.concatenate([u.ids for u in uploads]), return_counts=True)
    enough = ids[counts >= least]
    return [u.rows(np.isin(u.ids, enough)) for u in uploads]


def one_vote(uploads: Sequence[Knowledge]) -> list[Knowledge]:
    """Return the uploads with weights w_c[i] / sum_j w_c[j]: each client has a total weight of 1 over all its rows.

    For remembered knowledge, the sum is over the weights that the client sent, so the discount of its age stays.

    >>> k = Knowledge(np.array([0, 1]), np.eye(2, dtype=np.float32), np.array([1, 0.25], np.float32))
    >>> one_vote([k])[0].weights
    array([0.8, 0.2], dtype=float32)
    """
    return [Knowledge(u.ids, u.values, u.weights / _sent_weights(u).sum()) if len(u) else u for u in uploads]


def _sent_weights(upload: Knowledge) -> Float32:
    return upload.sent_weights if isinstance(upload, RecalledKnowledge) else upload.weights


def median(uploads: Sequence[Knowledge]) -> Knowledge:
    """Return the weighted median of each coordinate for every row, scaled to sum 1.

    If exactly half of the weight lies on each side, it is the mean of the two middle votes. A row whose medians are all
    0 (no class is supported by half of the weight) is absent, because nothing is known about it.

    Raises:
        ValueError: without uploads, or if they differ in width.
    """
    return _row_by_row(uploads, _median)


def trimmed_mean(uploads: Sequence[Knowledge], trim: float = 0.2) -> Knowledge:
    """Return the weighted mean of each coordinate after `trim` of the weight is cut off at each end, for every row.

    A vote at the border is cut in part, so the rule is continuous: trim = 0 is the mean, and towards 0.5 it becomes the
    median. The result is scaled to sum 1. A row whose result is 0 is absent.

    Raises:
        ValueError: without uploads, or if they differ in width.
    """
    return _row_by_row(uploads, functools.partial(_trimmed, trim=trim))


def geometric_median(uploads: Sequence[Knowledge], steps: int = 30) -> Knowledge:
    """Return for every row the point g that minimises sum_c w_c |v_c - g|, by Weiszfeld's iteration from the mean.

    It is an average of the votes, so it sums to 1. For two votes of equal weight, it is their mean.

    Raises:
        ValueError: without uploads, or if they differ in width.
    """
    return _row_by_row(uploads, functools.partial(_weiszfeld, steps=steps))


def distance(uploads: Sequence[Knowledge], cut: float = 2.0, steps: int = 20) -> Knowledge:
    """Return the weighted mean t without the clients whose votes are far from it.

    D_c^2 = sum_i w_c[i] |v_c[i] - t[i]|^2 / sum_i w_c[i] over the rows that client c sent. A client is removed if
    D_c > cut * median(D) + 0.01. The mean t and the removed clients are computed alternately, starting from the plain
    mean. Clients are removed as a whole: in a row with one honest voter and two attackers, the honest voter wins if
    the attackers are far from the mean on other rows. Rows that only removed clients sent are absent. Uploads are
    added one at a time, so memory is O(rows sent).

    Raises:
        ValueError: without uploads, or if they differ in width.
    """
    votes = [Knowledge(u.ids, _probabilities(u.values).astype(np.float32), u.weights) for u in uploads]
    teacher = weighted_mean(votes)
    kept = np.ones(len(votes), np.bool_)
    for _ in range(steps):
        distances = np.array([_distance(v, teacher) for v in votes])
        near = distances <= cut * np.median(distances) + 0.01
        if np.array_equal(near, kept):
            break
        kept = near
        teacher = weighted_mean(vote for vote, keep in zip(votes, kept, strict=True) if keep)
    return teacher


def _distance(vote: Knowledge, teacher: Knowledge) -> float:
    """Return D_c over the rows of the teacher. Without a common row it is 0: nothing contradicts the client."""
    shared = np.isin(vote.ids, teacher.ids)
    if not shared.any():
        return 0.0
    difference = vote.values[shared].astype(np.float64) - teacher.values[np.searchsorted(teacher.ids, vote.ids[shared])]
    return float(np.sqrt(np.average((difference**2).sum(1), weights=vote.weights[shared])))


def _row_by_row(uploads: Sequence[Knowledge], rule: Callable[[Float64, Float64], Float64]) -> Knowledge:
    """Apply `rule(values [m, k, d], weights [m, k]) -> [m, d]` to all m rows with k voters, for each k; scale to sum 1.

    Memory is O(rows sent): rows are grouped by their number of voters, and never padded to the largest number.
    """
    width = weighted_mean(uploads).width  # raises the error for uploads that do not fit
    all_ids = np.concatenate([u.ids for u in uploads])
    order = np.argsort(all_ids, kind="stable")
    ids, starts, counts = np.unique(all_ids[order], return_index=True, return_counts=True)
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
        distances = np.sqrt(((values - centre[:, None]) ** 2).sum(2)) + 1e-9
        scaled = weights / distances
        centre = (scaled[..., None] * values).sum(1) / scaled.sum(1, keepdims=True)
    return centre


def _sorted(values: Float64, weights: Float64) -> tuple[Float64, Float64]:
    """Return the votes, ascending in each coordinate, and their cumulative weights: both [m, k, d]."""
    order = values.argsort(1, kind="stable")
    upto = np.take_along_axis(np.broadcast_to(weights[..., None], values.shape), order, 1).cumsum(1)
    return np.take_along_axis(values, order, 1), upto


def _at(values: Float64, index: npt.NDArray[np.int64]) -> Float64:
    out: Float64 = np.take_along_axis(values, index[:, None], 1)[:, 0]
    return out


def _probabilities(values: npt.NDArray[np.float32]) -> Float64:
    """Return the rows with negative values set to 0, scaled to sum 1. Rows without a positive value become uniform."""
    positive = np.maximum(values, 0).astype(np.float64)
    total = positive.sum(1, keepdims=True)
    return np.where(total > 0, positive / np.where(total > 0, total, 1), 1 / max(values.shape[1], 1))
