"""Metrics of a round. A simulation knows the clients' classes, so it can measure the out-of-class fraction too."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edgefd.core.arrays import Bool
from edgefd.core.knowledge import Knowledge
from edgefd.federation.method import MessageKind
from edgefd.federation.report import Report
from edgefd.rounds.loop import RoundResult
from edgefd.runs.calibration import BINS, Reliability, ece, reliability
from edgefd.runs.facts import GroundTruth
from edgefd.runs.personal_metrics import bam, macro_f1, personal_accuracy, quantiles, recall

_OF_DEVICES = ("heldout_accuracy", "distil_loss", "train_loss")
"""metrics that devices measure; a simulation measures all others"""


@dataclass(frozen=True)
class RoundMetrics:
    """Metrics of one round: one line of metrics.jsonl.

    Accuracies are those of the clients' models on the whole test set, or, with data.evaluate_on=validation, on the
    validation part. None means not measured. Means are over the clients whose reports were used. Lists have one entry
    for each client, None for a client whose report was not used.
    """

    round: int
    """number of the round, from 0"""
    closing: bool
    """whether this is the closing round, in which clients send no soft labels, so kept_fraction is 0"""
    seconds: float
    """duration of the round"""
    accuracy_mean: float | None
    """mean accuracy of the clients' models"""
    accuracy_worst: float | None
    """lowest accuracy of a client's model"""
    accuracy_per_client: list[float | None] | None
    """accuracy of each client's model"""
    heldout_accuracy_mean: float | None
    """mean accuracy of the clients' models, each on its own held-out data"""
    kept_fraction: float
    """accepted fraction: mean over clients of the fraction of proxy rows that a client sent soft labels for"""
    kept_per_client: list[float | None]
    """accepted fraction of each client"""
    wrong_claims: float | None
    """out-of-class fraction: fraction of the sent soft labels whose row is of a class that the client does not have;
    None without proxy labels, and for devices, whose classes the coordinator does not know"""
    teacher_coverage: float
    """fraction of the proxy rows that have a teacher label"""
    teacher_accuracy: float | None
    """fraction of the teacher's rows whose largest probability is that of the true class; None without proxy labels"""
    distil_loss: float | None
    """mean over clients of their mean distillation loss; None if no client distilled"""
    train_loss: float | None
    """mean over clients of their mean loss on the private data of `train.local_steps`; None if no client trained"""
    bytes_up: int
    """bytes of serialised knowledge that all clients sent"""
    bytes_down: int
    """bytes of serialised teachers that all clients received"""
    wrong_claims_per_client: list[float | None] | None = None
    """`wrong_claims` of each client; None for a client that sent no soft label"""
    wrong_weight_per_client: list[float | None] | None = None
    """out-of-class fraction of each client by weight: the weight of its out-of-class rows divided by the weight of all
    its rows"""
    ece_mean: float | None = None
    """mean over clients of their expected calibration error on the test set (`edgefd.runs.calibration`)"""
    teacher_ece: float | None = None
    """expected calibration error of the teacher on its proxy rows; None without proxy labels"""
    agreement_mean: float | None = None
    """mean over clients of the fraction of the teacher's rows for which model and teacher predict the same class, after
    distillation"""
    agreement_per_client: list[float | None] | None = None
    """agreement with the teacher of each client"""
    personal_accuracy_mean: float | None = None
    """mean over clients of the personal accuracy: the accuracy on the client's own distribution, which is the test set
    reweighted by the client's class shares; with partition.name=by_group, it is the accuracy on the client's held-out
    data, because people differ in more than their classes"""
    personal_accuracy_per_client: list[float | None] | None = None
    """personal accuracy of each client"""
    bam_mean: float | None = None
    """mean over clients of the geometric mean of personal accuracy and accuracy on the whole test set"""
    macro_f1_mean: float | None = None
    """mean over clients of the macro F1 on the test set: the mean over classes of F1"""
    recall_by_class: list[float | None] | None = None
    """mean over clients of the recall of each class; None for a class without test rows"""
    accuracy_quantiles: list[float] | None = None
    """10 %, 50 % and 90 % quantile over clients of the accuracy on the whole test set"""
    personal_accuracy_quantiles: list[float] | None = None
    """10 %, 50 % and 90 % quantile over clients of the personal accuracy"""
    virtual_seconds: float | None = None
    """duration of the round on the virtual clock of a simulation with `devices`; None without one"""
    joules: float | None = None
    """energy of all devices for their work that began in the round; None without a virtual clock"""
    evaluation: dict[str, Any] | None = None
    """fields of an `Evaluation`, in the closing round only; written to evaluation.json instead"""

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """Detailed evaluation of the final models. Lists have one entry for each client; None = not measured (devices)."""

    test_by_class: list[int] | None
    """number of test rows of each class"""
    correct_by_class: list[list[int] | None]
    """number of test rows of each class that a client's model predicts correctly"""
    clients: list[Reliability | None]
    """reliability of each client's model on the test set"""
    teacher: Reliability | None
    """reliability of the last teacher on its proxy rows; None without proxy labels"""
    predicted_by_class: list[list[int] | None] | None = None
    """number of test rows that a client's model predicts as each class; None in a run of an older edgefd"""


