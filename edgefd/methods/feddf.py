"""FedDF: FedAvg, after which the server distils all clients' models into the mean model (Lin et al., arXiv 2006.07242).

What the paper says and what is chosen here: docs/methods/feddf.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.context import ServerContext
from edgefd.federation.method import unchanged
from edgefd.learners.batches import Batch, draw, softmax
from edgefd.learners.optimizer import reset_optimizer
from edgefd.methods import fedavg
from edgefd.methods._parameters import parameters, set_parameters
from edgefd.methods._server_model import model_of


@dataclass(frozen=True)
class Config:
    """Settings of the distillation at the server."""

    ensemble: Literal["probabilities", "logits"] = "probabilities"
    """teacher: the mean of the clients' soft labels, or the softmax of the mean of their logits"""
    steps: int = 500
    """steps of the server's optimizer in each round; the optimizer is new in each round"""
    batch_size: int = 128
    """proxy rows in each step"""
    lr: float = 0.001
    """learning rate of the first step; it falls towards 0 along half a cosine"""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.lr <= 0:
            raise ValueError("steps and batch_size must be at least 1, and lr above 0")


def ensemble(ctx: ServerContext, sent: Sequence[Knowledge]) -> Float32:
    """Return the soft labels of the ensemble of clients, [P, C].

    They are (1 / K) sum_k softmax(z_k), or softmax((1 / K) sum_k z_k). z_k are the logits of the server's model with
    the parameters of client k.
    """
    model, of_logits = model_of(ctx), ctx.config.ensemble == "logits"
    total = np.zeros((len(ctx.proxy), ctx.terms.n_classes))
    for upload in sent:
        set_parameters(model, upload.values[0])
        logits = model.predict_logits(ctx.proxy.x)
        total += logits if of_logits else softmax(logits)
    mean = (total / len(sent)).astype(np.float32)
    return softmax(mean) if of_logits else mean


def aggregate(ctx: ServerContext) -> Knowledge:
    """Average the parameters, then minimise KL(ensemble, softmax of its own logits) on the proxy set."""
    sent = [upload for upload in ctx.uploads if len(upload)]
    if not sent:
        return ctx.uploads[0]
    model, config, x = model_of(ctx), ctx.config, ctx.proxy.x
    batch = Batch(x, ensemble(ctx, sent), np.ones(len(x), np.float32))
    set_parameters(model, fedavg.mean_parameters(sent).values[0])
    reset_optimizer(model)
    rng = make_rng(ctx.terms.seed, Purpose.STUDENT, ctx.plan.round)
    training, batches = ctx.terms.training, draw(batch, config.steps, config.batch_size, rng)
    batches = training.augment(batches, rng)
    for step, rows in enumerate(batches):
        model.train([rows], config.lr * (1 + float(np.cos(np.pi * step / config.steps))) / 2)
    return Knowledge(np.zeros(1, np.int64), parameters(model)[None], np.ones(1, np.float32))


METHOD = replace(
    fedavg.METHOD,
    name="feddf",
    summary="FedAvg, after which the server distils all clients' models into the mean model on the proxy set",
    config=Config,
    aggregate=aggregate,
    transform=unchanged,
    server_model=True,
)
