"""Principal components in numpy, because devices have no scikit-learn."""

from __future__ import annotations

import numpy as np

from edgefd.core.arrays import Float32


class PCA:
    """Projection on the `n_components` directions of largest variance (fewer if the data have fewer dimensions).

    The components are the eigenvectors of the covariance matrix. For n rows of d features this costs O(n d^2 + d^3) for
    any n. A singular value decomposition of the rows would cost O(n^2 d).
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
        """Project x, float32 [n, d], to float32 [n, n_components]."""
        out: Float32 = (x - self.mean_) @ self.components_.T
        return out
