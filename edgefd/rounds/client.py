"""The one round: what a client and the server do, whatever carries their messages.

The simulator, Flower and the devices all call `client_round` and `server_round`; `run_rounds` is the loop around them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge, empty
from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.clients import ClientData, ProxySet
from edgefd.federation.method import Method, upload_accepted_rows
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.state import ClientState
from edgefd.learners.batches import Batch, augment, draw, labelled, mixed, passes, softmax
from edgefd.learners.distillation_loss import (
    Distillation,
    Loss,
    loss_of,
    needs_logits,
    per_row_temperature,
    with_labels,
)
from edgefd.learners.dual_head import DualHead
from edgefd.learners.learner import Learner
from edgefd.selection.settings import CLIENT_RULES
from edgefd.selection.subset import class_divergence, subset_rows

Evaluate = Callable[[Learner], dict[str, float]]


def client_filter(method: Method, config: Any, data: ClientData, proxy: ProxySet, seed: int) -> Float32:
    """How surely the client answers for each proxy row (float32 [P], 0 = not at all).

    Run once, before the first round: it depends on nothing that changes.
    """
    return method.client_filter(data, proxy, config, make_rng(seed, Purpose.FILTER, data.client))


def client_round(
    method: Method,
    config: Any,
    state: ClientState,
    proxy: ProxySet,
    plan: RoundPlan,
    teacher: Knowledge | None,
    evaluate: Evaluate | None = None,
) -> Report:
    """Distil, evaluate, train, predict, filter, defend: one client's part of a round.

    Args:
        method: what distinguishes this federation.
        config: of the method's own Config class.
        state: of this client; its learner is trained in place.
        proxy: the shared samples.
        plan: of this round.
        teacher: the last round's aggregate; None in the first round.
        evaluate: more metrics of the learner where there is more to measure on (a simulation has the test set).
    """
    client = state.data.client
    metrics = {} if teacher is None else _learn(method, config, state, proxy, plan, teacher)
    if plan.evaluate or plan.closing:
        metrics["heldout_accuracy"] = accuracy(state.learner, state.data.x_heldout, state.data.y_heldout)
        metrics.update(evaluate(state.learner) if evaluate else {})
    if plan.closing:
        return Report(client, plan.round, empty(state.n_classes), metrics)
    if steps := _private_steps(method, plan, len(proxy)):
        metrics["train_loss"] = _train(method, config, state, plan, steps)
    answer = method.upload or functools.partial(upload_accepted_rows, method)
    knowledge = answer(state, proxy, plan, config)
    if len(knowledge):
        knowledge = method.privatise(knowledge, state, proxy, plan)
    return Report(client, plan.round, knowledge, metrics)


def accuracy(learner: Learner, x: Float32, y: Int64) -> float:
    """Share of rows whose largest logit is their label."""
    return float((learner.predict_logits(x).argmax(1) == y).mean())


def _learn(
    method: Method, config: Any, state: ClientState, proxy: ProxySet, plan: RoundPlan, teacher: Knowledge
) -> dict[str, float]:
    """Learn the teacher's rows that the plan's selection leaves, as the plan says; metrics of it."""

    def batch_of(rows: Knowledge) -> Batch:
        rng = make_rng(plan.seed, Purpose.DISTIL, plan.round, state.data.client)
        return method.distillation_targets(_targets(plan.distillation, rows, state), state.data, proxy, config, rng)

    rows = method.personalise_teacher(teacher, state, proxy, config)
    metrics: dict[str, float] = {}
    if len(rows) and plan.selection.name in ("ddk", *CLIENT_RULES):
        own = softmax(state.learner.predict_logits(proxy.x[rows.ids]))
        if plan.selection.name == "ddk":
            metrics = class_divergence(rows, own)
        else:
            rng, every = make_rng(plan.seed, Purpose.SUBSET, plan.round, state.data.client), rows
            rows = subset_rows(plan.selection, rows, own, rng, lambda: _reference(state, batch_of(every), plan))
    batch = batch_of(rows)
    if len(batch):
        metrics["distil_loss"] = _distil(state, batch, plan)
    return metrics


def _targets(settings: Distillation, teacher: Knowledge, state: ClientState) -> Knowledge:
    """The teacher with other targets, where they depend on neither model nor moment."""
    data = state.data
    if settings.loss == "swing":
        return per_row_temperature(teacher, state.acceptance, settings.temperature)
    if settings.loss != "mixed" or not len(data.contributed):
        return teacher
    if data.contributed_y is None:
        raise RunError(
            f"distillation.loss=mixed needs the labels of the {len(data.contributed)} rows that client {data.client} "
            "contributed: name them in its data, as owned_y, or use another loss"
        )
    return with_labels(teacher, data.contributed, data.contributed_y, settings.label_share)


def _reference(state: ClientState, batch: Batch, plan: RoundPlan) -> Float32:
    """Soft labels of the lesson's rows by this client, had it learned all of them; it goes on as it was."""
    before = state.learner.state()
    _distil(state, batch, plan)
    said = softmax(state.learner.predict_logits(batch.x))
    state.learner.load_state(before)
    return said


