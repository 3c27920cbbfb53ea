"""KMeans in numpy: k-means++ and Lloyd, with distances by matrix product.

It is ours because the filter is what the project exists for and must run on devices that have no scikit-learn.
scikit-learn's `KMeans` is its oracle in the tests.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgefd.knowledge import Float32, Int64

_BLOCK = 4096  # rows whose distances are held at once: 4096 x k floats stay in cache


def squared_distances(x: Float32, centroids: Float32, squares: Float32) -> Float32:
    """||x_i - c_j||^2 as float32 [n, k], from `squares` = ||x||^2 less 2 x c plus ||c||^2, never below zero."""
    cross = x @ centroids.T
    cross *= -2
    cross += squares[:, None]
    cross += _squares(centroids)
    out: Float32 = np.maximum(cross, 0, out=cross)
    return out


def nearest(x: Float32, centroids: Float32, squares: Float32 | None = None) -> tuple[Int64, Float32]:
    """For each row of x the index of its nearest centroid (int64 [n]) and the squared distance to it (float32 [n]).

    `squares`, ||x_i||^2, saves work where the caller has it.
    """
    squares = _squares(x) if squares is None else squares
    labels = np.empty(len(x), np.int64)
    distances = np.empty(len(x), np.float32)
    half = _squares(centroids) / 2
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK]
        score = block @ centroids.T  # the nearest centroid maximises x c - ||c||^2 / 2: no need of ||x||^2
        score -= half
        best = score.argmax(1)
        labels[start : start + _BLOCK] = best
        top = score[np.arange(len(block)), best]
        distances[start : start + _BLOCK] = -2 * top
    distances += squares
    return labels, np.maximum(distances, 0, out=distances)


def kmeans_plus_plus(x: Float32, k: int, rng: np.random.Generator) -> Float32:
    """K starting centroids by greedy k-means++ (Arthur and Vassilvitskii 2007), 2 + log k candidates a step."""
    candidates = 2 + int(np.log(k))
    chosen = [int(rng.integers(len(x)))]
    squares = _squares(x)
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
    (scikit-learn's rule). A cluster that loses all its rows takes over the row farthest from its own centroid. Sums are
    carried from one iteration to the next and only rows that changed cluster are moved, which late on are few.

    Returns:
        centroids float32 [k, d]; inertia = sum_i min_j ||x_i - c_j||^2 for those centroids; iterations done.
    """
    squares = _squares(x)
    threshold = tol * float(squares.mean() - (x.mean(0) ** 2).sum()) / x.shape[1]
    labels = np.full(len(x), -1)
    sums = np.zeros((len(centroids), x.shape[1]), np.float64)
    iterations = 0
    while iterations < max_iter:
        iterations += 1
        new, distances = nearest(x, centroids, squares)
        new = _fill_empty(new, distances, len(centroids))
        changed = np.flatnonzero(new != labels)
        if not len(changed):
            break
        sums += _moved(x[changed], labels[changed], new[changed], len(centroids))
        labels = new
        updated = (sums / np.maximum(np.bincount(labels, minlength=len(centroids)), 1)[:, None]).astype(np.float32)
        shift = float(((updated - centroids) ** 2).sum())
        centroids = updated
        if shift <= threshold:
            break
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
    centre = x.mean(0, dtype=np.float64).astype(np.float32)  # distances by matrix product lose digits far from zero
    centred = x.astype(np.float32) - centre
    if len(x) <= k:
        return centred + centre, 0.0
    centroids, inertia, _ = lloyd(centred, kmeans_plus_plus(centred, k, rng), max_iter, tol)
    return centroids + centre, inertia


def _squares(x: Float32) -> Float32:
    out: Float32 = np.einsum("ij,ij->i", x, x)
    return out


def _fill_empty(labels: Int64, distances: Float32, k: int) -> Int64:
    """Labels in which every cluster without rows has been given one of the rows farthest from their centroids."""
    empty = np.flatnonzero(np.bincount(labels, minlength=k) == 0)
    if len(empty):
        labels[np.argsort(distances)[::-1][: len(empty)]] = empty
    return labels


def _moved(x: Float32, old: Int64, new: Int64, k: int) -> Float32:
    """How the clusters' sums change when the rows x go from cluster `old` (-1: from none) to cluster `new`."""
    member = np.zeros((k, len(x)), np.float32)
    rows = np.arange(len(x))
    member[new, rows] = 1
    known = old >= 0
    member[old[known], rows[known]] -= 1
    return member @ x
