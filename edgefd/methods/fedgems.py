"""FedGEMS: a server model learns labels, and soft labels where it is wrong (Cheng et al., arXiv 2110.11027).

What the paper says and what is chosen here: docs/methods/fedgems.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Bool, Float64, Int64
from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge
from edgefd.federation.context import ServerContext
from edgefd.federation.method import Method
from edgefd.learners.batches import one_hot
from edgefd.learners.probabilities import logits_of, softmax64
from edgefd.methods._server_model import distil, model_of

_LEAST_ENTROPY = 1e-6  # so that the inverse of the entropy is finite


@dataclass(frozen=True)
class Config:
    """Settings of the training of server and clients."""

    epsilon: float = 0.75
    """share of the label in a target; the rest is the soft label of the server, or of the clients"""
    epochs: int = 2
    """passes of the server over the proxy set in each round"""

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ValueError("epsilon must be in [0, 1]")
        if self.epochs < 1:
            raise ValueError("epochs must be at least 1")


def ensemble(uploads: Sequence[Knowledge], ids: Int64, y: Int64) -> tuple[Float64, Bool]:
    """Return the mixed soft labels of the clients that predict the label, and the mask of rows with such clients.

    The soft label of a row is softmax(sum_k a_k z_k) with the logits z_k of client k. a = softmax(1 / H(p_k)), over the
    clients k that predict the label of the row, where H is the entropy of the soft label p_k.
    """
    inverse = np.full((len(uploads), len(ids)), -np.inf)
    logits = np.zeros((len(uploads), len(ids), uploads[0].width))
    for k, upload in enumerate(uploads):
        at = np.flatnonzero(np.isin(ids, upload.ids))
        p = upload.values[np.searchsorted(upload.ids, ids[at])]
        logits[k, at] = logits_of(p)
        right = p.argmax(1) == y[at]
        entropy = -(p * logits[k, at]).sum(1)
        inverse[k, at[right]] = 1 / np.maximum(entropy[right], _LEAST_ENTROPY)
    known: Bool = np.isfinite(inverse).any(0)
    shares = softmax64(np.where(known, inverse, 0.0).T)
    return softmax64(np.einsum("nk,knc->nc", shares, logits)), known


def server_targets(ctx: ServerContext, ids: Int64, y: Int64, server: Float64) -> Float64:
    """Return the targets of the server's training, and keep its right soft labels in the pool.

    Where the server is right, the target is the label, and its soft label enters the pool. Where the server is wrong,
    the target is epsilon label + (1 - epsilon) p, with p from the pool, or of the clients if the pool has none.
    """
    label = one_hot(y, server.shape[1]).astype(np.float64)
    pool = ctx.state.setdefault("pool", np.zeros((len(ctx.proxy), server.shape[1])))
    right = server.argmax(1) == y
    pool[ids[right]] = server[right]
    clients, known = ensemble(ctx.uploads, ids, y)
    pooled = pool[ids].sum(1) > 0
    taught = np.where(pooled[:, None], pool[ids], clients)
    epsilon = np.where(~right & (pooled | known), ctx.config.epsilon, 1.0)[:, None]
    return np.asarray(epsilon * label + (1 - epsilon) * taught)


def aggregate(ctx: ServerContext) -> Knowledge:
    """Train the server's model, and return epsilon label + (1 - epsilon) q with its soft labels q.

    Raises:
        RunError: if the server has no labels.
    """
    if ctx.labels is None:
        raise RunError("fedgems needs labels of the proxy set, but the server has none")
    ids = np.unique(np.concatenate([u.ids for u in ctx.uploads]))
    if not len(ids):
        return ctx.uploads[0]
    y, model, ones = ctx.labels[ids], model_of(ctx), np.ones(len(ids), np.float32)
    before = softmax64(model.predict_logits(ctx.proxy.x[ids]))
    distil(ctx, Knowledge(ids, server_targets(ctx, ids, y, before).astype(np.float32), ones), ctx.config.epochs)
    after = softmax64(model.predict_logits(ctx.proxy.x[ids]))
    mixture = ctx.config.epsilon * one_hot(y, after.shape[1]) + (1 - ctx.config.epsilon) * after
    return Knowledge(ids, mixture.astype(np.float32), ones)


METHOD = Method(
    name="fedgems",
    summary="a server model learns the labelled proxy set, with the clients' soft labels where it is wrong",
    config=Config,
    aggregate=aggregate,
    local_training="always",
    server_model=True,
    proxy_labels=True,
)