def _distil(state: ClientState, batch: Batch, plan: RoundPlan) -> float:
    settings = plan.training
    rng = make_rng(plan.seed, Purpose.DISTIL, plan.round, state.data.client, 1)
    epochs = settings.closing_epochs if plan.closing else settings.distill_epochs
    size = settings.batch_size - settings.private_rows_per_batch
    steps = epochs * -(-len(batch) // size)
    batches = passes(batch, epochs, size, rng)
    if settings.private_rows_per_batch:
        own = labelled(state.data.x, state.data.y, state.n_classes)
        batches = mixed(batches, draw(own, steps, settings.private_rows_per_batch, rng))
    batches, lr = augment(batches, plan.training.augment_shift, rng), settings.lr_at(plan.round)
    n_private = min(settings.private_rows_per_batch, len(state.data.x))
    if isinstance(state.learner, DualHead):
        return state.learner.distil(batches, lr, n_private)
    if not needs_logits(plan.distillation):
        return state.learner.train(batches, lr)
    loss = loss_of(plan.distillation, plan.round, settings.rounds, steps)
    return _step_by_step(state.learner, batches, lr, loss, n_private)


def _step_by_step(learner: Learner, batches: Iterable[Batch], lr: float, loss: Loss, n_private: int) -> float:
    """Train with the targets that the loss makes of what the learner says of each batch; the mean loss of its rows.

    The last `n_private` rows of a batch are private ones, with their labels.
    """
    found = []
    for batch in batches:
        n = len(batch) - n_private
        targets, losses = loss(learner.predict_logits(batch.x[:n]), batch.targets[:n])
        mixture = np.concatenate([targets.astype(np.float32), batch.targets[n:]])
        learner.train([Batch(batch.x, mixture, batch.weights)], lr)
        found.append(float(losses.mean()))
    return sum(found) / max(len(found), 1)


def _private_steps(method: Method, plan: RoundPlan, n_proxy: int) -> int:
    settings = plan.training
    if (
        settings.local_steps
        or method.local_training == "configured"
        or (method.local_training == "warmup" and plan.round > 0)
    ):
        return settings.local_steps
    return settings.distill_epochs * -(-n_proxy // (settings.batch_size - settings.private_rows_per_batch))


def _train(method: Method, config: Any, state: ClientState, plan: RoundPlan, steps: int) -> float:
    rng = make_rng(plan.seed, Purpose.TRAIN, plan.round, state.data.client)
    own = labelled(state.data.x, state.data.y, state.n_classes)
    if method.run_local_training is not None:
        return method.run_local_training(state.learner, own, steps, plan, rng)
    batches = augment(draw(own, steps, plan.training.batch_size, rng), plan.training.augment_shift, rng)
    return method.train(state.learner, batches, plan.training.lr_at(plan.round), config)
