"""The part of a round that a client runs, independent of the transport of messages.

The simulator, Flower and the devices all call `client_round`; `edgefd.rounds.server` holds the part of the server, and
`edgefd.rounds.loop` the loop over rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge, empty
from edgefd.core.seeding import Purpose
from edgefd.federation.changes import Changes, Published, changes_since, published
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.context import ClientContext, client_context
from edgefd.federation.distillation import distil, no_rows
from edgefd.federation.method import Method
from edgefd.federation.metrics import client_metrics, reportable
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.terms import FederationTerms
from edgefd.learners.batches import draw, even_passes
from edgefd.learners.learner import NO_LEARNER, Learner
from edgefd.learners.optimizer import reset_optimizer
from edgefd.wire import messages as wire

Evaluate = Callable[[Learner], dict[str, float]]


def client_filter(method: Method, config: Any, data: ClientData, proxy: ProxySet, terms: FederationTerms) -> Float32:
    """Return the acceptance weight of each proxy row: float32 [P], 0 = the client does not answer for the row.

    It is called before the first round, and again when an input of it has changed. A listener answers for no row.
    """
    if is_listener(method, data, terms):
        return np.zeros(len(proxy), np.float32)
    return method.filter(filter_context(config, data, proxy, terms))


def filter_context(config: Any, data: ClientData, proxy: ProxySet, terms: FederationTerms) -> ClientContext:
    """Return the context in which a client fits its filter: without a learner, with its unlabelled samples."""
    if data.unlabelled is not None:
        data = replace(data, x=data.x_filter)
    return client_context(data, NO_LEARNER, proxy, np.zeros(len(proxy), np.float32), terms, config)


def is_listener(method: Method, data: ClientData, terms: FederationTerms) -> bool:
    """Return whether a client has too few samples or classes to answer others: then it only learns from the teacher.

    The filter cannot know from a few samples which rows are like the client's data.
    """
    few = len(data.x) < terms.training.min_samples or len(np.unique(data.y)) < terms.training.min_classes
    return method.message.of_proxy_rows and few


def client_round(
    method: Method, ctx: ClientContext, teacher: Knowledge | None, evaluate: Evaluate | None = None
) -> Report:
    """Run the part of one client in a round: distil, evaluate, train, answer.

    Args:
        method: the method of the federation, with its defence.
        ctx: the client, with the plan of this round; its learner is trained in place.
        teacher: the aggregate of the last round; None in the first round.
        evaluate: function that returns further metrics of the learner (a simulation measures on the test set).
    """
    data, plan, ranges = ctx.data, ctx.plan, client_metrics(ctx.terms)
    measured: dict[str, float] = {}
    if ctx.terms.training.reset_optimizer:
        reset_optimizer(ctx.learner)
    ctx.learner.set_noise(ctx.terms.seed, Purpose.DISTIL, plan.round, data.client)
    metrics = _distil(method, ctx, teacher)
    if plan.evaluate or plan.closing:
        if len(data.y_heldout) and "heldout_accuracy" in ranges:
            metrics["heldout_accuracy"] = accuracy(ctx.learner, data.x_heldout, data.y_heldout)
        measured = evaluate(ctx.learner) if evaluate else {}
    if listener := is_listener(method, data, ctx.terms):
        metrics = {}  # metrics of so few samples would describe each of them
    if plan.closing:
        return Report(data.client, plan.round, empty(ctx.terms.n_classes), reportable(metrics, ranges) | measured)
    if steps := method.local_steps(ctx):
        loss = _train_locally(method, ctx.draw(Purpose.TRAIN), steps)
        metrics |= {} if listener else {"train_loss": loss}
    knowledge = method.upload(ctx.draw(Purpose.UPLOAD))
    return Report(data.client, plan.round, knowledge, reportable(metrics, ranges) | measured)


def publish(
    terms: FederationTerms, plan: RoundPlan, report: Report, sent: Published | None, held: bytes
) -> tuple[Report, Changes | None, Published | None]:
    """Return the report that a client sends, its changes since the server's last one, and what is published after it.

    If the federation sends all rows, or in the closing round, whose reports have no rows, nothing is published.

    Args:
        terms: of the federation.
        plan: of the round.
        report: of `client_round`.
        sent: what the client has published before; None = nothing.
        held: digest of the newest knowledge of this client that the server holds; empty = none.
    """
    if terms.changes_above is None or plan.closing:
        return report, None, sent
    sent = published(sent, wire.rounded(report.knowledge, terms.codec), plan.round, terms.changes_above)
    return replace(report, knowledge=sent.knowledge), changes_since(sent, held), sent


def accuracy(learner: Learner, x: Float32, y: Int64) -> float:
    """Return the share of rows whose largest logit is that of their label."""
    return float((learner.predict_logits(x).argmax(1) == y).mean())


def _distil(method: Method, ctx: ClientContext, teacher: Knowledge | None) -> dict[str, float]:
    """Distil the teacher and the private labels; return the metrics of both and of the selection rule."""
    metrics = {}
    if teacher is None:
        batch = no_rows(ctx)
    else:
        metrics = ctx.terms.selection.client_metrics(teacher, lambda: ctx.probs(teacher.ids))
        batch = method.distillation_targets(ctx.draw(Purpose.DISTIL), teacher)
    steps = method.adjusted_steps(ctx)
    return metrics | distil(ctx, batch, steps) if len(batch) or steps else metrics


def _train_locally(method: Method, ctx: ClientContext, steps: int) -> float:
    training = ctx.terms.training
    ctx.learner.set_noise(ctx.terms.seed, Purpose.TRAIN, ctx.plan.round, ctx.data.client)
    in_order = even_passes if training.local_epochs else draw
    batches = in_order(ctx.private, steps, training.private_batch_size, ctx.rng)
    return method.local_step(ctx, training.augment(batches, ctx.rng))
