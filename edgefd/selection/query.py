"""Which rows the server asks about: fewer rows, fewer bytes in both directions.

It knows what teachers have said so far and what clients report, never labels. A row that was never asked about comes
before all others, so the first rounds go once through the proxy set. Formulas and sources: docs/guides/selection-and-losses.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32, Float64, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.selection.settings import SERVER_RULES, Selection, n_rows

LAG = "class_kl/"
"""Before a class's number: the metric in which a client says how far it is from the teacher there."""
_FARTHEST = 20.0  # nats: what a report says beyond that is no divergence of soft labels


@dataclass(frozen=True, eq=False)
class SelectionState:
    """What a server that chooses keeps: the newest label of every row that was ever asked about, and the clients' lag.

    A row that nobody answered has the uniform label. `lag` float32 [C] is the mean of what the last reports say.
    """

    known: Knowledge
    lag: Float32


def is_stateful(selection: Selection) -> bool:
    """Whether the choice depends on earlier rounds."""
    return selection.name in ("pcoreset", "ddk")


def query_rows(
    selection: Selection,
    ids: Int64,
    teacher: Knowledge | None,
    selection_state: SelectionState | None,
    rng: np.random.Generator,
) -> Int64:
    """The rows of a plan, int64 ascending: all of `ids` where it is not the server that chooses.

    Args:
        selection: the rule and its budget.
        ids: the rows that may be asked about.
        teacher: of the last round.
        selection_state: of all rounds so far; None before the first answers.
        rng: of this round.
    """
    if selection.name not in SERVER_RULES:
        return ids
    k, order = n_rows(selection.budget, len(ids)), rng.permutation(ids)
    if selection.name == "random" or selection_state is None:
        return np.sort(order[:k])
    asked = np.isin(order, selection_state.known.ids)
    new, seen = order[~asked][:k], order[asked]
    points = selection_state.known.values[np.searchsorted(selection_state.known.ids, seen)]
    left = k - len(new)
    if selection.name == "pcoreset":
        centres = points[:0] if teacher is None else teacher.values
        chosen = k_centre(points, centres, left)
    else:
        chosen = by_class(points, budget_shares(points, selection_state.lag, selection.uniform_share), left)
    return np.sort(np.concatenate([new, seen[chosen]]))


def k_centre(points: Float32, centres: Float32, k: int) -> Int64:
    """k-centre greedy: k times argmax_x min_{s in S} |p(x) - p(s)|, S = `centres` and what is chosen already.

    >>> line = np.array([[0.0], [1.0], [4.0], [10.0]], np.float32)
    >>> k_centre(line, line[:1], 2)
    array([3, 2])
    """
    nearest = np.full(len(points), np.inf)
    for centre in np.unique(centres, axis=0):
        nearest = np.minimum(nearest, ((points - centre) ** 2).sum(1))
    chosen = np.empty(k, np.int64)
    for i in range(k):
        chosen[i] = nearest.argmax()
        nearest[chosen[i]] = -1  # taken: no distance is less, so it stays
        nearest = np.minimum(nearest, ((points - points[chosen[i]]) ** 2).sum(1))
    return chosen


def groups(labels: Float32) -> Int64:
    """The most likely class of each row, and C where all classes are alike: nobody answered."""
    return np.asarray(np.where(labels.max(1) > labels.min(1), labels.argmax(1), labels.shape[1]))


def budget_shares(labels: Float32, lag: Float32, even: float) -> Float64:
    """What part of the budget each class gets, float64 [C + 1]: (1 - even) lag_c / sum lag + even / N.

    N counts the classes of which there are rows; the last one is that of rows that nobody answered, without lag.

    >>> labels = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    >>> shares(labels, np.array([3, 1], np.float32), 0.5)
    array([0.625, 0.375, 0.   ])
    """
    there = np.bincount(groups(labels), minlength=labels.shape[1] + 1) > 0
    behind = np.append(lag, 0).astype(np.float64) * there
    alike = there / max(there.sum(), 1)
    return np.asarray((1 - even) * behind / behind.sum() + even * alike if behind.sum() else alike)


def by_class(labels: Float32, share: Float64, k: int) -> Int64:
    """The first rows of each class, as many as `apportion` gives it."""
    group = groups(labels)
    each = apportion(share, np.bincount(group, minlength=len(share)), k)
    return np.concatenate([np.flatnonzero(group == c)[:n] for c, n in enumerate(each)])


def apportion(share: Float64, available: Int64, k: int) -> Int64:
    """Deal k rows out in proportion to `share`, none beyond what is `available` (D'Hondt's method).

    >>> seats(np.array([0.625, 0.375]), np.array([9, 9]), 8), seats(np.array([0.9, 0.1]), np.array([2, 9]), 5)
    (array([5, 3]), array([2, 3]))
    """
    given = np.zeros(len(share), np.int64)
    worth = np.maximum(share, 1e-12)  # a class of share 0 gets what is left over
    for _ in range(k):
        given[np.where(given < available, worth / (given + 1), -1.0).argmax()] += 1
    return given


def update_state(
    selection_state: SelectionState | None, asked: Int64, teacher: Knowledge, metrics: Sequence[dict[str, float]]
) -> SelectionState:
    """The memory after a round: rows asked about, what the teacher now says of them, and the metrics of the reports."""
    width = teacher.width
    ids = np.union1d(asked, teacher.ids)
    values = np.full((len(ids), width), 1 / width, np.float32)
    values[np.searchsorted(ids, teacher.ids)] = teacher.values
    if selection_state is not None:
        old = ~np.isin(selection_state.known.ids, ids)
        ids = np.concatenate([ids, selection_state.known.ids[old]])
        values = np.concatenate([values, selection_state.known.values[old]])
    order = ids.argsort()
    lag = np.array([_mean_lag(metrics, c) for c in range(width)], np.float32)
    return SelectionState(Knowledge(ids[order], values[order], np.ones(len(ids), np.float32)), lag)


def _mean_lag(metrics: Sequence[dict[str, float]], c: int) -> float:
    said = [m[f"{LAG}{c}"] for m in metrics if f"{LAG}{c}" in m]
    return float(np.clip(said, 0, _FARTHEST).mean()) if said else 0.0
