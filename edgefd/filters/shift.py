"""The shift between a client's held-out data and a proxy set: a number that says whether a filter can work.

It needs no label, no model and nothing of other clients: each device measures it on its own data.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Float64, Int64
from edgefd.filters.estimator import rows_of
from edgefd.filters.kmeans import kmeans, nearest

UNRELATED = 0.99
"""from this shift on, a proxy set is taken to be of another kind than the client's data"""
FEWEST_ROWS = 10
"""with fewer held-out rows or proxy rows than this, no shift is measured"""
_CENTROIDS = 50
_COMPONENTS = 20
_PASSES = 3  # of the subspace iteration: the shift changes by less than 0.01 with more


def effective_share(y: Int64, n_classes: int) -> float:
    """Return exp(H) / C, the effective number of classes of a client divided by the number of classes.

    H is the entropy of its labels. One class of C gives 1 / C; C classes of equal size give 1. It is the share of a
    proxy set with classes of equal size that a client can recognise.

    >>> effective_share(np.array([3, 3, 3]), 10), effective_share(np.arange(10), 10)
    (0.1, 1.0)
    """
    p = np.bincount(y, minlength=n_classes) / len(y)
    p = p[p > 0]
    return round(float(np.exp(-(p * np.log(p)).sum())) / n_classes, 6)


def proxy_shift(private: Float32, heldout: Float32, proxy: Float32, share: float) -> float | None:
    """Return the shift of a proxy set from the data of a client, in [0, 1]; None if there are too few rows.

    The `share` of the proxy rows that are nearest to the client's data is compared with the client's held-out rows:

        shift = P(d(x) > d(h)) + P(d(x) = d(h)) / 2        for a near proxy row x and a held-out row h

    d is the distance to the nearest of 50 centroids of the private rows, on 20 principal components of the proxy set.
    The values of an image or a window are standardised first, sample by sample, so that brightness and contrast do not
    matter. It is the AUC of a test that tells near proxy rows from held-out rows by their distance. 0.5 or less: the
    client finds rows like its own. 1: the nearest proxy rows are all further away than the client's own data.

    Args:
        private: rows on which the client trains, float32 [n, ...].
        heldout: other rows of the client, float32 [h, ...].
        proxy: the proxy set, float32 [P, ...].
        share: expected share of proxy rows that are of the client's classes, in (0, 1]; see `effective_share`.
    """
    if min(len(heldout), len(proxy)) < FEWEST_ROWS:
        return None
    rows = standardised(proxy)
    centre = rows.mean(0)
    components = _principal(rows - centre)

    def project(x: Float32) -> Float32:
        out: Float32 = (standardised(x) - centre) @ components
        return out

    centroids, _ = kmeans(project(private), _CENTROIDS, np.random.default_rng(0))
    near = np.sort(nearest(project(proxy), centroids)[1])[: max(1, round(share * len(proxy)))]
    return _auc(near, nearest(project(heldout), centroids)[1])


def standardised(x: npt.ArrayLike) -> Float32:
    """Return samples as rows; those of images and windows, with more than two axes, have mean 0 and deviation 1 each.

    Samples of a table, [n, d], keep their values: the columns of a sample are different quantities.
    """
    rows = rows_of(x)
    if np.ndim(x) <= 2:
        return rows
    rows = rows - rows.mean(1, keepdims=True)
    deviation = rows.std(1, keepdims=True)
    return np.asarray(rows / np.where(deviation > 0, deviation, 1), np.float32)


def _principal(centred: Float32) -> Float32:
    """Return the first principal components of centred rows, float32 [d, 20] or fewer, by subspace iteration.

    An eigendecomposition of the covariance would need d^3 operations, too many for photographs on a device.
    """
    k = min(_COMPONENTS, *centred.shape)
    basis = np.random.default_rng(0).standard_normal((centred.shape[1], k)).astype(np.float32)
    for _ in range(_PASSES):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    return np.ascontiguousarray(basis, np.float32)


def _auc(larger: Float32, smaller: Float32) -> float:
    """Return the probability that a value of `larger` is above a value of `smaller`; equal values count as a half."""
    ordered: Float64 = np.sort(smaller).astype(np.float64)
    below = np.searchsorted(ordered, larger, "left") + np.searchsorted(ordered, larger, "right")
    return float(below.mean() / (2 * len(ordered)))
