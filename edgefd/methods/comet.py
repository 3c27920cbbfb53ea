"""COMET: clients with similar predictions teach each other; k opinions per sample (Cho et al., arXiv 2109.08119).

What the paper says and what is chosen here: docs/methods/comet.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float64
from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.context import ClientContext, ServerContext
from edgefd.federation.distillation import teacher_rows
from edgefd.federation.method import MessageKind, Method
from edgefd.learners.batches import Batch
from edgefd.methods._several_teachers import join_teachers, split_teachers, stacked


@dataclass(frozen=True)
class Config:
    """Settings of the clustering."""

    n_clusters: int = 2
    """k: clusters of the clients' soft labels for each sample; at most the number of clients that answered"""
    max_iter: int = 10
    """largest number of iterations of Lloyd's algorithm"""

    def __post_init__(self) -> None:
        if self.n_clusters < 1 or self.max_iter < 1:
            raise ValueError("n_clusters and max_iter must be at least 1")


def centroids(votes: Float64, k: int, max_iter: int) -> Float64:
    """Cluster the votes [K, P, C] of each sample by k-means; return the centroids [k, P, C].

    It starts from the vote farthest from the mean, then adds the vote farthest from those chosen, without randomness.
    """
    chosen = [_farthest(votes, votes.mean(0)[None])]
    while len(chosen) < k:
        chosen.append(_farthest(votes, np.stack(chosen)))
    centres = np.stack(chosen)
    for _ in range(max_iter):
        nearest = _squares(votes, centres).argmin(0)
        member = nearest[None] == np.arange(k)[:, None, None]
        count = member.sum(1)[..., None]
        centres = np.where(count > 0, np.einsum("jkp,kpc->jpc", member, votes) / np.maximum(count, 1), centres)
    return centres


def _squares(votes: Float64, centres: Float64) -> Float64:
    """Return the squared distances [k, K, P]."""
    out: Float64 = ((votes[None] - centres[:, None]) ** 2).sum(3)
    return out


def _farthest(votes: Float64, centres: Float64) -> Float64:
    """Return for each sample the vote farthest from its nearest centre: [P, C]."""
    far = _squares(votes, centres).min(0).argmax(0)
    out: Float64 = votes[far, np.arange(votes.shape[1])]
    return out


def aggregate(ctx: ServerContext) -> Knowledge:
    """Return all centroids as teachers: centroid t of row i has id t * P + i."""
    ids, votes = stacked(ctx.uploads)
    if not len(ids):
        return empty(ctx.terms.n_classes)
    k = min(ctx.config.n_clusters, len(votes))
    return join_teachers(range(k), ids, centroids(votes, k, ctx.config.max_iter), len(ctx.proxy))


def distillation_targets(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Return for each row the centroid that is nearest to the client's own soft label."""
    ids, options = split_teachers(teacher, len(ctx.proxy))
    if not len(ids):
        return teacher_rows(ctx, teacher)
    client_probs = ctx.probs(ids)
    best = _squares(client_probs[None].astype(np.float64), options)[:, 0].argmin(0)
    nearest = options[best, np.arange(len(ids))].astype(np.float32)
    return teacher_rows(ctx, Knowledge(ids, nearest, np.ones(len(ids), np.float32)))


METHOD = Method(
    name="comet",
    summary="k-means of the clients' soft labels on each sample; a client distils the nearest centroid",
    config=Config,
    distillation_targets=distillation_targets,
    aggregate=aggregate,
    message=MessageKind.MULTI_TEACHER,
)
