"""Principal components in numpy, for devices that have no scikit-learn."""

from __future__ import annotations

import numpy as np

from edgefd.core.arrays import Float32


class PCA:
    """Projection on the `n_components` directions of largest variance (fewer, where the data has fewer).

    The components are the eigenvectors of the covariance matrix: for n rows of d features that costs O(n d^2 + d^3)
    whatever n is, where a singular value decomposition of the rows would cost O(n^2 d).
    """

    def __init__(self, n_components: int) -> None:
        self.n_components = n_components

    def fit(self, x: Float32) -> PCA:
        """Fit on x, float32 [n, d]."""
        self.mean_ = x.mean(0, dtype=np.float64).astype(np.float32)
        centred = (x - self.mean_).astype(np.float64)
        _, vectors = np.linalg.eigh(centred.T @ centred)
        self.components_ = np.ascontiguousarray(vectors[:, ::-1][:, : self.n_components].T, np.float32)
        return self

    def transform(self, x: Float32) -> Float32:
        """float32 [n, n_components]."""
        out: Float32 = (x - self.mean_) @ self.components_.T
        return out
