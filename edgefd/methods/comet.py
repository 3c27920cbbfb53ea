"""COMET: clients with similar predictions teach each other; k opinions per sample (Cho et al., arXiv 2109.08119).

What the paper says and what is chosen here: docs/methods/comet.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32, Float64
from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.clients import ProxySet
from edgefd.federation.method import MessageKind, Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.state import ClientState, Server
from edgefd.learners.batches import softmax
from edgefd.methods._several_teachers import join_teachers, stacked


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


def server_update(
    reports: Sequence[Report], teacher: Knowledge | None, plan: RoundPlan, server: Server, config: Config
) -> Knowledge:
    """Return all centroids as teachers: centroid t of row i has id t * P + i."""
    ids, votes = stacked([r.knowledge for r in reports])
    if not len(ids):
        return empty(server.n_classes)
    k = min(config.n_clusters, len(votes))
    return join_teachers(range(k), ids, centroids(votes, k, config.max_iter), len(server.proxy))


def personalise_teacher(teacher: Knowledge, state: ClientState, proxy: ProxySet, config: Config) -> Knowledge:
    """Return for each row the centroid that is nearest to the client's own soft label."""
    ids = np.unique(teacher.ids % len(proxy))
    if not len(ids):
        return teacher
    options = teacher.values.reshape(-1, len(ids), teacher.width).astype(np.float64)
    client_probs: Float32 = softmax(state.learner.predict_logits(proxy.x[ids]))
    best = _squares(client_probs[None].astype(np.float64), options)[:, 0].argmin(0)
    return Knowledge(ids, options[best, np.arange(len(ids))].astype(np.float32), np.ones(len(ids), np.float32))


METHOD = Method(
    name="comet",
    summary="k-means of the clients' soft labels on each sample; a client distils the nearest centroid",
    config=Config,
    personalise_teacher=personalise_teacher,
    server_update=server_update,
    message=MessageKind.MULTI_TEACHER,
)
