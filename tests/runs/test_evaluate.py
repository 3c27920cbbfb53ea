"""Measurements that only a simulation can make, and proof that devices do not send them."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.clients import Federation
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.federation.report import Exchange, Report
from edgefd.rounds.client import accuracy, client_round
from edgefd.rounds.loop import RoundResult
from edgefd.runs.calibration import BINS, ece, pooled
from edgefd.runs.evaluate import AGREEMENT_ROWS, agreement, evaluate
from edgefd.runs.facts import GroundTruth, ground_truth
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


class FixedLearner:
    """Learner that returns the first rows of fixed logits."""

    def __init__(self, logits: Float32) -> None:
        self._logits = logits

    def predict_logits(self, x: Float32) -> Float32:
        return self._logits[: len(x)]


def test_evaluate_measures_accuracy_calibration_and_agreement(federation: Federation) -> None:
    simulation = make_simulation_state(config(), federation)
    learner = simulation.clients[0].learner
    ids = np.arange(len(federation.proxy))
    labels = np.eye(10, dtype=np.float32)[learner.predict_logits(federation.proxy.x).argmax(1)]
    labels[: len(ids) // 2] = np.roll(labels[: len(ids) // 2], 1, axis=1)  # a teacher that differs on the first half
    teacher = Knowledge(ids, labels, np.ones(len(ids), np.float32))
    during, closing = (evaluate(learner, federation, teacher, last) for last in (False, True))
    assert during["accuracy"] == accuracy(learner, federation.x_test, federation.y_test)
    assert during["agreement"] == 0.5
    by_class = {f"{name}/{c}" for name in ("correct", "predicted") for c in range(10)}
    assert set(during) == {"accuracy", "ece", "agreement"} | by_class
    assert sum(during[f"predicted/{c}"] for c in range(10)) == len(federation.x_test)
    assert {k: closing[k] for k in during} == during
    assert sum(closing[f"correct/{c}"] for c in range(10)) == round(during["accuracy"] * len(federation.x_test))
    assert sum(closing[f"bin_count/{b}"] for b in range(BINS)) == len(federation.x_test)
    assert "agreement" not in evaluate(learner, federation, None, False)


def test_agreement_compares_a_sample_of_a_large_teacher(federation: Federation) -> None:
    n = 3 * AGREEMENT_ROWS
    values = np.zeros((n, 2), np.float32)
    values[:, 1] = 1
    proxy = type(federation.proxy)(np.zeros((n, 1), np.float32), np.full(n, -1))
    learner = FixedLearner(np.tile(np.array([[0, 1]], np.float32), (AGREEMENT_ROWS, 1)))
    assert agreement(learner, Knowledge(np.arange(n), values, np.ones(n, np.float32)), proxy) == 1.0  # type: ignore[arg-type]


def test_the_out_of_class_fraction_is_measured_by_client_and_by_weight(federation: Federation) -> None:
    labels = federation.proxy_labels
    assert labels is not None
    in_class = np.flatnonzero(federation.table[0][labels] > 0)[:3]
    out_of_class = np.flatnonzero(federation.table[0][labels] == 0)[:1]
    ids = np.sort(np.concatenate([in_class, out_of_class]))
    weights = np.where(np.isin(ids, out_of_class), 0.2, 0.6).astype(np.float32)
    knowledge = Knowledge(ids, np.full((4, 10), 0.1, np.float32), weights)
    plan = RoundPlan(0, np.arange(len(labels)))
    reports = [Report(0, 0, knowledge, {}), Report(2, 0, Knowledge(ids[:0], np.empty((0, 10)), weights[:0]), {})]
    metrics = measure(RoundResult(plan, Exchange(reports, 0, 0), Progress(1)), ground_truth(federation), 1.0)
    assert metrics.wrong_claims == 0.25
    assert metrics.wrong_claims_per_client == [0.25, None, None]
    assert metrics.wrong_weight_per_client == pytest.approx([0.1, None, None])
    assert (metrics.agreement_mean, metrics.ece_mean, metrics.evaluation) == (None, None, None)


def test_a_device_cannot_claim_what_only_a_simulation_measures() -> None:
    claimed = {"heldout_accuracy": 0.5, "accuracy": 1.0, "agreement": 1.0, "correct/0": 9.0, "predicted/0": 9.0}
    plan = RoundPlan(2, np.arange(60), closing=True)
    result = RoundResult(plan, Exchange([Report(1, 2, empty(10), claimed)], 0, 0), Progress(3))
    metrics = measure(result, GroundTruth(3, 60), 1.0)
    assert (metrics.heldout_accuracy_mean, metrics.accuracy_mean, metrics.agreement_mean) == (0.5, None, None)
    assert metrics.evaluation is not None
    assert metrics.evaluation["correct_by_class"] == metrics.evaluation["predicted_by_class"] == [None] * 3
    assert (metrics.personal_accuracy_mean, metrics.macro_f1_mean, metrics.accuracy_quantiles) == (None, None, None)


def test_a_simulation_measures_calibration_and_agreement_in_the_evaluated_rounds(federation: Federation) -> None:
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
    assert np.array(last.evaluation["predicted_by_class"]).sum(1).tolist() == [len(federation.x_test)] * 3
    right = np.array(last.evaluation["correct_by_class"]).sum(1) / sum(last.evaluation["test_by_class"])
    assert right.tolist() == pytest.approx(last.accuracy_per_client)
    assert RoundMetrics(**json.loads(json.dumps(last.to_dict()))) == last  # as another process sends it


def _bins(raw: dict[str, Any]) -> Any:
    from edgefd.runs.calibration import Reliability

    return Reliability(**raw)


def test_a_device_report_holds_no_metric_of_the_test_set(federation: Federation) -> None:
    c = config()
    client = make_simulation_state(c, federation).clients[1]
    teacher = Knowledge(np.arange(5), np.full((5, 10), 0.1, np.float32), np.ones(5, np.float32))
    for round in (0, c.train.rounds):
        plan = RoundPlan(round, np.arange(len(federation.proxy)), closing=round >= c.train.rounds)
        report = client_round(c.method, dataclasses.replace(client, plan=plan), teacher)
        assert set(report.metrics) <= {"distil_loss", "heldout_accuracy", "train_loss"}
        simulated, _ = client_report(c, federation, client, plan, teacher)
        assert {"accuracy", "ece", "agreement"} <= set(simulated.metrics)


@pytest.mark.parametrize("method", ["centralised", "pooled_proxy"])
def test_a_pooled_client_holds_the_classes_of_all_clients(method: str) -> None:
    federation = prepare(config(method={"name": method})).federation
    (data,) = federation.clients
    held = np.concatenate([data.y, data.y_heldout]) if method == "centralised" else data.y
    assert federation.table.tolist() == [np.bincount(held, minlength=10).tolist()]
