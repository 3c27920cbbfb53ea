"""`KMeansDRE`: a density-ratio estimator that costs k centroids (EdgeFD, arXiv 2508.14769)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32
from edgefd.filters.kmeans import BLOCK, centre_of, kmeans, nearest, row_squares
from edgefd.filters.pca import PCA

_SMALLEST = 1e-6  # a distance of zero (x is a centroid) must stay a finite log
_ROWS_A_REFERENCE_CENTROID = 10  # with one each, every reference row is at distance 0 and none can be claimed


class KMeansDRE:
    """How much more likely a sample is under a client's private data than elsewhere, from distances to centroids.

    With d_p(x) the distance from x to the nearest centroid of the private data and d_q(x) the same for a reference set
    (the proxy set, which every client holds anyway), the score is

        s(x) = log d_q(x) - log d_p(x)      reference="proxy": a true ratio
        s(x) = -log d_p(x)                  reference="none": the plain distance

    The higher, the more x looks like private data. The paper's centroids K_c are `centroids_`. A reference set of m
    rows has min(k, m // 10) centroids, at least one: were its rows centroids themselves, d_q would be 0 on all of them.
    What the paper leaves open and is chosen here is listed in docs/methods/edgefd.md.

    Args:
        n_clusters: k, centroids of the private data; with fewer rows, every row is one.
        reference: "proxy" or "none", see above.
        features: "pixels" (the flattened sample) or "pca" (fitted on the reference set).
        n_components: dimensions that "pca" keeps.
        max_iter: of Lloyd's algorithm.
        random_state: int seed.

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
        """Fit centroids on X [n, ...], and on `reference` [m, ...] where the score is a ratio.

        Raises:
            ValueError: for a parameter out of range, data not finite, or a missing reference.
        """
        self._check_parameters()
        private = rows_of(X)
        self.n_features_in_ = private.shape[1]
        others = self._checked_reference(reference)
        self.pca_ = PCA(self.n_components).fit(others) if self.features == "pca" and others is not None else None
        rng = np.random.default_rng(self.random_state)
        private = self._project(private)
        self.centre_ = centre_of(private)
        self.centroids_, self.inertia_ = kmeans(private, self.n_clusters, rng, max_iter=self.max_iter)
        self.reference_centroids_ = None
        if self.reference == "proxy" and others is not None:
            k = min(self.n_clusters, max(1, len(others) // _ROWS_A_REFERENCE_CENTROID))
            self.reference_centroids_, _ = kmeans(self._project(others), k, rng, max_iter=self.max_iter)
        return self

    def score_samples(self, X: npt.ArrayLike) -> Float32:
        """s(x), float32 [n]: high where x looks like the private data."""
        if not hasattr(self, "centroids_"):
            raise ValueError("this KMeansDRE is not fitted yet: call fit first")
        x = rows_of(X)
        if x.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {x.shape[1]} features, but KMeansDRE is expecting {self.n_features_in_} features")
        blocks = range(0, len(x), BLOCK)  # one is in cache for all that is done with it
        return np.concatenate([self._scores(self._near_zero(self._project(x[i : i + BLOCK]))) for i in blocks])

    def _scores(self, x: Float32) -> Float32:
        squares = row_squares(x)
        score = -_log_distance(x, self._near_zero(self.centroids_), squares)
        if self.reference_centroids_ is not None:
            score += _log_distance(x, self._near_zero(self.reference_centroids_), squares)
        return score

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, as scikit-learn asks of an estimator."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **params: Any) -> KMeansDRE:
        """Set constructor arguments, as scikit-learn asks of an estimator."""
        for name, value in params.items():
            if name not in _PARAMETERS:
                raise ValueError(f"KMeansDRE has no parameter {name!r}; it has {', '.join(_PARAMETERS)}")
            setattr(self, name, value)
        return self

    def _check_parameters(self) -> None:
        for name, least in (("n_clusters", 1), ("n_components", 1), ("max_iter", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
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
        """Distances by matrix product lose digits far from zero, so scores are taken where the fit was."""
        return x if self.centre_ is None else x - self.centre_


_PARAMETERS = tuple(name for name in KMeansDRE.__init__.__annotations__ if name != "return")


def rows_of(x: npt.ArrayLike) -> Float32:
    """Samples of any shape as finite float32 [n, d]."""
    if np.iscomplexobj(x):
        raise ValueError("Complex data not supported")
    out = np.asarray(x, dtype=np.float32)
    if out.ndim < 2:
        raise ValueError("expected samples as rows of an array with two or more axes. Reshape your data")
    if not out.size:
        what = "sample(s)" if not len(out) else "feature(s)"
        raise ValueError(f"0 {what} (shape={out.shape}) while a minimum of 1 is required.")
    out = out.reshape(len(out), -1)
    if not np.isfinite(out.sum()) and not np.isfinite(out).all():  # the sum alone is four times faster
        raise ValueError("the samples hold NaN or infinite values")
    return out


def _log_distance(x: Float32, centroids: Float32, squares: Float32) -> Float32:
    return np.log(np.sqrt(nearest(x, centroids, squares)[1]) + np.float32(_SMALLEST))
