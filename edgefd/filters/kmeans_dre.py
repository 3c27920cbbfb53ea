"""`KMeansDRE`: a density-ratio estimator that costs k centroids (EdgeFD, arXiv 2508.14769)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Float64
from edgefd.filters.cross_fit import CrossFitted, cross_fit
from edgefd.filters.estimator import RatioEstimator, rows_of
from edgefd.filters.kmeans import BLOCK, centre_of, kmeans, nearest
from edgefd.filters.log_density import LogDensity

_SMALLEST = 1e-6  # the log of a distance of zero (x is a centroid) must be finite
_ROWS_PER_REFERENCE_CENTROID = 10  # with fewer, the centroids of a small reference set follow its single rows


@dataclass(eq=False, repr=False)
class KMeansDRE(RatioEstimator):
    """Log ratio of the density of the client's private data to that of a reference set, from distances to centroids.

    d_p(x) is the distance from x to the nearest centroid of the private data. d_q(x) is the same for a reference set:
    the proxy set, which every client has. The score is

        s(x) = log d_q(x) - log d_p(x)      reference="proxy": a true ratio
        s(x) = -log d_p(x)                  reference="none": the plain distance

    A higher score means that x is more like the private data. The centroids K_c of the paper are `centroids_`. A
    reference set of m rows is divided into two random halves with min(k, m // 10) centroids each, but at least one. A
    row of one half takes d_q from the other half, any other row the geometric mean of both (`CrossFitted`). Without
    the halves, a row that pulled a centroid of the proxy set towards itself could not be accepted.
    docs/methods/edgefd.md lists what the paper leaves open and what is chosen here.

    >>> rng = np.random.default_rng(0)
    >>> private, proxy = rng.normal(0, 1, (200, 2)), rng.normal([[0, 0]] * 50 + [[9, 9]] * 50, 1)
    >>> dre = KMeansDRE(n_clusters=2).fit(private, reference=proxy)
    >>> s = dre.score_samples(proxy)
    >>> bool(s[:50].min() > s[50:].max())
    True
    """

    n_clusters: int = 10
    """k, the number of centroids of the private data; with fewer rows, every row is a centroid"""
    reference: Literal["proxy", "none"] = "proxy"
    """whether the score is the ratio to a reference set, or the plain distance"""
    features: Literal["pixels", "pca"] = "pixels"
    """input of the estimator: the flattened sample, or its principal components in the reference set"""
    n_components: int = 50
    """number of dimensions that "pca" keeps"""
    max_iter: int = 100
    """largest number of iterations of Lloyd's algorithm"""
    random_state: int = 0
    """seed"""

    def fit(self, X: npt.ArrayLike, y: None = None, *, reference: npt.ArrayLike | None = None) -> KMeansDRE:
        """Fit centroids on X [n, ...] and, if the score is a ratio, on `reference` [m, ...]; return the estimator.

        Samples of any shape and any real dtype are flattened to float32 rows.

        Raises:
            ValueError: for a parameter out of range, data that are not finite, or a missing reference.
        """
        self._check_positive("n_clusters", "max_iter")
        rows = rows_of(X)
        reference_rows = self._fit_projection(rows, reference)
        rng = np.random.default_rng(self.random_state)
        private = self._project(rows)
        self.centre_ = centre_of(private)
        self.centroids_, self.inertia_ = kmeans(private, self.n_clusters, rng, max_iter=self.max_iter)
        self.reference_: CrossFitted | None = None
        if self.reference == "proxy" and reference_rows is not None:
            k = min(self.n_clusters, max(1, len(reference_rows) // _ROWS_PER_REFERENCE_CENTROID))

            def fit(half: Float32) -> LogDensity:
                return self._density(kmeans(half, k, rng, max_iter=self.max_iter)[0])

            self.reference_ = cross_fit(reference_rows, self._project(reference_rows), fit, rng)
        self.n_features_in_ = rows.shape[1]
        return self

    def score_samples(self, X: npt.ArrayLike) -> Float32:
        """Return s(x), float32 [n]. A higher score means that x is more like the private data."""
        x = self._rows_to_score(X)
        blocks = range(0, len(x), BLOCK)  # each block stays in cache for all its operations
        return np.concatenate([self._scores(x[i : i + BLOCK]) for i in blocks])

    def _scores(self, x: Float32) -> Float32:
        projected = self._project(x)
        score = self._density(self.centroids_)(projected)
        if self.reference_ is not None:
            score -= self.reference_(x, projected)
        return score.astype(np.float32)

    def _density(self, centroids: Float32) -> LogDensity:
        """Return minus the log distance to the nearest centroid, as a function of rows that pickle can store."""
        return functools.partial(_log_nearness, centroids=centroids, centre=self.centre_)


def _log_nearness(rows: Float32, centroids: Float32, centre: Float32 | None) -> Float64:
    if centre is not None:  # distances by matrix product lose digits far from zero
        rows, centroids = rows - centre, centroids - centre
    return -np.log(np.sqrt(nearest(rows, centroids)[1].astype(np.float64)) + _SMALLEST)
