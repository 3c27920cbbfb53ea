"""Densities in the place of `KMeansDRE`'s distances. A device has no scikit-learn: it is imported when used.

Each function takes rows, float32 [n, d], the rows whose spacing sets a kernel's width, and a seed, and gives a function
from rows [m, d] to their log density under the first ones, float64 [m], up to a constant. It is that of one dimension
(log p(x) / d), as it is for distances to centroids: else in the hundreds of dimensions of an image a soft weight
exp(-beta r / T) would be 0 or 1 and nothing between.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgefd.core.arrays import Float32, Float64
from edgefd.core.errors import require
from edgefd.filters.kmeans import BLOCK, row_squares, squared_distances

LogDensity = Callable[[Float32], Float64]

NEIGHBOURS = 5
_SMALLEST = 1e-6  # a distance of zero must stay a finite log
_RIDGE = 1e-6  # variance of a dimension in which private rows do not differ


def kde(x: Float32, spacing: Float32, seed: int) -> LogDensity:
    """Gaussian kernels of width h, h^2 d = mean squared distance of a `spacing` row to its nearest other: log p(x) / d.

    Both densities of a ratio are given the same rows, so the same h: else the wider one would win, far from all rows,
    by the square of the distance.
    """
    require("sim", "sklearn")
    from sklearn.neighbors import KernelDensity, NearestNeighbors

    width = 1.0  # of a row alone
    if len(spacing) > 1:
        to_next = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(spacing).kneighbors()[0]
        width = float(np.sqrt((to_next**2).mean() / x.shape[1])) or 1.0
    kernels = KernelDensity(bandwidth=width).fit(x)
    return lambda rows: np.asarray(kernels.score_samples(rows)) / x.shape[1]


def knn(x: Float32, spacing: Float32, seed: int) -> LogDensity:
    """-log r(x), the distance to the 5th nearest row: log p(x) / d of the nearest-neighbour estimate k / (n V r^d).

    In numpy: matrix products and a partition are all it takes, and devices can have it.
    """
    k, centre = min(NEIGHBOURS, len(x)) - 1, x.mean(0)  # distances by matrix product lose digits far from zero
    near = x - centre

    def log_density(rows: Float32) -> Float64:
        blocks = (rows[i : i + BLOCK] - centre for i in range(0, len(rows), BLOCK))
        squares = [np.partition(squared_distances(b, near, row_squares(b)), k, axis=1)[:, k] for b in blocks]
        return -np.log(np.sqrt(np.concatenate(squares), dtype=np.float64) + _SMALLEST)

    return log_density


def mahalanobis(x: Float32, spacing: Float32, seed: int) -> LogDensity:
    """One Gaussian: -(x - m)^T S^-1 (x - m) / (2 d), S the covariance as Ledoit and Wolf (2004) shrink it."""
    require("sim", "sklearn")
    from sklearn.covariance import LedoitWolf

    samples, unit = x.astype(np.float64), np.eye(x.shape[1])
    mean = samples.mean(0)
    # Its own inverse would be a pseudo-inverse, of minutes in pixel space, for nothing. A row alone has no covariance.
    covariance = LedoitWolf(store_precision=False).fit(samples).covariance_ if len(x) > 1 else unit
    whiten = np.linalg.inv(np.linalg.cholesky(covariance + _RIDGE * unit))
    return lambda rows: -(((rows - mean) @ whiten.T) ** 2).sum(1) / (2 * x.shape[1])


def isolation_forest(x: Float32, spacing: Float32, seed: int) -> LogDensity:
    """-log a(x), a = 2^(-E h(x) / c(n)) the anomaly score of Liu et al. (2008): proportional to the mean depth of x."""
    require("sim", "sklearn")
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(n_estimators=100, random_state=seed).fit(x)
    return lambda rows: -np.log(-np.asarray(forest.score_samples(rows), np.float64))


LOG_DENSITIES: dict[str, Callable[[Float32, Float32, int], LogDensity]] = {
    "kde": kde,
    "knn": knn,
    "mahalanobis": mahalanobis,
    "isolation_forest": isolation_forest,
}
