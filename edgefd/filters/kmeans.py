"""KMeans in numpy: k-means++ and Lloyd's iterations, with distances computed by matrix products.

The project has its own implementation because the filter is its purpose, and devices have no scikit-learn.
The tests compare it with `KMeans` of scikit-learn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64

BLOCK = 1024  # rows that are processed together: they stay in cache, and no copy of the data is larger
_SLACK = 1e-5  # bounds are float32 sums: in case of doubt, the distances of a row are computed again


def squared_distances(x: Float32, centroids: Float32, squares: Float32) -> Float32:
    """Return ||x_i - c_j||^2, float32 [n, k], as `squares` - 2 x c + ||c||^2, with `squares` = ||x||^2, at least 0."""
    cross = x @ centroids.T
    cross *= -2
    cross += squares[:, None]
    cross += row_squares(centroids)
    out: Float32 = np.maximum(cross, 0, out=cross)
    return out


def nearest(x: Float32, centroids: Float32, squares: Float32 | None = None) -> tuple[Int64, Float32]:
    """Return the index of the nearest centroid of each row of x, int64 [n], and its squared distance, float32 [n].

    `squares`, ||x_i||^2, saves work if the caller has computed it.
    """
    squares = row_squares(x) if squares is None else squares
    labels = np.empty(len(x), np.int64)
    distances = np.empty(len(x), np.float32)
    half = row_squares(centroids) / 2
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        score = block @ centroids.T  # the nearest centroid maximises x c - ||c||^2 / 2, without ||x||^2
        score -= half
        best = score.argmax(1)
        labels[start : start + BLOCK] = best
        top = score[np.arange(len(block)), best]
        distances[start : start + BLOCK] = -2 * top
    distances += squares
    return labels, np.maximum(distances, 0, out=distances)


def kmeans_plus_plus(x: Float32, k: int, rng: np.random.Generator) -> Float32:
    """Choose k initial centroids by greedy k-means++ (Arthur and Vassilvitskii 2007), 2 + log k candidates per step."""
    candidates = 2 + int(np.log(k))
    chosen = [int(rng.integers(len(x)))]
    squares = row_squares(x)
    closest = squared_distances(x, x[chosen], squares)[:, 0].astype(np.float64)
    for _ in range(1, k):
        mass = np.cumsum(closest)
        if mass[-1] > 0:
            draws = np.searchsorted(mass, rng.random(candidates) * mass[-1], side="right")
            draws = np.minimum(draws, len(x) - 1)
        else:  # every row is a centroid already, so only duplicates are left
            draws = rng.integers(len(x), size=candidates)
        trial = np.minimum(closest[:, None], squared_distances(x, x[draws], squares))
        best = int(trial.sum(0).argmin())
        chosen.append(int(draws[best]))
        closest = trial[:, best]
    return x[chosen].copy()


def lloyd(x: Float32, centroids: Float32, max_iter: int = 100, tol: float = 1e-4) -> tuple[Float32, float, int]:
    """Run Lloyd's iterations from the given centroids.

    They stop when labels no longer change, or when the centroids move by less than `tol` times the mean variance of x
    (the rule of scikit-learn). A cluster without rows takes the row that is farthest from its centroid.

    Two optimisations change no label. The sums of the clusters are kept, and only rows that change their cluster are
    moved. The distances of a row are computed again only if its nearest centroid could have changed, according to the
    bounds of Hamerly (2010): `upper` on the distance to its centroid, `lower` on the distance to any other centroid.

    Returns:
        centroids float32 [k, d]; inertia = sum_i min_j ||x_i - c_j||^2 for those centroids; number of iterations.
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
        new_labels, upper[rows], lower[rows] = _two_nearest(x, rows, centroids, squares)
        changed, old, new = _changes(labels, rows, new_labels, upper, lower, k)
        if not len(changed):
            break
        _move(sums, x, changed, old, new)
        updated = (sums / np.maximum(np.bincount(labels, minlength=k), 1)[:, None]).astype(np.float32)
        shifts = np.sqrt(((updated - centroids) ** 2).sum(1))
        centroids = updated
        if float((shifts**2).sum()) <= threshold:
            break
        upper += shifts[labels]
        lower -= _largest_other(shifts)[labels]
    return centroids, float(nearest(x, centroids, squares)[1].sum(dtype=np.float64)), iterations


def kmeans(
    x: npt.NDArray[np.floating], k: int, rng: np.random.Generator, *, max_iter: int = 100, tol: float = 1e-4
) -> tuple[Float32, float]:
    """Return centroids, float32 [k, d], and the inertia of x, float [n, d].

    With k rows or fewer, every row is a centroid.

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
    """Return the mean of x, float32 [d], which the caller subtracts from the data, or None.

    Distances by matrix product lose digits far from zero. None means that the mean is small compared with the spread,
    so that the data can be used without a copy.
    """
    mean = x.mean(0, dtype=np.float64)
    single = x.astype(np.float32, copy=False)
    if (mean**2).sum() <= row_squares(single).mean(dtype=np.float64) / 2:
        return None
    out: Float32 = mean.astype(np.float32)
    return out


def row_squares(x: Float32) -> Float32:
    """Return ||x_i||^2, float32 [n]."""
    out: Float32 = np.einsum("ij,ij->i", x, x)
    return out


def _two_nearest(x: Float32, rows: Int64, centroids: Float32, squares: Float32) -> tuple[Int64, Float32, Float32]:
    """Return for these rows of x the nearest centroid, the distance to it, and the distance to the second nearest."""
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
    labels: Int64, rows: Int64, new_labels: Int64, upper: Float32, lower: Float32, k: int
) -> tuple[Int64, Int64, Int64]:
    """Set `labels[rows]` to `new_labels` and fill empty clusters.

    Returns:
        The rows whose label changed, their old labels, and their new labels.
    """
    before = labels.copy()
    labels[rows] = new_labels
    empty = np.flatnonzero(np.bincount(labels, minlength=k) == 0)
    if len(empty):
        farthest = np.argsort(upper)[::-1][: len(empty)]
        labels[farthest] = empty
        lower[farthest] = 0  # the bounds belonged to another centroid: compute the distances of these rows again
    changed = np.flatnonzero(labels != before)
    return changed, before[changed], labels[changed]


def _move(sums: npt.NDArray[np.float64], x: Float32, rows: Int64, old: Int64, new: Int64) -> None:
    """Update the sums of the clusters for rows of x that move from cluster `old` (-1: none) to cluster `new`."""
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        each = np.arange(len(rows[part]))
        member = np.zeros((len(sums), len(each)), np.float32)
        member[new[part], each] = 1
        has_old = old[part] >= 0
        member[old[part][has_old], each[has_old]] -= 1
        sums += member @ x[rows[part]]


def _largest_other(shifts: Float32) -> Float32:
    """Return for each cluster the largest shift of any other cluster."""
    if len(shifts) == 1:
        return np.zeros(1, np.float32)
    order = np.argsort(shifts)
    out = np.full(len(shifts), shifts[order[-1]])
    out[order[-1]] = shifts[order[-2]]
    return out
