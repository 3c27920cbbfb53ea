"""The shift between a client's held-out data and a proxy set: a number that says whether a filter can work.

It needs no label, no model and nothing of other clients: each device measures it on its own data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.filters.estimator import rows_of
from edgefd.filters.kmeans import kmeans, nearest

OTHER_KIND = 0.7
"""from this shift on, users are warned: a filter that compares rows with held-out data accepts few of them"""
UNRELATED = 0.99
"""from this shift on, no row of the proxy set is taken to be of the client's classes"""
FEWEST_ROWS = 10
"""with fewer held-out rows than this, or fewer proxy rows than twice this number, no shift is measured"""
_CENTROIDS = 50
_COMPONENTS = 20
_ROWS_PER_COMPONENT = 15  # with fewer, the components follow the noise of the rows
_PASSES = 3  # of the subspace iteration


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


@dataclass(frozen=True, eq=False)
class ProxySpace:
    """Principal components of one half of a proxy set, and the other half on these components."""

    centre: Float32
    components: Float32
    others: Float32
    """the other half, projected, float32 [P / 2, k]"""

    def project(self, x: Float32) -> Float32:
        """Return the projection of samples, float32 [n, k]."""
        centred: Float32 = standardised(x) - self.centre
        return (centred @ self.components).astype(np.float32, copy=False)


def proxy_spaces(proxy: Float32) -> tuple[ProxySpace, ...]:
    """Return two spaces in which the samples of clients are compared with the proxy set, float32 [P, ...].

    Each space has the components of one half and holds the projection of the other half, because on its own components
    a half varies more than any other data. The values of an image or a window are standardised first, sample
    by sample, so that brightness and contrast do not matter. With fewer than 20 rows, there is no space.
    """
    if len(proxy) < 2 * FEWEST_ROWS:
        return ()
    rows = standardised(proxy)
    order = np.random.default_rng(0).permutation(len(rows))
    halves = order[::2], order[1::2]
    return tuple(_space(rows[one], rows[other]) for one, other in (halves, halves[::-1]))


def _space(fitted: Float32, others: Float32) -> ProxySpace:
    centre = fitted.mean(0)
    components = _principal(fitted - centre)
    return ProxySpace(centre, components, (others - centre) @ components)


def proxy_shift(private: Float32, heldout: Float32, spaces: Sequence[ProxySpace], share: float) -> float | None:
    """Return the shift of a proxy set from the data of a client, in [0, 1]; None if there are too few rows.

    The `share` of the proxy rows that are nearest to the client's data is compared with the client's held-out rows:

        shift = P(d(x) > d(h)) + P(d(x) = d(h)) / 2        for a near proxy row x and a held-out row h

    d is the distance to the nearest of 50 centroids of the private rows. The shift is the AUC of a test that tells near
    proxy rows from held-out rows by their distance, as a mean over both spaces. 0.5 or less: the client finds rows like
    its own. 1: the nearest proxy rows are all further away than the client's own data.

    Args:
        private: rows on which the client trains, float32 [n, ...].
        heldout: other rows of the client, float32 [h, ...].
        spaces: the two spaces of the proxy set.
        share: expected share of proxy rows that are of the client's classes, in (0, 1]; see `effective_share`.
    """
    if not spaces or len(heldout) < FEWEST_ROWS:
        return None
    return float(np.mean([_shift_in(space, private, heldout, share) for space in spaces]))


def _shift_in(space: ProxySpace, private: Float32, heldout: Float32, share: float) -> float:
    centroids, _ = kmeans(space.project(private), _CENTROIDS, np.random.default_rng(0))
    near = np.sort(nearest(space.others, centroids)[1])[: max(1, round(share * len(space.others)))]
    return _auc(near, nearest(space.project(heldout), centroids)[1])


def describe_shift(shift: float) -> str:
    """Return what a shift says about a filter, in words."""
    number = f"shift {shift:.2f}, where 0.5 is the same kind of samples and 1 another kind"
    if shift >= UNRELATED:
        return f"the proxy set is unrelated to its data ({number}): it can help nobody; use another proxy set"
    if shift >= OTHER_KIND:
        return f"the proxy set is of another kind than its data ({number}): see docs/methods/edgefd.md"
    return f"the proxy set is like its data ({number})"


def standardised(x: npt.ArrayLike) -> Float32:
    """Return samples as rows; those of images and windows, with more than two axes, have mean 0 and deviation 1 each.

    Samples of a table, [n, d], keep their values: the columns of a sample are different quantities.
    """
    rows = rows_of(x)
    if np.ndim(x) <= 2:
        return rows
    centred = rows - rows.mean(1, keepdims=True)
    deviation = centred.std(1, keepdims=True)
    out: Float32 = centred / np.where(deviation > 0, deviation, 1)
    return out


def _principal(centred: Float32) -> Float32:
    """Return the first principal components of centred rows, float32 [d, 20] or fewer, by subspace iteration.

    An eigendecomposition of the covariance would need d^3 operations, too many for photographs on a device.
    """
    k = min(_COMPONENTS, max(1, len(centred) // _ROWS_PER_COMPONENT), *centred.shape)
    basis: Float32 = np.random.default_rng(0).standard_normal((centred.shape[1], k)).astype(np.float32)
    for _ in range(_PASSES):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0].astype(np.float32)
    return basis


def _auc(larger: Float32, smaller: Float32) -> float:
    """Return the probability that a value of `larger` is above a value of `smaller`; equal values count as a half."""
    ordered = np.sort(smaller)
    below = np.searchsorted(ordered, larger, "left") + np.searchsorted(ordered, larger, "right")
    return float(below.mean() / (2 * len(ordered)))
