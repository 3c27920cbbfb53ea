"""COMET: clients that think alike teach each other; for every sample, k opinions (Cho et al., arXiv 2109.08119).

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
from edgefd.methods._several_teachers import several, stacked


@dataclass(frozen=True)
class Config:
    """How many opinions there are."""

    n_clusters: int = 2
    """k: means of the clients' soft labels, for each sample; no more than there are clients that answered"""
    max_iter: int = 10
    """of Lloyd's algorithm"""

    def __post_init__(self) -> None:
        if self.n_clusters < 1 or self.max_iter < 1:
            raise ValueError("n_clusters and max_iter must be at least 1")


def centroids(votes: Float64, k: int, max_iter: int) -> Float64:
    """K-means of the votes [K, P, C] on each sample by itself: [k, P, C].

    It starts from the vote farthest from the mean, and the farthest from those chosen in turn: no random numbers.
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
    """Squared distances [k, K, P]."""
    out: Float64 = ((votes[None] - centres[:, None]) ** 2).sum(3)
    return out


def _farthest(votes: Float64, centres: Float64) -> Float64:
    """For each sample the vote farthest from its nearest centre: [P, C]."""
    far = _squares(votes, centres).min(0).argmax(0)
    out: Float64 = votes[far, np.arange(votes.shape[1])]
    return out


def server_update(
    reports: Sequence[Report], teacher: Knowledge | None, plan: RoundPlan, server: Server, config: Config
) -> Knowledge:
    """All centroids: centroid t of row i at id t * P + i."""
    ids, votes = stacked([r.knowledge for r in reports])
    if not len(ids):
        return empty(server.n_classes)
    k = min(config.n_clusters, len(votes))
    return several(range(k), ids, centroids(votes, k, config.max_iter), len(server.proxy))


def personalise_teacher(teacher: Knowledge, state: ClientState, proxy: ProxySet, config: Config) -> Knowledge:
    """For each row the centroid nearest to the client's own soft labels."""
    ids = np.unique(teacher.ids % len(proxy))
    if not len(ids):
        return teacher
    options = teacher.values.reshape(-1, len(ids), teacher.width).astype(np.float64)
    own: Float32 = softmax(state.learner.predict_logits(proxy.x[ids]))
    best = _squares(own[None].astype(np.float64), options)[:, 0].argmin(0)
    return Knowledge(ids, options[best, np.arange(len(ids))].astype(np.float32), np.ones(len(ids), np.float32))


METHOD = Method(
    name="comet",
    summary="k-means of the clients' soft labels on each sample; a client learns the nearest mean",
    config=Config,
    personalise_teacher=personalise_teacher,
    server_update=server_update,
    message=MessageKind.MULTI_TEACHER,
)
