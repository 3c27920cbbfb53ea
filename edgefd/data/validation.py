"""The validation part: training samples that no client trains on, for every choice that must not see the test set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError
from edgefd.core.seeding import Purpose, make_rng
from edgefd.data.datasets import Dataset, digest


def split_validation(dataset: Dataset, fraction: float, evaluate: bool) -> Dataset:
    """Remove the validation part from the training set; with `evaluate`, let it replace the test set.

    Args:
        dataset: the data set.
        fraction: the fraction of the training samples, or of the groups if the data set has groups, in [0, 1).
        evaluate: whether accuracies are measured on the validation part instead of the test set.

    Raises:
        UserError: if the validation part would be empty, or a class would be left without a training sample.
    """
    if not fraction:
        return dataset
    chosen = validation_rows(dataset, fraction)
    remaining = np.setdiff1d(np.arange(len(dataset.y_train)), chosen)
    classes = np.bincount(dataset.y_train[remaining], minlength=dataset.n_classes)
    if not len(chosen) or not classes.all():
        problem = f"leaves class {classes.argmin()} without a training sample" if len(chosen) else "is empty"
        raise UserError(f"data.validation={fraction}: the validation part of {dataset.name} {problem}: set another one")
    group = None if dataset.group_train is None else dataset.group_train[remaining]
    part = replace(dataset, x_train=dataset.x_train[remaining], y_train=dataset.y_train[remaining], group_train=group)
    if evaluate:
        part = replace(part, x_test=dataset.x_train[chosen], y_test=dataset.y_train[chosen])
    return replace(part, sha256=digest(part))


def validation_rows(dataset: Dataset, fraction: float) -> Int64:
    """Return the training rows of the validation part, ascending, the same rows for every seed of a run.

    They are a fraction of each class. If the data set has groups (such as people), they are all rows of a fraction of
    the groups, at least one: a model that knows a person must not be measured on this person.
    """
    rng = make_rng(0, Purpose.VALIDATION)
    if dataset.group_train is not None:
        groups = np.unique(dataset.group_train)
        chosen = rng.permutation(groups)[: max(round(fraction * len(groups)), 1)]
        return np.flatnonzero(np.isin(dataset.group_train, chosen))
    by_class = [rng.permutation(np.flatnonzero(dataset.y_train == c)) for c in range(dataset.n_classes)]
    return np.sort(np.concatenate([rows[: round(fraction * len(rows))] for rows in by_class]))
