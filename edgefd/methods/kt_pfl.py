"""KT-pFL: each client has its own teacher, a mixture that favours similar clients (Zhang et al. 2021).

What the paper says and what is chosen here: docs/methods/kt_pfl.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float64, Int64
from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.context import ClientContext, ServerContext
from edgefd.federation.distillation import teacher_rows
from edgefd.federation.method import MessageKind, Method
from edgefd.learners.batches import Batch
from edgefd.learners.probabilities import softmax64
from edgefd.methods._several_teachers import join_teachers, stacked

_MOVE = 0.01  # the step size brings the mean change of the coefficients of a client near this value
_TRIES, _FACTOR = 5, 5.0


@dataclass(frozen=True)
class Config:
    """Settings of the optimisation of the coefficients."""

    rho: float = 0.7
    """factor of the term that keeps coefficients near 1 / K"""
    sharpness: float = 5.0
    """factor in the coefficients after a step, softmax(sharpness c)"""

    def __post_init__(self) -> None:
        if self.rho < 0 or self.sharpness < 0:
            raise ValueError("rho and sharpness must not be negative")


def step(c: Float64, votes: Float64, config: Config) -> Float64:
    """Return the coefficients [K, K] after one step of gradient descent, row k for client k.

    The loss of client k is |p_k - sum_m c_km p_m|^2 + rho |c_k - 1/K|^2, both as means; the votes are p [K, P, C]. Its
    first term needs only the products of the votes, G = votes votes^T / (P C). After the step,
    c_k <- softmax(sharpness c_k).
    """
    k = len(votes)
    flat = votes.reshape(k, -1)
    products = flat @ flat.T / max(flat.shape[1], 1)
    gradient = 2 * (c @ products - products) + 2 * config.rho / k * (c - 1 / k)
    return softmax64(config.sharpness * (c - _step_sizes(gradient) * gradient))


def _step_sizes(gradient: Float64) -> Float64:
    """Return the step size of each client, [K, 1]: a power of 5 that brings the mean change of a row near 0.01."""
    change = np.abs(gradient).mean(1, keepdims=True)
    size: Float64 = np.ones_like(change)
    for _ in range(_TRIES):
        for too_large in (True, False):
            off = change > _MOVE if too_large else change < _MOVE
            factor = np.where(off, 1 / _FACTOR if too_large else _FACTOR, 1.0)
            change, size = change * factor, size * factor
    return size


def _coefficients(state: dict[str, np.ndarray], clients: Int64, votes: Float64, config: Config) -> Float64:
    """Make one step for the clients that answered, keep all coefficients, and return those of these clients.

    A client that is new to the server begins with the coefficient 1 / K for every client, and every client has 1 / K
    for it. The share of absent clients in a row does not change; the teachers of this round are mixed without them.
    """
    known = state.get("clients", np.empty(0, np.int64))
    everyone = np.union1d(known, clients)
    c = np.full((len(everyone), len(everyone)), 1 / len(everyone))
    if len(known):
        c[np.ix_(*[np.searchsorted(everyone, known)] * 2)] = state["coefficients"] * len(known) / len(everyone)
    present = np.ix_(*[np.searchsorted(everyone, clients)] * 2)
    share = c[present].sum(1, keepdims=True)
    moved = step(c[present] / share, votes, config)
    c[present] = moved * share
    state |= {"clients": everyone, "coefficients": c}
    return moved


def aggregate(ctx: ServerContext) -> Knowledge:
    """Return the teachers of all clients, sum_m c_km p_m: row i of client k has id k * P + i."""
    answered = [r for r in ctx.reports if len(r.knowledge)]
    if not answered:
        return empty(ctx.terms.n_classes)
    clients = [r.client for r in answered]
    ids, votes = stacked([r.knowledge for r in answered])
    c = _coefficients(ctx.state, np.array(clients), votes, ctx.config)
    teachers = np.minimum(np.einsum("km,mpc->kpc", c, votes), 1)  # sums of coefficients are 1 up to rounding
    return join_teachers(clients, ids, teachers, len(ctx.proxy))


def distillation_targets(ctx: ClientContext, teacher: Knowledge) -> Batch:
    """Return the client's own teacher. A client that did not answer has none, and distils nothing in this round."""
    own = teacher.ids // len(ctx.proxy) == ctx.data.client
    own_ids = teacher.ids[own] % len(ctx.proxy)
    return teacher_rows(ctx, Knowledge(own_ids, teacher.values[own], teacher.weights[own]))


METHOD = Method(
    name="kt_pfl",
    summary="a teacher for each client: a learned mixture of all soft labels that favours similar clients",
    config=Config,
    distillation_targets=distillation_targets,
    aggregate=aggregate,
    message=MessageKind.MULTI_TEACHER,
)
