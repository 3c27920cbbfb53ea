"""Bases of the density estimators: parameters, checks and a projection, by the conventions of scikit-learn."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32
from edgefd.filters.pca import PCA


class Estimator:
    """An estimator whose parameters are the fields of its dataclass. `n_features_in_` exists once it is fitted."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor, as scikit-learn requires of an estimator."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor, as scikit-learn requires of an estimator."""
        for name, value in params.items():
            if name not in self.__dataclass_fields__:
                names = ", ".join(self.__dataclass_fields__)
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has {names}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"

    def _check_positive(self, *names: str) -> None:
        """Check that parameters are whole numbers of at least 1."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")

    def _rows_to_score(self, samples: npt.ArrayLike) -> Float32:
        """Return samples as rows with the features of the fit."""
        name = type(self).__name__
        if not hasattr(self, "n_features_in_"):
            raise ValueError(f"this {name} is not fitted yet: call fit first")
        x = rows_of(samples)
        if x.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {x.shape[1]} features, but {name} is expecting {self.n_features_in_} features")
        return x


class RatioEstimator(Estimator):
    """An estimator with a reference set and an optional projection on the principal components of that set."""

    reference: str
    features: str
    n_components: int

    def _fit_projection(self, private: Float32, reference: npt.ArrayLike | None) -> Float32 | None:
        """Check the parameters, fit the projection, and return the rows of the reference set."""
        self._check_choices()
        self.pca_: PCA | None = None
        if reference is None:
            self._check_needs_no_reference()
            return None
        rows = reference_rows(reference, private)
        if self.features == "pca":
            self.pca_ = PCA(self.n_components).fit(rows)
        return rows

    def _check_choices(self) -> None:
        for name, valid in (("reference", ("proxy", "none")), ("features", ("pixels", "pca"))):
            if getattr(self, name) not in valid:
                raise ValueError(f"{name} must be {' or '.join(valid)}, not {getattr(self, name)!r}")
        self._check_positive("n_components")

    def _check_needs_no_reference(self) -> None:
        if self.reference == "proxy" or self.features == "pca":
            raise ValueError("reference='proxy' and features='pca' need the reference set: fit(X, reference=...)")

    def _project(self, x: Float32) -> Float32:
        return x if self.pca_ is None else self.pca_.transform(x)


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


def reference_rows(reference: npt.ArrayLike, private: Float32) -> Float32:
    """Return reference samples as rows with the features of the private rows."""
    rows = rows_of(reference)
    if rows.shape[1] != private.shape[1]:
        raise ValueError(f"reference has {rows.shape[1]} features, X has {private.shape[1]}")
    return rows
