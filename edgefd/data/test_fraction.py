"""The test set of a source that has none of its own: a part of its samples that nobody trains on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError
from edgefd.core.seeding import Purpose, make_rng
from edgefd.data.labels import check_count, name_of, plain_labels
from edgefd.data.sources.source import Samples


def split_test(samples: Samples, fraction: float, source: str) -> Samples:
    """Move a part of the samples to the test set, the same part for every seed of a run.

    It is a fraction of each class, at least one sample of each class that has two. If the samples have groups (such as
    people or clients), it is all samples of a fraction of the groups, at least one: a model that knows a person must
    not be measured on this person.

    Raises:
        UserError: if there are fewer than two groups, or a class would be left without a training sample.
    """
    y = plain_labels(samples.y_train, len(samples.y_train), source)
    check_count([name_of(value) for value in np.unique(y).tolist()], len(y), source)
    group = samples.group_train
    test = _of_each_class(y, fraction) if group is None else _of_groups(group, fraction, source)
    if not test.any():
        raise UserError(f"{source}: each label has one sample, so none can be the test set: set data.test")
    lost = np.setdiff1d(y[test], y[~test])
    if len(lost):
        raise UserError(
            f"{source}: the test clients of data.test_fraction={fraction:g} hold the only samples of the label "
            f"{lost[0]}: set another fraction, or data.test"
        )
    return replace(
        samples,
        x_train=samples.x_train[~test],
        y_train=samples.y_train[~test],
        x_test=samples.x_train[test],
        y_test=samples.y_train[test],
        group_train=None if group is None else group[~test],
    )


def _of_each_class(y: np.ndarray, fraction: float) -> np.ndarray:
    rng, test = make_rng(0, Purpose.TEST), np.zeros(len(y), bool)
    for value in np.unique(y):
        rows: Int64 = rng.permutation(np.flatnonzero(y == value))
        test[rows[: min(max(round(fraction * len(rows)), 1), len(rows) - 1)]] = True
    return test


def _of_groups(group: np.ndarray, fraction: float, source: str) -> np.ndarray:
    names = np.unique(group)
    if len(names) < 2:
        raise UserError(f"{source}: all samples are of one client, so none can be the test set: set data.test")
    chosen = make_rng(0, Purpose.TEST).permutation(names)
    return np.isin(group, chosen[: min(max(round(fraction * len(names)), 1), len(names) - 1)])
