"""Selective-FD: clients filter by a density ratio, and the server keeps confident rows (Shao et al. 2024).

What the paper says and what is chosen here: docs/methods/selective_fd.md.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.federation.context import ClientContext, ServerContext
from edgefd.federation.method import Method, accepted_ids, labels_of
from edgefd.filters.acceptance import AcceptanceRule, acceptance_weights
from edgefd.filters.kulsif import KuLSIF, check_memory
from edgefd.learners.batches import hard_labels, softmax


@dataclass(frozen=True)
class Config:
    """Settings of the selectors of client and server, and of the labels."""

    labels: Literal["soft", "hard"] = "soft"
    """send probabilities, or the most likely class"""
    quantile: float = 0.75
    """share of held-out private samples that the client selector must accept"""
    server_threshold: float = 2.0
    """tau of the server selector: it keeps a row if the largest mean probability is above 1 - tau / 2 (2 = off)"""
    auxiliary: Literal["uniform", "proxy"] = "uniform"
    """auxiliary samples of KuLSIF: uniform in the range of values of the proxy set, or rows of the proxy set"""
    n_auxiliary: int = 250
    """number of auxiliary samples of KuLSIF"""
    n_private: int = 250
    """largest number of private samples of KuLSIF"""
    width: float = 5.0
    """width of the Gaussian kernel, in units of the standardised samples (0 = by the median heuristic)"""
    variant: Literal["correct", "published"] = "correct"
    """correct: KuLSIF; published: as in the paper's code, which uses a matrix in place of its inverse"""

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ValueError("quantile must be in (0, 1]")
        if not 0 < self.server_threshold <= 2:
            raise ValueError("server_threshold must be in (0, 2]")
        if self.n_auxiliary < 1 or self.n_private < 1:
            raise ValueError("n_auxiliary and n_private must be at least 1")
        if self.width < 0:
            raise ValueError("width must not be negative")


def client_filter(ctx: ClientContext) -> Float32:
    """Accept x iff r(x) is above the quantile of r over held-out private rows.

    Raises:
        UserError: if KuLSIF on so many samples would not fit in memory (raised before any allocation), or if the kernel
            is so narrow that the ratio of most held-out rows is 0.
    """
    data, proxy, config, rng = ctx.data, ctx.proxy, ctx.config, ctx.rng
    n = min(config.n_auxiliary, len(proxy)) if config.auxiliary == "proxy" else config.n_auxiliary
    check_memory(n, min(config.n_private, len(data.x)), proxy.x[0].size)
    private = data.x[np.sort(rng.permutation(len(data.x))[: config.n_private])]
    if config.auxiliary == "proxy":
        auxiliary = proxy.x[np.sort(rng.permutation(len(proxy))[:n])]
    else:
        shape = (n, *proxy.x.shape[1:])
        auxiliary = rng.uniform(proxy.x.min(), proxy.x.max(), shape).astype(np.float32)
    scorer = KuLSIF(config.width or None, config.variant).fit(private, reference=auxiliary)
    if (scorer.score_samples(data.x_heldout) == 0).mean() > 1 - config.quantile:  # float32 is too coarse
        raise UserError(
            f"a kernel of width {config.width:g} is too narrow for samples of {proxy.x[0].size} values: set "
            "method.width=0, which takes the width from the median distance of samples"
        )
    rule = AcceptanceRule(config.quantile, "hard", 0.0, accept_contributed=False)
    return acceptance_weights(scorer, data.x_heldout, proxy.x, data.contributed, rule)


def upload(ctx: ClientContext) -> Knowledge:
    """Return probabilities or one-hot labels of the accepted rows."""
    return labels_of(ctx, accepted_ids(ctx), softmax if ctx.config.labels == "soft" else hard_labels)


def confident_rows(teacher: Knowledge, config: Config) -> Knowledge:
    """Keep x iff |onehot(argmax p) - p|_1 = 2 (1 - max p) < tau; with hard labels, send the most likely class.

    >>> k = Knowledge(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]], np.float32), np.ones(2, np.float32))
    >>> confident_rows(k, Config(server_threshold=0.5)).ids
    array([0])
    """
    confident = 2 * (1 - teacher.values.max(1, initial=0)) < config.server_threshold
    values = teacher.values[confident]
    if config.labels == "hard":
        values = hard_labels(values)
    return Knowledge(teacher.ids[confident], values, teacher.weights[confident])


def aggregate(ctx: ServerContext) -> Knowledge:
    """Return the confident rows of the mean over the clients that accepted a row."""
    return confident_rows(ctx.combine(ctx.uploads), ctx.config)


METHOD = Method(
    name="selective_fd",
    summary="clients answer where a KuLSIF density ratio is high enough; the server keeps only confident rows",
    config=Config,
    filter=client_filter,
    upload=upload,
    aggregate=aggregate,
    label_aggregation=True,
    remembers=True,
)
