"""KMeans in numpy: k-means++ and Lloyd, with distances by matrix product.

It is ours because the filter is what the project exists for and must run on devices that have no scikit-learn.
scikit-learn's `KMeans` is its oracle in the tests.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64

BLOCK = 1024  # rows handled at once: they stay in cache, and no copy of the data is larger than that
_SLACK = 1e-5  # bounds are float32 sums: when in doubt, look at the row again


def squared_distances(x: Float32, centroids: Float32, squares: Float32) -> Float32:
    """||x_i - c_j||^2 as float32 [n, k], from `squares` = ||x||^2 less 2 x c plus ||c||^2, never below zero."""
    cross = x @ centroids.T
    cross *= -2
    cross += squares[:, None]
    cross += row_squares(centroids)
    out: Float32 = np.maximum(cross, 0, out=cross)
    return out


def nearest(x: Float32, centroids: Float32, squares: Float32 | None = None) -> tuple[Int64, Float32]:
    """For each row of x the index of its nearest centroid (int64 [n]) and the squared distance to it (float32 [n]).

    `squares`, ||x_i||^2, saves work where the caller has it.
    """
    squares = row_squares(x) if squares is None else squares
    labels = np.empty(len(x), np.int64)
    distances = np.empty(len(x), np.float32)
    half = row_squares(centroids) / 2
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        score = block @ centroids.T  # the nearest centroid maximises x c - ||c||^2 / 2: no need of ||x||^2
        score -= half
        best = score.argmax(1)
        labels[start : start + BLOCK] = best
        top = score[np.arange(len(block)), best]
        distances[start : start + BLOCK] = -2 * top
    distances += squares
    return labels, np.maximum(distances, 0, out=distances)


def kmeans_plus_plus(x: Float32, k: int, rng: np.random.Generator) -> Float32:
    """K starting centroids by greedy k-means++ (Arthur and Vassilvitskii 2007), 2 + log k candidates a step."""
    candidates = 2 + int(np.log(k))
    chosen = [int(rng.integers(len(x)))]
    squares = row_squares(x)
    closest = squared_distances(x, x[chosen], squares)[:, 0].astype(np.float64)
    for _ in range(1, k):
        mass = np.cumsum(closest)
        if mass[-1] > 0:
            draws = np.searchsorted(mass, rng.random(candidates) * mass[-1], side="right")
            draws = np.minimum(draws, len(x) - 1)
        else:  # every row already is a centroid: duplicates are all there is left to take
            draws = rng.integers(len(x), size=candidates)
        trial = np.minimum(closest[:, None], squared_distances(x, x[draws], squares))
        best = int(trial.sum(0).argmin())
        chosen.append(int(draws[best]))
        closest = trial[:, best]
    return x[chosen].copy()


def lloyd(x: Float32, centroids: Float32, max_iter: int = 100, tol: float = 1e-4) -> tuple[Float32, float, int]:
    """Lloyd's iterations from the given centroids.

    Stops when labels no longer change, or when the centroids moved by less than `tol` times the mean variance of x
    (scikit-learn's rule). A cluster that loses all its rows takes over the row farthest from its own centroid.

    Two things make it fast and change no label: sums are carried on and only rows that changed cluster are moved; and
    a row is looked at again only if its nearest centroid could have changed, by Hamerly's bounds (2010): `upper` on
    the distance to its own centroid, `lower` on that to any other.

    Returns:
        centroids float32 [k, d]; inertia = sum_i min_j ||x_i - c_j||^2 for those centroids; iterations done.
    """
    n, k = len(x), len(centroids)
    squares = row_squares(x)
    threshold = tol * float(squares.mean() - (x.mean(0) ** 2).sum()) / x.shape[1]
    labels, lower, upper = np.full(n, -1), np.zeros(n, np.float32), np.full(n, np.inf, np.float32)
    sums = np.zeros((k, x.shape[1]), np.float64)
    iterations = 0
    while iterations < max_iter:
        iterations += 1
        rows = np.flatnonzero(upper >= lower * (1 - _SLACK))
        found, upper[rows], lower[rows] = _two_nearest(x, rows, centroids, squares)
        changed, old, new = _changes(labels, rows, found, upper, lower, k)
        if not len(changed):
            break
        _move(sums, x, changed, old, new)
        updated = (sums / np.maximum(np.bincount(labels, minlength=k), 1)[:, None]).astype(np.float32)
        moved = np.sqrt(((updated - centroids) ** 2).sum(1))
        centroids = updated
        if float((moved**2).sum()) <= threshold:
            break
        upper += moved[labels]
        lower -= _largest_other(moved)[labels]
    return centroids, float(nearest(x, centroids, squares)[1].sum(dtype=np.float64)), iterations


def kmeans(
    x: npt.NDArray[np.floating],
    k: int,
    rng: np.random.Generator,
    *,
    max_iter: int = 100,
    tol: float = 1e-4,
) -> tuple[Float32, float]:
    """Centroids (float32 [k, d]) and inertia of x (float [n, d]).

    With fewer than k rows, every row is a centroid of its own.

    >>> x = np.array([[0.0], [0.2], [9.0], [9.2]])
    >>> centroids, inertia = kmeans(x, 2, np.random.default_rng(0))
    >>> np.sort(centroids.ravel()).round(3), round(inertia, 3)
    (array([0.1, 9.1], dtype=float32), 0.04)
    """
    if not len(x):
        raise ValueError("KMeans needs at least one row")
    if len(x) <= k:
        return x.astype(np.float32), 0.0
    centre = centre_of(x)
    near = x.astype(np.float32, copy=False) if centre is None else (x - centre).astype(np.float32, copy=False)
    centroids, inertia, _ = lloyd(near, kmeans_plus_plus(near, k, rng), max_iter, tol)
    return (centroids if centre is None else centroids + centre), inertia


def centre_of(x: npt.NDArray[np.floating]) -> Float32 | None:
    """The mean of x (float32 [d]), to be taken off first: distances by matrix product lose digits far from zero.

    None for data whose mean is small beside its spread: it may stay where it is, uncopied.
    """
    mean = x.mean(0, dtype=np.float64)
    single = x.astype(np.float32, copy=False)
    if (mean**2).sum() <= row_squares(single).mean(dtype=np.float64) / 2:
        return None
    out: Float32 = mean.astype(np.float32)
    return out


def row_squares(x: Float32) -> Float32:
    """||x_i||^2, float32 [n]."""
    out: Float32 = np.einsum("ij,ij->i", x, x)
    return out


def _two_nearest(x: Float32, rows: Int64, centroids: Float32, squares: Float32) -> tuple[Int64, Float32, Float32]:
    """For those rows of x: the nearest centroid, the distance to it, and the distance to the next nearest."""
    labels, first = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    second = np.empty(len(rows), np.float32)
    half = row_squares(centroids) / 2
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        score = x[rows[part]] @ centroids.T
        score -= half
        best = score.argmax(1)
        each = np.arange(len(best))
        labels[part], first[part] = best, score[each, best]
        score[each, best] = -np.inf
        second[part] = score.max(1)
    for top in (first, second):
        top *= -2
        top += squares[rows]
        np.sqrt(np.maximum(top, 0, out=top), out=top)
    return labels, first, second


def _changes(
    labels: Int64, rows: Int64, found: Int64, upper: Float32, lower: Float32, k: int
) -> tuple[Int64, Int64, Int64]:
    """Set `labels[rows]` to what was found and fill clusters left empty; which rows changed, from what, to what."""
    before = labels.copy()
    labels[rows] = found
    empty = np.flatnonzero(np.bincount(labels, minlength=k) == 0)
    if len(empty):
        farthest = np.argsort(upper)[::-1][: len(empty)]
        labels[farthest] = empty
        lower[farthest] = 0  # the bounds were of another centroid: look at these rows again
    changed = np.flatnonzero(labels != before)
    return changed, before[changed], labels[changed]


def _move(sums: npt.NDArray[np.float64], x: Float32, rows: Int64, old: Int64, new: Int64) -> None:
    """Update the clusters' sums for rows of x that went from cluster `old` (-1: from none) to cluster `new`."""
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        each = np.arange(len(rows[part]))
        member = np.zeros((len(sums), len(each)), np.float32)
        member[new[part], each] = 1
        known = old[part] >= 0
        member[old[part][known], each[known]] -= 1
        sums += member @ x[rows[part]]


def _largest_other(moved: Float32) -> Float32:
    """For each cluster, the largest movement of any other."""
    if len(moved) == 1:
        return np.zeros(1, np.float32)
    order = np.argsort(moved)
    out = np.full(len(moved), moved[order[-1]])
    out[order[-1]] = moved[order[-2]]
    return out
