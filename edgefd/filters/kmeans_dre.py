"""`KMeansDRE`: a density-ratio estimator that costs k centroids (EdgeFD, arXiv 2508.14769)."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32
from edgefd.filters.kmeans import BLOCK, centre_of, kmeans, nearest, row_squares
from edgefd.filters.pca import PCA

_SMALLEST = 1e-6  # the log of a distance of zero (x is a centroid) must be finite
_ROWS_PER_REFERENCE_CENTROID = 10  # with one row each, all reference rows have distance 0 and none is accepted


class KMeansDRE:
    """Log ratio of the density of the client's private data to that of a reference set, from distances to centroids.

    d_p(x) is the distance from x to the nearest centroid of the private data. d_q(x) is the same for a reference set:
    the proxy set, which every client has. The score is

        s(x) = log d_q(x) - log d_p(x)      reference="proxy": a true ratio
        s(x) = -log d_p(x)                  reference="none": the plain distance

    A higher score means that x is more like the private data. The centroids K_c of the paper are `centroids_`. A
    reference set of m rows has min(k, m // 10) centroids, but at least one: if its rows were centroids, d_q would be 0
    at all of them. docs/methods/edgefd.md lists what the paper leaves open and what is chosen here.

    Args:
        n_clusters: k, the number of centroids of the private data; with fewer rows, every row is a centroid.
        reference: "proxy" or "none", see above.
        features: "pixels" (the flattened sample) or "pca" (fitted on the reference set).
        n_components: number of dimensions that "pca" keeps.
        max_iter: largest number of iterations of Lloyd's algorithm.
        random_state: seed, an int.

    >>> rng = np.random.default_rng(0)
    >>> private, proxy = rng.normal(0, 1, (200, 2)), rng.normal([[0, 0]] * 50 + [[9, 9]] * 50, 1)
    >>> dre = KMeansDRE(n_clusters=2).fit(private, reference=proxy)
    >>> s = dre.score_samples(proxy)
    >>> bool(s[:50].min() > s[50:].max())
    True
    """

    def __init__(
        self,
        n_clusters: int = 10,
        reference: Literal["proxy", "none"] = "proxy",
        features: Literal["pixels", "pca"] = "pixels",
        n_components: int = 50,
        max_iter: int = 100,
        random_state: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.reference = reference
        self.features = features
        self.n_components = n_components
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: None = None, *, reference: npt.ArrayLike | None = None) -> KMeansDRE:
        """Fit centroids on X [n, ...] and, if the score is a ratio, on `reference` [m, ...]; return the estimator.

        Samples of any shape and any real dtype are flattened to float32 rows.

        Raises:
            ValueError: for a parameter out of range, data that are not finite, or a missing reference.
        """
        self._check_parameters()
        private = rows_of(X)
        self.n_features_in_ = private.shape[1]
        reference_rows = self._checked_reference(reference)
        self.pca_ = (
            PCA(self.n_components).fit(reference_rows)
            if self.features == "pca" and reference_rows is not None
            else None
        )
        rng = np.random.default_rng(self.random_state)
        private = self._project(private)
        self.centre_ = centre_of(private)
        self.centroids_, self.inertia_ = kmeans(private, self.n_clusters, rng, max_iter=self.max_iter)
        self.reference_centroids_ = None
        if self.reference == "proxy" and reference_rows is not None:
            k = min(self.n_clusters, max(1, len(reference_rows) // _ROWS_PER_REFERENCE_CENTROID))
            self.reference_centroids_, _ = kmeans(self._project(reference_rows), k, rng, max_iter=self.max_iter)
        return self

    def score_samples(self, X: npt.ArrayLike) -> Float32:
        """Return s(x), float32 [n]. A higher score means that x is more like the private data."""
        if not hasattr(self, "centroids_"):
            raise ValueError("this KMeansDRE is not fitted yet: call fit first")
        x = rows_of(X)
        if x.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {x.shape[1]} features, but KMeansDRE is expecting {self.n_features_in_} features")
        blocks = range(0, len(x), BLOCK)  # each block stays in cache for all its operations
        return np.concatenate([self._scores(self._near_zero(self._project(x[i : i + BLOCK]))) for i in blocks])

    def _scores(self, x: Float32) -> Float32:
        squares = row_squares(x)
        score = -_log_distance(x, self._near_zero(self.centroids_), squares)
        if self.reference_centroids_ is not None:
            score += _log_distance(x, self._near_zero(self.reference_centroids_), squares)
        return score

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor, as scikit-learn requires of an estimator."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **params: Any) -> KMeansDRE:
        """Set arguments of the constructor, as scikit-learn requires of an estimator."""
        for name, value in params.items():
            if name not in _PARAMETERS:
                raise ValueError(f"KMeansDRE has no parameter {name!r}; it has {', '.join(_PARAMETERS)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"

    def _check_parameters(self) -> None:
        for name in ("n_clusters", "n_components", "max_iter"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        if self.reference not in ("proxy", "none"):
            raise ValueError(f"reference must be proxy or none, not {self.reference!r}")
        if self.features not in ("pixels", "pca"):
            raise ValueError(f"features must be pixels or pca, not {self.features!r}")

    def _checked_reference(self, reference: npt.ArrayLike | None) -> Float32 | None:
        if reference is None:
            if self.reference == "proxy" or self.features == "pca":
                raise ValueError("reference='proxy' and features='pca' need the reference set: fit(X, reference=...)")
            return None
        rows = rows_of(reference)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(f"reference has {rows.shape[1]} features, X has {self.n_features_in_}")
        return rows

    def _project(self, x: Float32) -> Float32:
        return x if self.pca_ is None else self.pca_.transform(x)

    def _near_zero(self, x: Float32) -> Float32:
        """Subtract the centre of the fit, because distances by matrix product lose digits far from zero."""
        return x if self.centre_ is None else x - self.centre_


_PARAMETERS = tuple(name for name in KMeansDRE.__init__.__annotations__ if name != "return")


def rows_of(x: npt.ArrayLike) -> Float32:
    """Return samples of any shape as finite float32 rows [n, d]."""
    if np.iscomplexobj(x):
        raise ValueError("Complex data not supported")
    with np.errstate(over="ignore"):  # too large values become infinite, which is an error below
        out = np.asarray(x, dtype=np.float32)
    if out.ndim < 2:
        raise ValueError("expected samples as rows of an array with two or more axes. Reshape your data")
    if not out.size:
        missing = "sample(s)" if not len(out) else "feature(s)"
        raise ValueError(f"0 {missing} (shape={out.shape}) while a minimum of 1 is required.")
    out = out.reshape(len(out), -1)
    if not np.isfinite(out.sum()) and not np.isfinite(out).all():  # the sum alone is four times faster
        raise ValueError("the samples contain NaN or infinite values")
    return out


def _log_distance(x: Float32, centroids: Float32, squares: Float32) -> Float32:
    return np.log(np.sqrt(nearest(x, centroids, squares)[1]) + np.float32(_SMALLEST))
