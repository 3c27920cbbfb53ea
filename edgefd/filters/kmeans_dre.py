"""`KMeansDRE`: a density-ratio estimator that costs k centroids (EdgeFD, arXiv 2508.14769)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32
from edgefd.filters.cross_fit import cross_fit
from edgefd.filters.estimator import RatioEstimator, reference_rows, rows_of
from edgefd.filters.kmeans import BLOCK, centre_of, kmeans
from edgefd.filters.log_density import LogDensity
from edgefd.filters.pca import PCA
from edgefd.filters.reference import Reference, log_nearness

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

    def fit(self, X: npt.ArrayLike, y: None = None, *, reference: npt.ArrayLike | Reference | None = None) -> KMeansDRE:
        """Fit centroids on X [n, ...] and, if the score is a ratio, on `reference` [m, ...]; return the estimator.

        Samples of any shape and any real dtype are flattened to float32 rows. Clients with the same reference set pass
        what `fit_reference` returned, with the same parameters, so that it is fitted once.

        Raises:
            ValueError: for a parameter out of range, data that are not finite, or a missing reference.
        """
        rows = rows_of(X)
        self.reference_ = self._reference(reference, rows)
        self.pca_ = None if self.reference_ is None else self.reference_.pca
        private = self._project(rows)
        self.centre_ = centre_of(private)
        rng = np.random.default_rng(self.random_state)
        self.centroids_, self.inertia_ = kmeans(private, self.n_clusters, rng, max_iter=self.max_iter)
        self.n_features_in_ = rows.shape[1]
        return self

    def fit_reference(self, reference: npt.ArrayLike) -> Reference:
        """Fit the centroids, and the projection, that depend on the reference set [m, ...] alone.

        Raises:
            ValueError: for a parameter out of range, or data that are not finite.
        """
        self._check_parameters()
        rows = rows_of(reference)
        pca = PCA(self.n_components).fit(rows) if self.features == "pca" else None
        if self.reference == "none":
            return Reference(rows, pca, None)
        projected = rows if pca is None else pca.transform(rows)
        rng, centre = np.random.default_rng(self.random_state), centre_of(projected)
        k = min(self.n_clusters, max(1, len(rows) // _ROWS_PER_REFERENCE_CENTROID))

        def fit(half: Float32) -> LogDensity:
            return log_nearness(kmeans(half, k, rng, max_iter=self.max_iter)[0], centre)

        return Reference(rows, pca, cross_fit(rows, projected, fit, rng))

    def _reference(self, reference: npt.ArrayLike | Reference | None, private: Float32) -> Reference | None:
        self._check_parameters()
        if reference is None:
            self._check_needs_no_reference()
            return None
        if not isinstance(reference, Reference):
            reference = self.fit_reference(reference_rows(reference, private))
        return reference

    def _check_parameters(self) -> None:
        self._check_positive("n_clusters", "max_iter")
        self._check_choices()

    def score_samples(self, X: npt.ArrayLike) -> Float32:
        """Return s(x), float32 [n]. A higher score means that x is more like the private data."""
        x, log_p = self._rows_to_score(X), log_nearness(self.centroids_, self.centre_)
        blocks = range(0, len(x), BLOCK)  # each block stays in cache for all its operations
        score = np.concatenate([log_p(self._project(x[i : i + BLOCK])) for i in blocks])
        if self.reference_ is not None:
            score -= self.reference_.log_density(x)
        return score.astype(np.float32)