def measure(
    result: RoundResult, truth: GroundTruth, seconds: float, message: MessageKind = MessageKind.PROXY_LABELS
) -> RoundMetrics:
    """Return the metrics of a round.

    `message` is the kind of the method's messages (`Method.message`). Only rows that stand for proxy samples have an
    accepted fraction, and only a single teacher has an accuracy.
    """
    reports = sorted(result.exchange.reports, key=lambda r: r.client)
    if truth.table is None:  # devices: they have no test set, so no other metric of theirs is believed
        reports = [
            replace(r, metrics={name: r.metrics[name] for name in _OF_DEVICES if name in r.metrics}) for r in reports
        ]
    n_clients = truth.n_clients
    accuracies = [r.metrics["accuracy"] for r in reports if "accuracy" in r.metrics]
    size = truth.n_proxy
    of_rows = message not in (MessageKind.CLASS_LABELS, MessageKind.PROTOTYPES, MessageKind.PARAMETERS)
    accepted_fraction = {r.client: len(r.knowledge) / size if of_rows else 0.0 for r in reports}
    teacher = result.teacher if message is MessageKind.PROXY_LABELS else None
    wrong = _out_of_class(reports, truth) if of_rows else None
    return RoundMetrics(
        round=result.plan.round,
        closing=result.plan.closing,
        seconds=seconds,
        accuracy_mean=_mean_of(reports, "accuracy"),
        accuracy_worst=min(accuracies, default=None),
        accuracy_per_client=_by_client(reports, "accuracy", n_clients),
        heldout_accuracy_mean=_mean_of(reports, "heldout_accuracy"),
        kept_fraction=float(np.mean(list(accepted_fraction.values()))),
        kept_per_client=[accepted_fraction.get(c) for c in range(n_clients)],
        wrong_claims=sum(int(rows.sum()) for _, rows in wrong) / sum(len(rows) for _, rows in wrong) if wrong else None,
        teacher_coverage=len(teacher) / size if teacher is not None else 0.0,
        teacher_accuracy=_teacher_accuracy(teacher, truth),
        distil_loss=_mean_of(reports, "distil_loss"),
        train_loss=_mean_of(reports, "train_loss"),
        bytes_up=result.exchange.bytes_up,
        bytes_down=result.exchange.bytes_down,
        wrong_claims_per_client=_out_of_class_by_client(wrong, n_clients, weighted=False),
        wrong_weight_per_client=_out_of_class_by_client(wrong, n_clients, weighted=True),
        ece_mean=_mean_of(reports, "ece"),
        teacher_ece=None if (bins := _teacher_bins(teacher, truth)) is None else ece(bins),
        agreement_mean=_mean_of(reports, "agreement"),
        agreement_per_client=_by_client(reports, "agreement", n_clients),
        **_personal(reports, truth),
        virtual_seconds=result.exchange.virtual_seconds,
        joules=result.exchange.joules,
        evaluation=asdict(_evaluation(reports, teacher, truth)) if result.plan.closing else None,
    )


