"""`Reference`: the part of `KMeansDRE` that depends on the proxy set alone, so it is the same for all clients."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32, Float64
from edgefd.filters.cross_fit import CrossFitted
from edgefd.filters.kmeans import BLOCK, nearest
from edgefd.filters.log_density import LogDensity
from edgefd.filters.pca import PCA

_SMALLEST = 1e-6  # the log of a distance of zero (x is a centroid) must be finite


@dataclass(frozen=True, eq=False)
class Reference:
    """A fitted reference set. Clients that share one fit it once, and the scores of its own rows are computed once."""

    rows: Float32
    """the reference set, float32 [m, d]"""
    pca: PCA | None
    """projection that private rows and scored rows take too; None = none"""
    density: CrossFitted | None
    """minus the log distance to the nearest centroid, cross-fitted; None if the score is no ratio"""

    @functools.cached_property
    def _own(self) -> Float64:
        return self._of(self.rows)

    def log_density(self, x: Float32) -> Float64 | float:
        """Return log q(x) = -log d_q(x) of rows, float64 [n]; 0 if the score is no ratio."""
        if self.density is None:
            return 0.0
        return self._own if np.array_equal(x, self.rows) else self._of(x)

    def _of(self, x: Float32) -> Float64:
        assert self.density is not None
        blocks = (x[i : i + BLOCK] for i in range(0, len(x), BLOCK))
        return np.concatenate([self.density(b, b if self.pca is None else self.pca.transform(b)) for b in blocks])


def log_nearness(centroids: Float32, centre: Float32 | None) -> LogDensity:
    """Return -log of the distance to the nearest centroid, as a function of rows that pickle can store.

    `centre` is the mean of the fitted rows if they lie far from zero (`edgefd.filters.kmeans.centre_of`).
    """
    return functools.partial(_log_nearness, centroids=centroids, centre=centre)


def _log_nearness(rows: Float32, centroids: Float32, centre: Float32 | None) -> Float64:
    if centre is not None:  # distances by matrix product lose digits far from zero
        rows, centroids = rows - centre, centroids - centre
    return -np.log(np.sqrt(nearest(rows, centroids)[1].astype(np.float64)) + _SMALLEST)
