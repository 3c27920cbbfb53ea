"""Weighted-FD: soft labels weighted by their confidence in the *true* label, which the server knows (FGCS 2026).

What the paper says and what is chosen here: docs/methods/weighted_fd.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefd.core.arrays import Int64
from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.context import ServerContext
from edgefd.federation.method import Method
from edgefd.learners.batches import softmax

_LEAST, _MOST = 1e-6, 1 - 1e-6  # range of p(y), so that log p(y) is finite and not 0


def weighted(uploads: Sequence[Knowledge], labels: Int64) -> Knowledge:
    """Return softmax(sum_k w_k p_k) for every row, with w_k = -u_k / log p_k(y).

    u_k is the weight of the upload: 1, or less for an absent client that the server remembers.

    >>> even = Knowledge(np.array([0]), np.array([[0.5, 0.5]], np.float32), np.ones(1, np.float32))
    >>> weighted([even], np.array([1])).values
    array([[0.5, 0.5]], dtype=float32)
    """
    ids = np.unique(np.concatenate([u.ids for u in uploads]))
    total = np.zeros((len(ids), uploads[0].width))
    for upload in uploads:
        p = upload.values[np.arange(len(upload)), labels[upload.ids]].astype(np.float64)
        weights = -upload.weights / np.log(np.clip(p, _LEAST, _MOST))
        total[np.searchsorted(ids, upload.ids)] += weights[:, None] * upload.values
    return (
        Knowledge(ids, softmax(total.astype(np.float32)), np.ones(len(ids), np.float32))
        if len(ids)
        else empty(total.shape[1])
    )


def aggregate(ctx: ServerContext) -> Knowledge:
    """Return the weighted soft labels."""
    if ctx.labels is None:
        raise RunError("weighted_fd weights soft labels by the labels of proxy samples, but the server has none")
    return weighted(ctx.uploads, ctx.labels)


METHOD = Method(
    name="weighted_fd",
    summary="soft labels weighted by their confidence in the sample's true label, which the server must know",
    aggregate=aggregate,
    remembers=True,
    privacy_accounting=True,
    proxy_labels=True,
)