def _personal(reports: list[Report], truth: GroundTruth) -> dict[str, Any]:
    """Return the metrics of a round that need the predictions by class; none for devices, which have no test set."""
    total, table, n_classes = truth.test_by_class, truth.table, len(truth.test_by_class or ())
    measured = [r for r in reports if n_classes and _listed(r, "predicted", n_classes)]
    if not measured or total is None or table is None:
        return {}
    correct, predicted = (
        {r.client: _listed(r, name, n_classes) for r in measured} for name in ("correct", "predicted")
    )
    general = {r.client: r.metrics["accuracy"] for r in measured}
    if truth.by_group:
        personal = {r.client: r.metrics.get("heldout_accuracy") for r in measured}
    else:
        personal = {c: personal_accuracy(correct[c], total, table[c]) for c in general}
    known = {c: p for c, p in personal.items() if p is not None}
    by_class = np.mean([recall(correct[c], total) for c in general], 0)
    return {
        "personal_accuracy_mean": float(np.mean(list(known.values()))) if known else None,
        "personal_accuracy_per_client": [personal.get(c) for c in range(truth.n_clients)],
        "bam_mean": float(np.mean([bam(p, general[c]) for c, p in known.items()])) if known else None,
        "macro_f1_mean": float(np.mean([macro_f1(correct[c], predicted[c], total) for c in general])),
        "recall_by_class": [None if np.isnan(r) else float(r) for r in by_class],
        "accuracy_quantiles": quantiles(list(general.values())),
        "personal_accuracy_quantiles": quantiles(list(known.values())),
    }


def _out_of_class(reports: list[Report], truth: GroundTruth) -> list[tuple[Report, Bool]] | None:
    """Return the reports with soft labels, each with which of its rows are of a class that the client does not have.

    None without proxy labels, and for devices.
    """
    labels, table = truth.proxy_labels, truth.table
    if labels is None or table is None:
        return None
    return [(r, table[r.client][labels[r.knowledge.ids]] == 0) for r in reports if len(r.knowledge)]


def _out_of_class_by_client(
    wrong: list[tuple[Report, Bool]] | None, n_clients: int, weighted: bool
) -> list[float | None] | None:
    if wrong is None:
        return None
    fractions: list[float | None] = [None] * n_clients
    for r, rows in wrong:
        weights = r.knowledge.weights if weighted else np.ones(len(rows))
        fractions[r.client] = float(weights[rows].sum(dtype=np.float64) / weights.sum(dtype=np.float64))
    return fractions


def _evaluation(reports: list[Report], teacher: Knowledge | None, truth: GroundTruth) -> Evaluation:
    """Build the evaluation from the metrics that `edgefd.runs.evaluate` put into the reports."""
    correct: list[list[int] | None] = [None] * truth.n_clients
    predicted: list[list[int] | None] = [None] * truth.n_clients
    clients: list[Reliability | None] = [None] * truth.n_clients
    n_classes = len(truth.test_by_class or ())
    for r in reports:
        by_class, as_class = (_listed(r, name, n_classes) for name in ("correct", "predicted"))
        count, confidence, n_correct = (_listed(r, f"bin_{name}", BINS) for name in ("count", "confidence", "correct"))
        if by_class and as_class and count and confidence and n_correct:
            correct[r.client], predicted[r.client] = [round(n) for n in by_class], [round(n) for n in as_class]
            clients[r.client] = Reliability([round(n) for n in count], confidence, [round(n) for n in n_correct])
    return Evaluation(truth.test_by_class, correct, clients, _teacher_bins(teacher, truth), predicted)


def _listed(report: Report, name: str, count: int) -> list[float]:
    """Return the metrics name/0, name/1, ... as a list of `count` numbers; empty if the report has not all of them."""
    names = [f"{name}/{i}" for i in range(count)]
    return [report.metrics[each] for each in names] if all(each in report.metrics for each in names) else []


def _teacher_bins(teacher: Knowledge | None, truth: GroundTruth) -> Reliability | None:
    """Return the teacher's reliability; None without labels, and for a teacher whose rows are no probabilities."""
    if teacher is None or not len(teacher) or truth.proxy_labels is None:
        return None
    if teacher.values.min() < 0 or np.abs(teacher.values.sum(1) - 1).max() > 0.02:  # float16 rounds
        return None
    return reliability(teacher.values, truth.proxy_labels[teacher.ids])


def _teacher_accuracy(teacher: Knowledge | None, truth: GroundTruth) -> float | None:
    if teacher is None or not len(teacher) or truth.proxy_labels is None:
        return None
    return float((teacher.values.argmax(1) == truth.proxy_labels[teacher.ids]).mean())


def _by_client(reports: list[Report], name: str, n_clients: int) -> list[float | None] | None:
    """Return a metric of each client, None for clients without it; None if no report has it."""
    values = {r.client: r.metrics[name] for r in reports if name in r.metrics}
    return [values.get(c) for c in range(n_clients)] if values else None


def _mean_of(reports: list[Report], name: str) -> float | None:
    values = [r.metrics[name] for r in reports if name in r.metrics]
    return float(np.mean(values)) if values else None
