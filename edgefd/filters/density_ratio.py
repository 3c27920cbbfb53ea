"""`DensityRatio`: other density estimators in the place of `KMeansDRE`, with its interface."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Float64
from edgefd.filters.kmeans_dre import rows_of
from edgefd.filters.kulsif import KuLSIF
from edgefd.filters.log_density import LOG_DENSITIES, LogDensity
from edgefd.filters.pca import PCA

AUXILIARY = 250  # rows of the reference set that KuLSIF takes, as Selective-FD's code does
_SMALLEST = 1e-12  # a least-squares ratio may be zero or below; it must have a finite log


class DensityRatio:
    """How much more likely a sample is under a client's private data than elsewhere.

        s(x) = log p(x) - log q(x)      reference="proxy"; q is fitted on the reference set
        s(x) = log p(x)                 reference="none"

    The higher, the more x looks like private data. p and q are of `edgefd.filters.log_density`; "kulsif" fits the ratio
    itself, s(x) = log r(x).

    The reference set is the proxy set, and its rows are what is scored: a row would be dense where it stands, by
    itself. So q is fitted on two halves, a row of one is scored by the other, and any other row by the mean of both.

    Args:
        estimator: kde, knn, mahalanobis, isolation_forest or kulsif. All but knn and kulsif need
            scikit-learn.
        reference: "proxy" or "none", see above; kulsif is a ratio, and has "proxy" only.
        features: "pixels" (the flattened sample) or "pca" (fitted on the reference set).
        n_components: dimensions that "pca" keeps.
        random_state: int seed.

    >>> rng = np.random.default_rng(0)
    >>> private, proxy = rng.normal(0, 1, (200, 2)), rng.normal([[0, 0]] * 50 + [[9, 9]] * 50, 1)
    >>> s = DensityRatio("knn").fit(private, reference=proxy).score_samples(proxy)
    >>> bool(s[:50].min() > s[50:].max())
    True
    """

    def __init__(
        self,
        estimator: str,
        reference: Literal["proxy", "none"] = "proxy",
        features: Literal["pixels", "pca"] = "pixels",
        n_components: int = 50,
        random_state: int = 0,
    ) -> None:
        self.estimator = estimator
        self.reference = reference
        self.features = features
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: None = None, *, reference: npt.ArrayLike | None = None) -> DensityRatio:
        """Fit on X [n, ...] and, where the score is a ratio, on `reference` [m, ...], two rows or more.

        Raises:
            ValueError: for a parameter out of range, data not finite, or a missing or too small reference.
            UserError: if scikit-learn is needed and not installed, or kulsif would not fit in memory.
        """
        self._check_parameters()
        private, others = rows_of(X), self._checked_reference(reference)
        if others is not None and others.shape[1] != private.shape[1]:
            raise ValueError(f"reference has {others.shape[1]} features, X has {private.shape[1]}")
        self.pca_ = PCA(self.n_components).fit(others) if self.features == "pca" and others is not None else None
        rng = np.random.default_rng(self.random_state)
        near = self._project(private)
        self.half_of_: dict[bytes, int] = {}
        self.halves_: tuple[LogDensity, ...] = ()
        if self.estimator == "kulsif":
            assert others is not None
            self.private_ = _log_kulsif(near, self._project(others), rng)
        elif self.reference == "proxy" and others is not None:
            spacing = self._project(others)
            self.private_ = LOG_DENSITIES[self.estimator](near, spacing, self.random_state)
            self.half_of_, self.halves_ = self._fit_halves(others, spacing, rng)
        else:
            self.private_ = LOG_DENSITIES[self.estimator](near, near, self.random_state)
        self.n_features_in_ = private.shape[1]
        return self

    def score_samples(self, X: npt.ArrayLike) -> Float32:
        """s(x), float32 [n]: high where x looks like the private data."""
        if not hasattr(self, "n_features_in_"):
            raise ValueError("this DensityRatio is not fitted yet: call fit first")
        x = rows_of(X)
        if x.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {x.shape[1]} features, but DensityRatio expects {self.n_features_in_} features")
        projected = self._project(x)
        score = self.private_(projected)
        if self.halves_:
            score -= self._log_reference(x, projected)
        return score.astype(np.float32)

    def _fit_halves(
        self, others: Float32, projected: Float32, rng: np.random.Generator
    ) -> tuple[dict[bytes, int], tuple[LogDensity, ...]]:
        """Which half a row is in, and the densities of both."""
        order = rng.permutation(len(others))
        halves = [np.sort(rows) for rows in (order[: len(order) // 2], order[len(order) // 2 :])]
        fit = LOG_DENSITIES[self.estimator]
        densities = tuple(fit(projected[rows], projected, self.random_state) for rows in halves)
        return {others[i].tobytes(): h for h, rows in enumerate(halves) for i in rows}, densities

    def _log_reference(self, x: Float32, projected: Float32) -> Float64:
        first, second = (half(projected) for half in self.halves_)
        half_of = np.array([self.half_of_.get(row.tobytes(), -1) for row in x])
        return np.select([half_of == 0, half_of == 1], [second, first], (first + second) / 2)

    def _check_parameters(self) -> None:
        if self.estimator not in (*LOG_DENSITIES, "kulsif"):
            raise ValueError(f"estimator must be {', '.join(LOG_DENSITIES)} or kulsif, not {self.estimator!r}")
        if self.reference not in ("proxy", "none"):
            raise ValueError(f"reference must be proxy or none, not {self.reference!r}")
        if self.estimator == "kulsif" and self.reference == "none":
            raise ValueError("kulsif estimates a ratio: it needs reference='proxy'")
        if self.features not in ("pixels", "pca"):
            raise ValueError(f"features must be pixels or pca, not {self.features!r}")
        if self.n_components < 1:
            raise ValueError(f"n_components must be at least 1, not {self.n_components}")

    def _checked_reference(self, reference: npt.ArrayLike | None) -> Float32 | None:
        if self.reference == "none" and self.features == "pixels":
            return None
        if reference is None:
            raise ValueError("reference='proxy' and features='pca' need the reference set: fit(X, reference=...)")
        rows = rows_of(reference)
        if len(rows) < 2:
            raise ValueError("the reference set needs two rows or more")
        return rows

    def _project(self, x: Float32) -> Float32:
        return x if self.pca_ is None else self.pca_.transform(x)


def _log_kulsif(private: Float32, others: Float32, rng: np.random.Generator) -> LogDensity:
    auxiliary = others[np.sort(rng.permutation(len(others))[:AUXILIARY])]
    ratio = KuLSIF().fit(private, reference=auxiliary)
    return lambda rows: np.log(np.maximum(ratio.score_samples(rows).astype(np.float64), _SMALLEST))
