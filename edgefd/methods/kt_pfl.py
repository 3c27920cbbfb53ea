"""KT-pFL: each client has its own teacher, a mixture that favours similar clients (Zhang et al. 2021).

What the paper says and what is chosen here: docs/methods/kt_pfl.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float64
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.context import ClientContext, ServerContext
from edgefd.federation.distillation import teacher_rows
from edgefd.federation.method import MessageKind, Method
from edgefd.learners.batches import Batch, softmax
from edgefd.methods._several_teachers import join_teachers, stacked


@dataclass(frozen=True)
class Config:
    """Settings of the optimisation of the coefficients."""

    rho: float = 0.6
    """factor of the term that keeps coefficients near 1 / K"""
    step: float = 1.0
    """step size of gradient descent on the coefficients"""
    steps: int = 10
    """steps of gradient descent in each round, from 1 / K"""
    sharpness: float = 5.0
    """factor in the final coefficients, softmax(sharpness c)"""

    def __post_init__(self) -> None:
        if self.rho < 0 or self.step <= 0 or self.steps < 0 or self.sharpness < 0:
            raise ValueError("rho, steps and sharpness must not be negative, step must be above 0")


def coefficients(votes: Float64, config: Config) -> Float64:
    """Minimise |z_k - sum_m c_km z_m|^2 + rho |c_k - 1/K|^2, both as means, and return C [K, K], row k of client k.

    The first term needs only the products of the votes [K, P, C], G = votes votes^T / (P C).

    Raises:
        UserError: if the steps are so large that the coefficients overflow.
    """
    k = len(votes)
    flat = votes.reshape(k, -1)
    products = flat @ flat.T / max(flat.shape[1], 1)
    c = np.full((k, k), 1 / k)
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow is reported below
        for _ in range(config.steps):
            c -= config.step * (2 * (c @ products - products) + 2 * config.rho / k * (c - 1 / k))
        c *= config.sharpness
    if not (np.abs(c) < np.finfo(np.float32).max).all():
        raise UserError(
            f"the coefficients of kt_pfl diverge: method.step={config.step:g} is too large, use a smaller one"
        )
    out: Float64 = softmax(c.astype(np.float32)).astype(np.float64)
    return out


def aggregate(ctx: ServerContext) -> Knowledge:
    """Return the teachers of all clients, sum_m c_km p_m: row i of client k has id k * P + i."""
    answered = [r for r in ctx.reports if len(r.knowledge)]
    if not answered:
        return empty(ctx.terms.n_classes)
    ids, votes = stacked([r.knowledge for r in answered])
    teachers = np.einsum("km,mpc->kpc", coefficients(votes, ctx.config), votes)
    teachers = np.minimum(teachers, 1)  # the coefficients of a client sum to 1 up to the rounding of float32
    return join_teachers([r.client for r in answered], ids, teachers, len(ctx.proxy))


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
