"""What a simulation measures with the truth that it has, and that devices do not send it."""

import json
from typing import Any

import numpy as np
import pytest

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import Federation
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Exchange, Report
from edgefd.rounds.client import accuracy, client_round
from edgefd.rounds.loop import RoundResult
from edgefd.runs.calibration import BINS, ece, pooled, reliability
from edgefd.runs.evaluate import AGREEMENT_ROWS, agreement, evaluate
from edgefd.runs.prepare import prepare
from edgefd.runs.round_metrics import RoundMetrics, measure
from edgefd.simulation.engine import client_report, make_simulation_state, open_transport, simulate


def config(**sections: Any) -> Config:
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 600},
            "partition": {"name": "weak", "n_clients": 3},
            "model": {"name": "mlp"},
            "method": {"name": "edgefd", "n_clusters": 4},
            "train": {"rounds": 2},
            "run": {"workers": 0},
            **sections,
        }
    )


@pytest.fixture(scope="module")
def federation() -> Federation:
    return prepare(config()).federation


class Says:
    """A learner with one answer for each row number, which is what x holds."""

    def __init__(self, logits: Float32) -> None:
        self._logits = logits

    def predict_logits(self, x: Float32) -> Float32:
        return self._logits[: len(x)]


def test_ece_is_what_its_definition_says() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 500).astype(np.float32)
    y = rng.integers(0, 4, 500)
    confidence, right = p.max(1), p.argmax(1) == y
    expected = 0.0
    for b in range(BINS):
        rows = (confidence > b / BINS) & (confidence <= (b + 1) / BINS)
        if rows.any():
            expected += rows.mean() * abs(right[rows].mean() - confidence[rows].mean())
    found = reliability(p, y)
    assert ece(found) == pytest.approx(expected, abs=1e-6)
    assert sum(found.correct) == right.sum()
    halves = pooled([reliability(p[:200], y[:200]), reliability(p[200:], y[200:])])
    assert (halves.count, halves.correct) == (found.count, found.correct)
    assert ece(halves) == pytest.approx(ece(found))


def test_a_model_that_has_diverged_is_sure_of_nothing() -> None:
    assert reliability(np.full((3, 2), np.nan, np.float32), np.zeros(3, np.int64)).count[0] == 3


def test_evaluation_of_a_client(federation: Federation) -> None:
    site = make_simulation_state(config(), federation)
    learner = site.clients[0].learner
    ids = np.arange(len(federation.proxy))
    said = np.eye(10, dtype=np.float32)[learner.predict_logits(federation.proxy.x).argmax(1)]
    said[: len(ids) // 2] = np.roll(said[: len(ids) // 2], 1, axis=1)  # a teacher that differs on the first half
    teacher = Knowledge(ids, said, np.ones(len(ids), np.float32))
    during, closing = (evaluate(learner, federation, teacher, last) for last in (False, True))
    assert during["accuracy"] == accuracy(learner, federation.x_test, federation.y_test)
    assert during["agreement"] == 0.5
    assert set(during) == {"accuracy", "ece", "agreement"}
    assert {k: closing[k] for k in during} == during
    assert sum(closing[f"correct/{c}"] for c in range(10)) == round(during["accuracy"] * len(federation.x_test))
    assert sum(closing[f"bin_count/{b}"] for b in range(BINS)) == len(federation.x_test)
    assert "agreement" not in evaluate(learner, federation, None, False)


def test_agreement_asks_about_a_part_of_a_large_teacher(federation: Federation) -> None:
    n = 3 * AGREEMENT_ROWS
    values = np.zeros((n, 2), np.float32)
    values[:, 1] = 1
    proxy = type(federation.proxy)(np.zeros((n, 1), np.float32), np.full(n, -1))
    says = Says(np.tile(np.array([[0, 1]], np.float32), (AGREEMENT_ROWS, 1)))
    assert agreement(says, Knowledge(np.arange(n), values, np.ones(n, np.float32)), proxy) == 1.0  # type: ignore[arg-type]


def test_wrong_claims_by_client_and_by_weight(federation: Federation) -> None:
    labels = federation.proxy_labels
    assert labels is not None
    mine = np.flatnonzero(federation.table[0][labels] > 0)[:3]
    others = np.flatnonzero(federation.table[0][labels] == 0)[:1]
    ids = np.sort(np.concatenate([mine, others]))
    weights = np.where(np.isin(ids, others), 0.2, 0.6).astype(np.float32)
    knowledge = Knowledge(ids, np.full((4, 10), 0.1, np.float32), weights)
    plan = RoundPlan(0, 0, np.arange(len(labels)), config().train)
    reports = [Report(0, 0, knowledge, {}), Report(2, 0, Knowledge(ids[:0], np.empty((0, 10)), weights[:0]), {})]
    found = measure(RoundResult(plan, Exchange(reports, 0, 0), None), federation, 1.0)
    assert found.wrong_claims == 0.25
    assert found.wrong_claims_per_client == [0.25, None, None]
    assert found.wrong_weight_per_client == pytest.approx([0.1, None, None])
    assert (found.agreement_mean, found.ece_mean, found.evaluation) == (None, None, None)


def test_rounds_of_a_simulation(federation: Federation) -> None:
    rounds = list(simulate(open_transport(config(run={"workers": 0, "evaluate_every": 2}), federation)))
    first, unmeasured, last = rounds
    assert (first.agreement_mean, first.evaluation) == (None, None)
    assert first.ece_mean is not None
    assert (unmeasured.ece_mean, unmeasured.agreement_mean, unmeasured.accuracy_mean) == (None, None, None)
    assert unmeasured.teacher_ece is not None
    assert last.evaluation is not None
    assert last.agreement_per_client is not None
    clients = last.evaluation["clients"]
    assert last.ece_mean == pytest.approx(np.mean([ece(pooled([_bins(c)])) for c in clients]))
    right = np.array(last.evaluation["correct_by_class"]).sum(1) / sum(last.evaluation["test_by_class"])
    assert right.tolist() == pytest.approx(last.accuracy_per_client)
    assert RoundMetrics(**json.loads(json.dumps(last.to_dict()))) == last  # as it comes from another process


def _bins(raw: dict[str, Any]) -> Any:
    from edgefd.runs.calibration import Reliability

    return Reliability(**raw)


def test_what_a_device_sends_tells_nothing_of_test_set_or_truth(federation: Federation) -> None:
    c = config()
    state = make_simulation_state(c, federation).clients[1]
    teacher = Knowledge(np.arange(5), np.full((5, 10), 0.1, np.float32), np.ones(5, np.float32))
    for round in (0, c.train.rounds):
        plan = RoundPlan(0, round, np.arange(len(federation.proxy)), c.train)
        report = client_round(c.method, c.method_config, state, federation.proxy, plan, teacher)
        assert set(report.metrics) <= {"distil_loss", "heldout_accuracy", "train_loss"}
        simulated = client_report(c, federation, state, plan, teacher)
        assert {"accuracy", "ece", "agreement"} <= set(simulated.metrics)


@pytest.mark.parametrize("method", ["centralised", "pooled_proxy"])
def test_a_pooled_client_holds_the_classes_of_all(method: str) -> None:
    federation = prepare(config(method={"name": method})).federation
    (data,) = federation.clients
    held = np.concatenate([data.y, data.y_heldout]) if method == "centralised" else data.y
    assert federation.table.tolist() == [np.bincount(held, minlength=10).tolist()]
