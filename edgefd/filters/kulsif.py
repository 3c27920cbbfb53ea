"""KuLSIF: the density-ratio estimator of Selective-FD (Kanamori, Suzuki and Sugiyama 2012).

It needs a kernel matrix of the auxiliary samples, and the kernel of every pair of row and sample. `KMeansDRE` needs
only k centroids. benchmarks/density.py has an optimised version of KuLSIF with SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Float64
from edgefd.core.errors import UserError
from edgefd.core.host import memory
from edgefd.filters.estimator import Estimator, reference_rows, rows_of
from edgefd.filters.kmeans import BLOCK, row_squares, squared_distances


@dataclass(eq=False, repr=False)
class KuLSIF(Estimator):
    """Kernel unconstrained least-squares importance fitting: the ratio p(x) / q(x) of private and auxiliary samples.

    With private samples y_1..y_m, auxiliary samples u_1..u_n, the Gaussian kernel k(a, b) = exp(-|a - b|^2 / (2 w^2)),
    and K11, K12 the kernels of auxiliary samples with themselves and with the private ones,

        a = -(1 / (n m lambda)) (K11 / n + lambda I)^-1 K12 1        lambda = n^-1/2
        r(x) = sum_i a_i k(x, u_i) + (1 / (m lambda)) sum_j k(x, y_j)

    A higher score means that x is more like the private data. With a narrow kernel in pixel space the first sum is
    nearly 0, so r is then a kernel density estimate (docs/methods/selective_fd.md).

    Args:
        width: w. None: 2 w^2 is the median squared distance of private samples.
        variant: "correct", or "published": the formula of the published code of Selective-FD, which multiplies by
            K11 / n + lambda I instead of its inverse.

    >>> rng = np.random.default_rng(0)
    >>> private, other = rng.normal(0, 1, (100, 2)), rng.uniform(-9, 9, (50, 2))
    >>> near, far = KuLSIF().fit(private, reference=other).score_samples([[0, 0], [6, 6]])
    >>> bool(near > far)
    True
    """

    width: float | None = None
    variant: Literal["correct", "published"] = "correct"

    def fit(self, X: npt.ArrayLike, y: None = None, *, reference: npt.ArrayLike) -> KuLSIF:
        """Solve for the coefficients of the auxiliary samples `reference` [n, ...]; X [m, ...] are private samples.

        Raises:
            ValueError: for a parameter out of range, or arrays with different numbers of features.
            UserError: if the kernel matrix would not fit in memory. The check is made before any allocation.
        """
        if self.width is not None and not self.width > 0:
            raise ValueError(f"width must be above 0, not {self.width}")
        if self.variant not in ("correct", "published"):
            raise ValueError(f"variant must be correct or published, not {self.variant!r}")
        private = rows_of(X)
        auxiliary = reference_rows(reference, private)
        n, m = len(auxiliary), len(private)
        check_memory(n, m, private.shape[1])
        self.centre_ = private.mean(0)  # distances by matrix product lose digits far from zero
        self.private_, self.auxiliary_ = private - self.centre_, auxiliary - self.centre_
        self.two_w2_ = _median_square(self.private_) if self.width is None else 2 * self.width**2
        self.lam_ = n**-0.5
        left = self._kernel(self.auxiliary_, self.auxiliary_).astype(np.float64) / n
        left.flat[:: n + 1] += self.lam_
        right = self._sums(self.auxiliary_, np.ones(m, np.float32), self.private_)
        solved = left @ right if self.variant == "published" else _solve(left, right)
        self.coefficients_ = -solved / (n * m * self.lam_)
        self.n_features_in_ = private.shape[1]
        return self

    def score_samples(self, X: npt.ArrayLike) -> Float32:
        """Return r(x), float32 [n]. A higher score means that x is more like the private data."""
        x = self._rows_to_score(X) - self.centre_
        private_sums = self._sums(x, np.full(len(self.private_), 1 / (len(self.private_) * self.lam_)), self.private_)
        return (private_sums + self._sums(x, self.coefficients_, self.auxiliary_)).astype(np.float32)

    def _kernel(self, a: Float32, b: Float32) -> Float32:
        """Return the kernel matrix k(a, b), float32 [len(a), len(b)]."""
        distances = squared_distances(a, b, row_squares(a))
        distances /= -self.two_w2_
        return np.exp(distances, out=distances)

    def _sums(self, x: Float32, coefficients: npt.NDArray[Any], samples: Float32) -> Float64:
        """Return sum_j c_j k(x_i, s_j), float64 [len(x)], computed in blocks of rows."""
        blocks = (self._kernel(x[i : i + BLOCK], samples) for i in range(0, len(x), BLOCK))
        return np.concatenate([block @ coefficients.astype(np.float64) for block in blocks])


def check_memory(n: int, m: int, d: int, free: int | None = None) -> None:
    """Check that a fit on n auxiliary and m private samples of d features fits in `free` bytes of memory.

    A fit needs about 24 n^2 bytes (K11 in float32 and float64, and its factor), a block of K12, and 16 n d bytes for
    the auxiliary samples, which are drawn, stored and centred. If `free` is None, it is the available memory of this
    machine.

    Raises:
        UserError: if the memory does not suffice, with the estimate.
    """
    free = _free_memory() if free is None else free
    needed = 24 * n * n + 12 * BLOCK * max(n, m) + 16 * n * d
    if needed > free:
        raise UserError(
            f"KuLSIF on {n} auxiliary and {m} private samples needs about {needed / 1e9:.1f} GB, but only "
            f"{free / 1e9:.1f} GB are free: use fewer samples, or KMeansDRE"
        )


def _free_memory() -> int:
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux
        return memory()


def _median_square(x: Float32) -> float:
    """Return the median squared distance between the first 500 rows; 1 if it is 0 or there is only one row."""
    first = x[:500]
    pairs = squared_distances(first, first, row_squares(first))[np.triu_indices(len(first), 1)]
    return float(np.median(pairs)) or 1.0 if len(pairs) else 1.0


def _solve(left: Float64, right: Float64) -> Float64:
    """Return left^-1 right for a symmetric positive definite matrix, by Cholesky and two O(n^2) substitutions."""
    factor = np.linalg.cholesky(left)
    half = np.empty_like(right)
    for i in range(len(right)):
        half[i] = (right[i] - factor[i, :i] @ half[:i]) / factor[i, i]
    out = np.empty_like(right)
    for i in reversed(range(len(right))):
        out[i] = (half[i] - factor[i + 1 :, i] @ out[i + 1 :]) / factor[i, i]
    return out
