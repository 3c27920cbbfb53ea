"""Log densities for `DensityRatio`. A device has no scikit-learn, so it is imported only where it is used.

Each function takes rows x, float32 [n, d], the rows `spacing` whose distances determine the width of a kernel, and a
seed. It returns a function from rows [m, d] to their log density under x, float64 [m], up to a constant. Log densities
are divided by the number of dimensions (log p(x) / d), so that they are comparable with distances to centroids.
Otherwise, in the hundreds of dimensions of an image, every soft weight exp(-beta r / T) would be 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgefd.core.arrays import Float32, Float64
from edgefd.core.errors import require
from edgefd.filters.kmeans import BLOCK, row_squares, squared_distances

LogDensity = Callable[[Float32], Float64]
"""Maps rows [m, d] to their log density, float64 [m]."""

NEIGHBOURS = 5
_SMALLEST = 1e-6  # the log of a distance of zero must be finite
_RIDGE = 1e-6  # variance of a dimension in which all private rows are equal


def kde(x: Float32, spacing: Float32, seed: int) -> LogDensity:
    """Fit Gaussian kernels of width h, where h^2 d is the mean squared distance of a `spacing` row to its nearest row.

    Both densities of a ratio take the same `spacing` rows, and therefore the same h. Otherwise, far from all rows, the
    density with the larger h would be larger by a factor whose log grows with the square of the distance.
    """
    require("sim", "sklearn")
    from sklearn.neighbors import KernelDensity, NearestNeighbors

    width = 1.0  # if there is only one row
    if len(spacing) > 1:
        to_next = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(spacing).kneighbors()[0]
        width = float(np.sqrt((to_next**2).mean() / x.shape[1])) or 1.0
    kernels = KernelDensity(bandwidth=width).fit(x)
    return lambda rows: np.asarray(kernels.score_samples(rows)) / x.shape[1]


def knn(x: Float32, spacing: Float32, seed: int) -> LogDensity:
    """Return -log r(x), where r is the distance to the 5th nearest row.

    It is log p(x) / d, up to a constant, of the nearest-neighbour estimate k / (n V r^d). It needs only matrix products
    and a partition in numpy, so it runs on devices.
    """
    k, centre = min(NEIGHBOURS, len(x)) - 1, x.mean(0)  # distances by matrix product lose digits far from zero
    centred = x - centre

    def log_density(rows: Float32) -> Float64:
        blocks = (rows[i : i + BLOCK] - centre for i in range(0, len(rows), BLOCK))
        squares = [np.partition(squared_distances(b, centred, row_squares(b)), k, axis=1)[:, k] for b in blocks]
        return -np.log(np.sqrt(np.concatenate(squares), dtype=np.float64) + _SMALLEST)

    return log_density


def mahalanobis(x: Float32, spacing: Float32, seed: int) -> LogDensity:
    """Fit one Gaussian: -(x - m)^T S^-1 (x - m) / (2 d), with the covariance S shrunk as by Ledoit and Wolf (2004)."""
    require("sim", "sklearn")
    from sklearn.covariance import LedoitWolf

    samples, unit = x.astype(np.float64), np.eye(x.shape[1])
    mean = samples.mean(0)
    # LedoitWolf would compute a pseudo-inverse, which takes minutes in pixel space and is not needed. One row has no
    # covariance.
    covariance = LedoitWolf(store_precision=False).fit(samples).covariance_ if len(x) > 1 else unit
    whiten = np.linalg.inv(np.linalg.cholesky(covariance + _RIDGE * unit))
    return lambda rows: -(((rows - mean) @ whiten.T) ** 2).sum(1) / (2 * x.shape[1])


def isolation_forest(x: Float32, spacing: Float32, seed: int) -> LogDensity:
    """Fit an isolation forest: -log a(x), where a = 2^(-E h(x) / c(n)) is the anomaly score of Liu et al. (2008).

    It is proportional to the mean depth of x.
    """
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
