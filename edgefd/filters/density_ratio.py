"""`DensityRatio`: other density estimators with the interface of `KMeansDRE`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32
from edgefd.filters.cross_fit import CrossFitted, cross_fit
from edgefd.filters.estimator import RatioEstimator, rows_of
from edgefd.filters.kulsif import KuLSIF
from edgefd.filters.log_density import LOG_DENSITIES, LogDensity

AUXILIARY = 250  # rows of the reference set that KuLSIF uses, as in the code of Selective-FD
_SMALLEST = 1e-12  # a least-squares ratio may be zero or negative, but its log must be finite


@dataclass(eq=False, repr=False)
class DensityRatio(RatioEstimator):
    """Log ratio of the density of the client's private data to the density of a reference set.

        s(x) = log p(x) - log q(x)      reference="proxy"; q is fitted on the reference set
        s(x) = log p(x)                 reference="none"

    A higher score means that x is more like the private data. p and q are densities of `edgefd.filters.log_density`.
    "kulsif" fits the ratio itself, s(x) = log r(x).

    The reference set is the proxy set, and its rows are the rows that are scored. A row must not influence its own
    score, because a density q that is fitted on a row is large at this row. Therefore q is cross-fitted
    (`CrossFitted`).

    Args:
        estimator: "kde", "knn", "mahalanobis", "isolation_forest" or "kulsif". All except knn and kulsif need
            scikit-learn.
        reference: "proxy" or "none", see above. kulsif estimates a ratio and needs "proxy".
        features: "pixels" (the flattened sample) or "pca" (fitted on the reference set).
        n_components: number of dimensions that "pca" keeps.
        random_state: seed, an int.

    >>> rng = np.random.default_rng(0)
    >>> private, proxy = rng.normal(0, 1, (200, 2)), rng.normal([[0, 0]] * 50 + [[9, 9]] * 50, 1)
    >>> s = DensityRatio("knn").fit(private, reference=proxy).score_samples(proxy)
    >>> bool(s[:50].min() > s[50:].max())
    True
    """

    estimator: str
    reference: Literal["proxy", "none"] = "proxy"
    features: Literal["pixels", "pca"] = "pixels"
    n_components: int = 50
    random_state: int = 0

    def fit(self, X: npt.ArrayLike, y: None = None, *, reference: npt.ArrayLike | None = None) -> DensityRatio:
        """Fit on X [n, ...] and, if the score is a ratio, on `reference` [m, ...] with two rows or more.

        Raises:
            ValueError: for a parameter out of range, data that are not finite, or a missing or too small reference.
            UserError: if scikit-learn is needed and not installed, or if kulsif would not fit in memory.
        """
        if self.estimator not in (*LOG_DENSITIES, "kulsif"):
            raise ValueError(f"estimator must be {', '.join(LOG_DENSITIES)} or kulsif, not {self.estimator!r}")
        if self.estimator == "kulsif" and self.reference == "none":
            raise ValueError("kulsif estimates a ratio: set reference='proxy'")
        private = rows_of(X)
        reference_rows = self._fit_projection(private, reference)
        if reference_rows is not None and len(reference_rows) < 2:
            raise ValueError(f"the reference set has {len(reference_rows)} row, but needs two rows or more")
        rng = np.random.default_rng(self.random_state)
        projected = self._project(private)
        self.reference_: CrossFitted | None = None
        if self.estimator == "kulsif":
            assert reference_rows is not None
            self.private_ = _log_kulsif(projected, self._project(reference_rows), rng)
        elif self.reference == "proxy" and reference_rows is not None:
            spacing = self._project(reference_rows)
            self.private_ = LOG_DENSITIES[self.estimator](projected, spacing, self.random_state)
            self.reference_ = cross_fit(
                reference_rows,
                spacing,
                lambda half: LOG_DENSITIES[self.estimator](half, spacing, self.random_state),
                rng,
            )
        else:
            self.private_ = LOG_DENSITIES[self.estimator](projected, projected, self.random_state)
        self.n_features_in_ = private.shape[1]
        return self

    def score_samples(self, X: npt.ArrayLike) -> Float32:
        """Return s(x), float32 [n]. A higher score means that x is more like the private data."""
        x = self._rows_to_score(X)
        projected = self._project(x)
        score = self.private_(projected)
        if self.reference_ is not None:
            score -= self.reference_(x, projected)
        return score.astype(np.float32)


def _log_kulsif(private: Float32, reference: Float32, rng: np.random.Generator) -> LogDensity:
    auxiliary = reference[np.sort(rng.permutation(len(reference))[:AUXILIARY])]
    ratio = KuLSIF().fit(private, reference=auxiliary)
    return lambda rows: np.log(np.maximum(ratio.score_samples(rows).astype(np.float64), _SMALLEST))
