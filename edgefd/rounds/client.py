"""The part of a round that a client runs, independent of the transport of messages.

The simulator, Flower and the devices all call `client_round`; `edgefd.rounds.server` holds the part of the server, and
`edgefd.rounds.loop` the loop over rounds.
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

_BATCHES = 1
"""last key of the generator that orders the batches of a distillation; it is part of every result"""


def client_filter(method: Method, config: Any, data: ClientData, proxy: ProxySet, seed: int) -> Float32:
    """Return the acceptance weight of each proxy row: float32 [P], 0 = the client does not answer for the row.

    It is called once, before the first round, because no input of it changes during a run.
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
    """Run the part of one client in a round: distil, evaluate, train, predict, filter, defend.

    Args:
        method: the method of the federation.
        config: an instance of the method's own Config class.
        state: state of this client; its learner is trained in place.
        proxy: the shared samples.
        plan: the plan of this round.
        teacher: the aggregate of the last round; None in the first round.
        evaluate: function that returns further metrics of the learner (a simulation measures on the test set).
    """
    client = state.data.client
    metrics = {} if teacher is None else _distil_teacher(method, config, state, proxy, plan, teacher)
    if plan.evaluate or plan.closing:
        metrics["heldout_accuracy"] = accuracy(state.learner, state.data.x_heldout, state.data.y_heldout)
        metrics.update(evaluate(state.learner) if evaluate else {})
    if plan.closing:
        return Report(client, plan.round, empty(state.n_classes), metrics)
    if steps := _private_steps(method, plan, len(proxy)):
        metrics["train_loss"] = _train_locally(method, config, state, plan, steps)
    upload = method.upload or functools.partial(upload_accepted_rows, method)
    knowledge = upload(state, proxy, plan, config)
    if len(knowledge):
        knowledge = method.privatise(knowledge, state, proxy, plan)
    return Report(client, plan.round, knowledge, metrics)


def accuracy(learner: Learner, x: Float32, y: Int64) -> float:
    """Return the share of rows whose largest logit is that of their label."""
    return float((learner.predict_logits(x).argmax(1) == y).mean())


def _distil_teacher(
    method: Method, config: Any, state: ClientState, proxy: ProxySet, plan: RoundPlan, teacher: Knowledge
) -> dict[str, float]:
    """Distil the rows of the teacher that the selection rule of the plan chooses; return the metrics."""

    def batch_of(rows: Knowledge) -> Batch:
        rng = make_rng(plan.seed, Purpose.DISTIL, plan.round, state.data.client)
        return method.distillation_targets(_targets(plan.distillation, rows, state), state.data, proxy, config, rng)

    rows = method.personalise_teacher(teacher, state, proxy, config)
    metrics: dict[str, float] = {}
    if len(rows) and plan.selection.name in ("ddk", *CLIENT_RULES):
        client_probs = softmax(state.learner.predict_logits(proxy.x[rows.ids]))
        if plan.selection.name == "ddk":
            metrics = class_divergence(rows, client_probs)
        else:
            rng, all_rows = make_rng(plan.seed, Purpose.SUBSET, plan.round, state.data.client), rows
            rows = subset_rows(
                plan.selection, rows, client_probs, rng, lambda: _reference_probs(state, batch_of(all_rows), plan)
            )
    batch = batch_of(rows)
    if len(batch):
        metrics["distil_loss"] = _distil(state, batch, plan)
    return metrics


def _targets(settings: Distillation, teacher: Knowledge, state: ClientState) -> Knowledge:
    """Return the teacher with the targets of the loss, if they do not depend on the model or the training step."""
    data = state.data
    if settings.loss == "swing":
        return per_row_temperature(teacher, state.acceptance, settings.temperature)
    if settings.loss != "mixed" or not len(data.contributed):
        return teacher
    if data.contributed_y is None:
        raise RunError(
            f"distillation.loss=mixed needs the labels of the {len(data.contributed)} rows that client {data.client} "
            "contributed: add them to its data, as owned_y, or use another loss"
        )
    return with_labels(teacher, data.contributed, data.contributed_y, settings.label_share)


def _reference_probs(state: ClientState, batch: Batch, plan: RoundPlan) -> Float32:
    """Return soft labels of a reference model: this client's model after distilling all rows. Its state is restored."""
    before = state.learner.state()
    _distil(state, batch, plan)
    reference_probs = softmax(state.learner.predict_logits(batch.x))
    state.learner.load_state(before)
    return reference_probs


def _distil(state: ClientState, batch: Batch, plan: RoundPlan) -> float:
    settings = plan.training
    rng = make_rng(plan.seed, Purpose.DISTIL, plan.round, state.data.client, _BATCHES)
    epochs = settings.closing_epochs if plan.closing else settings.distill_epochs
    size = settings.batch_size - settings.private_rows_per_batch
    steps = epochs * -(-len(batch) // size)
    batches = passes(batch, epochs, size, rng)
    if settings.private_rows_per_batch:
        private = labelled(state.data.x, state.data.y, state.n_classes)
        batches = mixed(batches, draw(private, steps, settings.private_rows_per_batch, rng))
    batches, lr = augment(batches, plan.training.augment_shift, rng), settings.lr_at(plan.round)
    n_private = min(settings.private_rows_per_batch, len(state.data.x))
    if isinstance(state.learner, DualHead):
        return state.learner.distil(batches, lr, n_private)
    if not needs_logits(plan.distillation):
        return state.learner.train(batches, lr)
    loss = loss_of(plan.distillation, plan.round, settings.rounds, steps)
    return _step_by_step(state.learner, batches, lr, loss, n_private)


def _step_by_step(learner: Learner, batches: Iterable[Batch], lr: float, loss: Loss, n_private: int) -> float:
    """Train on targets that the loss computes from the learner's logits before each step; return the mean loss.

    The last `n_private` rows of a batch are private rows and keep their labels. They do not count in the mean.
    """
    mean_losses = []
    for batch in batches:
        n = len(batch) - n_private
        targets, losses = loss(learner.predict_logits(batch.x[:n]), batch.targets[:n])
        mixture = np.concatenate([targets.astype(np.float32), batch.targets[n:]])
        learner.train([Batch(batch.x, mixture, batch.weights)], lr)
        mean_losses.append(float(losses.mean()))
    return sum(mean_losses) / max(len(mean_losses), 1)


def _private_steps(method: Method, plan: RoundPlan, n_proxy: int) -> int:
    settings = plan.training
    if (
        settings.local_steps
        or method.local_training == "configured"
        or (method.local_training == "warmup" and plan.round > 0)
    ):
        return settings.local_steps
    return settings.distill_epochs * -(-n_proxy // (settings.batch_size - settings.private_rows_per_batch))


def _train_locally(method: Method, config: Any, state: ClientState, plan: RoundPlan, steps: int) -> float:
    rng = make_rng(plan.seed, Purpose.TRAIN, plan.round, state.data.client)
    private = labelled(state.data.x, state.data.y, state.n_classes)
    if method.run_local_training is not None:
        return method.run_local_training(state.learner, private, steps, plan, rng)
    batches = augment(draw(private, steps, plan.training.batch_size, rng), plan.training.augment_shift, rng)
    return method.train(state.learner, batches, plan.training.lr_at(plan.round), config)
