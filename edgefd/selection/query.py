"""Selection of the rows that the server queries: fewer rows, and fewer bytes in both directions.

The rules use the teachers so far and the metrics of clients, never labels. A row that was never queried comes before
all others, so the first rounds query each row of the proxy set once. Formulas and sources:
docs/guides/selection-and-losses.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32, Float64, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.selection.settings import SERVER_RULES, Selection, n_rows

CLASS_KL = "class_kl/"
"""Prefix of the metrics in which a client reports its divergence from the teacher, followed by the class."""
_MAX_DIVERGENCE = 20.0  # nats: a reported value above this is no divergence of soft labels


@dataclass(frozen=True, eq=False)
class SelectionState:
    """State of a selection rule of the server between rounds.

    `known` holds the newest label of every row that was ever queried. A row for which no client answered has the
    uniform label. `lag` float32 [C] is the mean divergence of the clients from the teacher, by class, in the last
    reports.
    """

    known: Knowledge
    lag: Float32


def is_stateful(selection: Selection) -> bool:
    """Return whether the choice depends on earlier rounds."""
    return selection.name in ("pcoreset", "ddk")


def query_rows(
    selection: Selection,
    ids: Int64,
    teacher: Knowledge | None,
    selection_state: SelectionState | None,
    rng: np.random.Generator,
) -> Int64:
    """Return the rows to query, int64 ascending: all of `ids` unless the rule is one of the server.

    Args:
        selection: the rule and its budget.
        ids: the rows to choose from.
        teacher: the teacher of the last round.
        selection_state: state after the rounds so far; None before the first reports.
        rng: generator of this round.
    """
    if selection.name not in SERVER_RULES:
        return ids
    k, order = n_rows(selection.budget, len(ids)), rng.permutation(ids)
    if selection.name == "random" or selection_state is None:
        return np.sort(order[:k])
    queried = np.isin(order, selection_state.known.ids)
    new, seen = order[~queried][:k], order[queried]
    points = selection_state.known.values[np.searchsorted(selection_state.known.ids, seen)]
    left = k - len(new)
    if selection.name == "pcoreset":
        centres = points[:0] if teacher is None else teacher.values
        chosen = k_centre(points, centres, left)
    else:
        chosen = by_class(points, budget_shares(points, selection_state.lag, selection.uniform_share), left)
    return np.sort(np.concatenate([new, seen[chosen]]))


def k_centre(points: Float32, centres: Float32, k: int) -> Int64:
    """Choose k rows by k-centre greedy: k times argmax_x min_{s in S} |p(x) - p(s)|, S = `centres` and the chosen rows.

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
        nearest[chosen[i]] = -1  # a chosen row is never chosen again, because no distance is below -1
        nearest = np.minimum(nearest, ((points - points[chosen[i]]) ** 2).sum(1))
    return chosen


def groups(labels: Float32) -> Int64:
    """Return the most likely class of each row, or C for a uniform row, for which no client answered."""
    return np.asarray(np.where(labels.max(1) > labels.min(1), labels.argmax(1), labels.shape[1]))


def budget_shares(labels: Float32, lag: Float32, uniform_share: float) -> Float64:
    """Return the share of the budget of each class, float64 [C + 1]: (1 - u) lag_c / sum lag + u / N.

    u is `uniform_share`, and N the number of classes that have rows. The last class holds the rows for which no client
    answered; its lag is 0.

    >>> labels = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    >>> budget_shares(labels, np.array([3, 1], np.float32), 0.5)
    array([0.625, 0.375, 0.   ])
    """
    present = np.bincount(groups(labels), minlength=labels.shape[1] + 1) > 0
    divergences = np.append(lag, 0).astype(np.float64) * present
    uniform = present / max(present.sum(), 1)
    if not divergences.sum():
        return np.asarray(uniform)
    return np.asarray((1 - uniform_share) * divergences / divergences.sum() + uniform_share * uniform)


def by_class(labels: Float32, share: Float64, k: int) -> Int64:
    """Return the first rows of each class, as many as `apportion` assigns to it."""
    group = groups(labels)
    each = apportion(share, np.bincount(group, minlength=len(share)), k)
    return np.concatenate([np.flatnonzero(group == c)[:n] for c, n in enumerate(each)])


def apportion(share: Float64, available: Int64, k: int) -> Int64:
    """Assign k rows to the classes in proportion to `share`, at most `available` to each (D'Hondt's method).

    >>> apportion(np.array([0.625, 0.375]), np.array([9, 9]), 8), apportion(np.array([0.9, 0.1]), np.array([2, 9]), 5)
    (array([5, 3]), array([2, 3]))
    """
    assigned = np.zeros(len(share), np.int64)
    weight = np.maximum(share, 1e-12)  # a class of share 0 gets rows only if the others have none left
    for _ in range(k):
        assigned[np.where(assigned < available, weight / (assigned + 1), -1.0).argmax()] += 1
    return assigned


def update_state(
    selection_state: SelectionState | None, queried: Int64, teacher: Knowledge, metrics: Sequence[dict[str, float]]
) -> SelectionState:
    """Return the state after a round, from its queried rows, its teacher and the metrics of its reports."""
    width = teacher.width
    ids = np.union1d(queried, teacher.ids)
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
    divergences = [m[f"{CLASS_KL}{c}"] for m in metrics if f"{CLASS_KL}{c}" in m]
    return float(np.clip(divergences, 0, _MAX_DIVERGENCE).mean()) if divergences else 0.0
