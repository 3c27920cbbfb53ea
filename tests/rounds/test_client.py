"""The client's part of a round: what it trains on, measures and sends in each kind of round."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge
from edgefd.defences.apply import defended
from edgefd.defences.top_k import TopK
from edgefd.federation.context import ClientContext
from edgefd.federation.method import Method
from edgefd.federation.plan import RoundPlan
from edgefd.learners.batches import Batch
from edgefd.learners.learner import Learner
from edgefd.methods import get_method
from edgefd.rounds.client import accuracy, client_filter, client_round, is_listener
from edgefd.rounds.validation import expected_report
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import make_simulation_state
from tests.support.linear_clients import (
    CLIENTS,
    PROXY,
    ROWS,
    TERMS,
    TRAINING,
    Linear,
    in_round,
    new_clients,
    plan,
    play,
    with_methods,
)
from tests.support.small_runs import config, teachers

FEDMD = get_method("fedmd")


def fedmd_round(
    client: ClientContext, round: int, teacher: Knowledge | None = None, **changes: object
) -> dict[str, float]:
    """Run a round of FedMD and return its metrics."""
    changed = dataclasses.replace(plan(round), **changes)
    return client_round(FEDMD, dataclasses.replace(client, plan=changed), teacher).metrics


@with_methods()
def test_a_report_of_the_closing_round_has_no_rows(method: Method) -> None:
    _, rounds, clients = play(method, 2)
    report = client_round(method, in_round(clients[0], TRAINING.rounds), rounds[-1])
    assert len(report.knowledge) == 0
    assert "heldout_accuracy" in report.metrics
    assert "train_loss" not in report.metrics


def test_the_first_round_distils_nothing() -> None:
    assert "distil_loss" not in fedmd_round(new_clients(FEDMD)[0], 0)


def test_later_rounds_distil_the_teacher_before_they_train() -> None:
    _, rounds, clients = play(FEDMD, 1)
    assert {"distil_loss", "train_loss"} <= fedmd_round(clients[0], 1, rounds[-1]).keys()


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e300])
def test_the_loss_of_a_model_that_has_diverged_is_reported_as_the_largest_one(loss: float) -> None:
    class Diverged(Linear):
        def train(self, batches: Iterable[Batch], lr: float) -> float:
            return loss

    _, rounds, clients = play(FEDMD, 1)
    metrics = fedmd_round(dataclasses.replace(clients[0], learner=Diverged()), 1, rounds[-1])
    assert metrics["train_loss"] == metrics["distil_loss"] == 1e6
    expected_report(FEDMD, TERMS, plan(1)).check_metrics(metrics)


def test_a_client_without_heldout_samples_reports_no_accuracy() -> None:
    client = new_clients(FEDMD)[0]
    data = dataclasses.replace(client.data, x_heldout=client.data.x_heldout[:0], y_heldout=client.data.y_heldout[:0])
    assert "heldout_accuracy" not in fedmd_round(dataclasses.replace(client, data=data), 0)


def test_accuracy_is_measured_if_the_plan_demands_it_and_in_the_closing_round() -> None:
    _, rounds, clients = play(FEDMD, 1)
    assert "heldout_accuracy" not in fedmd_round(clients[0], 1, rounds[-1], evaluate=False)
    assert "heldout_accuracy" in fedmd_round(clients[0], 2, rounds[-1])
    assert "heldout_accuracy" in fedmd_round(clients[0], TRAINING.rounds, rounds[-1], evaluate=False)


def test_further_metrics_are_those_of_the_given_function() -> None:
    report = client_round(FEDMD, new_clients(FEDMD)[0], None, lambda _: {"accuracy": 0.25})
    assert report.metrics["accuracy"] == 0.25


def test_only_queried_and_accepted_rows_are_sent() -> None:
    client = new_clients(FEDMD)[0]
    client.acceptance[10:] = 0
    fewer_ids = dataclasses.replace(plan(0), ids=np.arange(0, ROWS, 4))
    report = client_round(FEDMD, dataclasses.replace(client, plan=fewer_ids), None)
    assert report.knowledge.ids.tolist() == [0, 4, 8]


def test_the_defence_changes_knowledge_last_and_only_if_there_are_rows() -> None:
    seen = []

    class FirstRows(TopK):
        def privatise(self, ctx: ClientContext, knowledge: Knowledge) -> Knowledge:
            seen.append(len(knowledge))
            return Knowledge(knowledge.ids[:2], knowledge.values[:2], knowledge.weights[:2])

    method = defended(FEDMD, FirstRows())
    client = new_clients(FEDMD)[0]
    assert len(client_round(method, client, None).knowledge) == 2
    client.acceptance[:] = 0
    assert len(client_round(method, client, None).knowledge) == 0
    assert seen == [ROWS]


@pytest.mark.parametrize(
    ("local_training", "rounds_with_training"), [("configured", []), ("warmup", [0]), ("always", [0, 1, 2])]
)
def test_without_local_steps_a_method_chooses_the_rounds_of_private_training(
    local_training: str, rounds_with_training: list[int]
) -> None:
    method = dataclasses.replace(FEDMD, local_training=local_training)
    metrics = [client_round(method, in_round(new_clients(FEDMD)[0], r, local_steps=0), None).metrics for r in range(3)]
    assert [r for r, m in enumerate(metrics) if "train_loss" in m] == rounds_with_training


@pytest.mark.parametrize(
    ("settings", "sizes_by_round"),
    [
        ({"local_steps": 2, "local_batch_size": 7}, [[7, 7], [7, 7]]),
        ({"local_steps": 1, "warmup_steps": 2, "local_batch_size": 5}, [[5, 5, 5], [5]]),
        ({"local_steps": 0, "local_epochs": 2, "local_batch_size": 20}, [[15] * 4, [15] * 4]),
        ({"local_steps": 0, "warmup_steps": 1}, [[16], []]),
    ],
    ids=str,
)
def test_a_round_trains_on_the_private_batches_that_the_settings_ask_for(
    settings: dict[str, object], sizes_by_round: list[list[int]]
) -> None:
    """The client has 30 private rows, and the batches of its distillation have 16."""
    for round, sizes in enumerate(sizes_by_round):
        trained: list[int] = []

        def local_step(ctx: ClientContext, batches: Iterable[Batch], trained: list[int] = trained) -> float:
            trained += [len(batch) for batch in batches]
            return 0.0

        method = dataclasses.replace(FEDMD, local_step=local_step)
        client_round(method, in_round(new_clients(FEDMD)[0], round, **settings), None)
        assert trained == sizes


def test_clients_share_their_initial_parameters_or_have_their_own() -> None:
    def first_weights(initial: str, seed: int = 0) -> list[np.ndarray]:
        c = config(train={"rounds": 1, "initial": initial}, seed=seed)
        clients = make_simulation_state(c, prepare(c).federation).clients
        return [client.learner.state()["model/fc1.weight"] for client in clients]

    shared, own, again, other = (first_weights(*x) for x in (("shared",), ("own",), ("own",), ("own", 1)))
    assert np.array_equal(shared[0], shared[1])
    assert not np.array_equal(own[0], own[1])
    assert not np.array_equal(own[0], shared[0])
    assert np.array_equal(own, again)
    assert not np.array_equal(own[0], other[0])


def test_the_filter_depends_on_the_seed_and_the_client() -> None:
    """The filter of this method returns the first random number of its generator."""

    method = dataclasses.replace(FEDMD, filter=lambda ctx: ctx.rng.random(1).astype(np.float32))
    weights = [
        float(client_filter(method, None, CLIENTS[client], PROXY, dataclasses.replace(TERMS, seed=seed))[0])
        for client, seed in ((0, 0), (0, 0), (1, 0), (0, 1))
    ]
    assert weights[0] == weights[1]
    assert len(set(weights)) == 3


@pytest.mark.parametrize(
    "use", [lambda model: model.predict_logits(PROXY.x), lambda model: model.state(), lambda model: model.train([], 1)]
)
def test_the_filter_cannot_use_the_model_of_the_client(use: Callable[[Learner], object]) -> None:
    method = dataclasses.replace(FEDMD, filter=lambda ctx: use(ctx.learner))
    with pytest.raises(RunError, match=r"the filter runs before the first round: it cannot use \w+ of the client's"):
        client_filter(method, None, CLIENTS[0], PROXY, TERMS)


def test_accuracy_is_the_share_of_rows_whose_largest_logit_is_the_label() -> None:
    learner = Linear()
    learner.w[0, 1] = 1  # samples with a positive first number are of class 1, others of class 0
    x = np.zeros((4, 6), np.float32)
    x[:, 0] = [1, 1, -1, -1]
    assert accuracy(learner, x, np.array([1, 0, 0, 0])) == 0.75


def test_the_reference_model_of_adaspec_leaves_the_client_as_it_was() -> None:
    """AdaSPEC distils all rows once to find those that can be learned, then restores the model."""
    c = config(selection={"name": "adaspec", "budget": 0.999})
    plain = config()
    federation = prepare(c).federation
    teacher = teachers(plain)[0]
    teacher = Knowledge(teacher.ids[:10], teacher.values[:10], teacher.weights[:10])
    ends = []
    for one in (c, plain):
        client = make_simulation_state(one, federation).clients[0]
        second = RoundPlan(1, np.arange(len(federation.proxy)))
        client_round(one.method, dataclasses.replace(client, plan=second), teacher)
        ends.append(client.learner.state())
    assert all(np.array_equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


def test_the_mixed_loss_refuses_a_client_without_labels_of_its_contributed_rows() -> None:
    c = config(distillation={"loss": "mixed"})
    federation = prepare(c).federation
    client = make_simulation_state(c, federation).clients[1]
    data = dataclasses.replace(client.data, contributed_y=None)
    client = dataclasses.replace(client, data=data, plan=RoundPlan(1, np.arange(len(federation.proxy))))
    with pytest.raises(RunError, match=r"labels of the 21 rows that the client contributed: add them .* owned_y"):
        client_round(c.method, client, teachers(config())[0])


def answered_rows(method: Method, client: ClientContext, **training: int) -> int:
    """Return the number of proxy rows for which a client answers under a changed training protocol."""
    terms = dataclasses.replace(TERMS, training=dataclasses.replace(TRAINING, **training))
    return int((client_filter(method, client.config, client.data, PROXY, terms) > 0).sum())


@pytest.mark.parametrize(("rows", "rule"), [(slice(3), "min_samples"), (slice(None), "min_classes")])
def test_a_client_with_few_samples_or_classes_learns_but_sends_nothing(rows: slice, rule: str) -> None:
    client = new_clients(FEDMD)[0]
    few = dataclasses.replace(client.data, x=client.data.x[rows], y=client.data.y[rows])
    terms = dataclasses.replace(
        TERMS, training=dataclasses.replace(TRAINING, local_steps=2, min_samples=8, min_classes=1)
    )
    if rule == "min_classes":
        terms = dataclasses.replace(terms, training=dataclasses.replace(terms.training, min_classes=3))
    none = client_filter(FEDMD, client.config, few, PROXY, terms)
    client = dataclasses.replace(client, data=few, acceptance=none, terms=terms, plan=plan(0))
    before = client.learner.state()["model/w"]
    report = client_round(FEDMD, client, None, lambda _: {"accuracy": 0.5})
    assert not none.any()
    assert (len(report.knowledge), report.metrics) == (0, {"accuracy": 0.5})
    assert not np.array_equal(client.learner.state()["model/w"], before)


def test_the_rule_for_listeners_can_be_switched_off_and_is_for_labels_of_proxy_rows() -> None:
    few = dataclasses.replace(new_clients(FEDMD)[0])
    few = dataclasses.replace(few, data=dataclasses.replace(few.data, x=few.data.x[:3], y=few.data.y[:3]))
    assert answered_rows(FEDMD, few, min_samples=8) == 0
    assert answered_rows(FEDMD, few, min_samples=0) == len(PROXY)
    assert not is_listener(get_method("fedavg"), few.data, TERMS)
