"""COSMOS: a server model for each cluster of clients with similar predictions (Rachmut et al., arXiv 2605.11165).

What the paper says and what is chosen here: docs/methods/cosmos.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float64, Int64
from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.context import ClientContext, ServerContext
from edgefd.federation.distillation import teacher_rows
from edgefd.federation.method import MessageKind, Method
from edgefd.learners.batches import Batch, hard_labels, softmax
from edgefd.learners.learner import Learner
from edgefd.methods._server_model import distil, model_of
from edgefd.methods._several_teachers import join_teachers, split_teachers, stacked
from edgefd.methods.comet import centroids

_ITERATIONS = 10


@dataclass(frozen=True)
class Config:
    """Settings of the clusters and of their models."""

    n_clusters: int = 2
    """clusters of clients, at most the number of clients that answered"""
    labels: Literal["soft", "hard"] = "soft"
    """pseudo-labels that the models of the clusters send: probabilities, or the most likely class"""
    epochs: int = 2
    """passes over the proxy set, of each cluster's model in each round"""

    def __post_init__(self) -> None:
        if self.n_clusters < 1 or self.epochs < 1:
            raise ValueError("n_clusters and epochs must be at least 1")


def clusters(votes: Float64, k: int) -> Int64:
    """Return the cluster of each client, int64 [K]: k-means of the clients' soft labels [K, P, C] of all rows.

    Clusters are numbered in the order of their first clients, so that a cluster keeps its number from round to round.
    """
    flat = votes.reshape(len(votes), 1, -1)
    centres = centroids(flat, min(k, len(votes)), _ITERATIONS)
    nearest = ((flat[None] - centres[:, None]) ** 2).sum((2, 3)).argmin(0)
    _, first, number = np.unique(nearest, return_index=True, return_inverse=True)
    return np.asarray(first.argsort().argsort()[number], np.int64)


def aggregate(ctx: ServerContext) -> Knowledge:
    """Train the model of each cluster on the mean of its clients; return the labels of all these models.

    Label i of cluster t has the id t * P + i.
    """
    ids, votes = stacked(ctx.uploads)
    if not len(ids):
        return empty(ctx.terms.n_classes)
    model, cluster = model_of(ctx), clusters(votes, ctx.config.n_clusters)
    initial = model.state()
    teachers = []
    for t in range(int(cluster.max()) + 1):
        _load(model, ctx.state, t, initial)
        mean = votes[cluster == t].mean(0).astype(np.float32)
        distil(ctx, Knowledge(ids, mean, np.ones(len(ids), np.float32)), ctx.config.epochs)
        logits = model.predict_logits(ctx.proxy.x[ids])
        teachers.append(hard_labels(logits) if ctx.config.labels == "hard" else softmax(logits))
        ctx.state.update({f"{t}/{name}": values for name, values in model.state().items()})
    model.load_state(initial)
    return join_teachers(range(len(teachers)), ids, np.stack(teachers).astype(np.float64), len(ctx.proxy))


def _load(model: Learner, kept: dict[str, np.ndarray], t: int, initial: dict[str, np.ndarray]) -> None:
    """Load the model of cluster t; a new cluster begins with the initial model."""
    model.load_state({name: kept.get(f"{t}/{name}", values) for name, values in initial.items()})


def distillation_targets(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Return the labels of the cluster whose labels of all rows are nearest to the client's own soft labels."""
    ids, options = split_teachers(teacher, len(ctx.proxy))
    if not len(ids):
        return teacher_rows(ctx, teacher)
    nearest = ((options - ctx.probs(ids)[None]) ** 2).sum((1, 2)).argmin()
    return teacher_rows(ctx, Knowledge(ids, options[nearest].astype(np.float32), np.ones(len(ids), np.float32)))


METHOD = Method(
    name="cosmos",
    summary="the server trains a model for each cluster of clients with similar soft labels, and sends their labels",
    config=Config,
    distillation_targets=distillation_targets,
    aggregate=aggregate,
    message=MessageKind.MULTI_TEACHER,
    local_training="always",
    server_model=True,
)
