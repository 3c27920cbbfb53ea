"""What is measured of a round. A simulation knows the truth, so it can say how many claims are wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgefd.core.arrays import Bool
from edgefd.core.knowledge import Knowledge
from edgefd.federation.clients import Federation
from edgefd.federation.method import MessageKind
from edgefd.federation.report import Report
from edgefd.rounds.loop import RoundResult
from edgefd.runs.calibration import Reliability, ece, reliability


@dataclass(frozen=True)
class RoundMetrics:
    """One line of metrics.jsonl. Accuracies are of the clients' models on the whole test set; None = not measured.

    Means are over the clients whose reports were used; in lists, which are by client, the others are None.
    """

    round: int
    closing: bool
    """the closing distillation: no answers, so kept_fraction is 0"""
    seconds: float
    accuracy_mean: float | None
    accuracy_worst: float | None
    accuracy_per_client: list[float | None] | None
    heldout_accuracy_mean: float | None
    """each client's model on its own held-out data"""
    kept_fraction: float
    """mean over clients of the share of proxy rows that they answered for"""
    kept_per_client: list[float | None]
    wrong_claims: float | None
    """share of the answers for rows whose true class the answering client does not have; None without proxy labels"""
    teacher_coverage: float
    """share of proxy rows that the teacher knows"""
    teacher_accuracy: float | None
    """share of those whose largest teacher probability is their true class; None without proxy labels"""
    distil_loss: float | None
    """mean over clients of their mean loss on what they learn of the teacher; None if nobody did"""
    train_loss: float | None
    """the same, on the private data of `train.local_steps`"""
    bytes_up: int
    bytes_down: int
    wrong_claims_per_client: list[float | None] | None = None
    """`wrong_claims` of each client; None = it answered for nothing"""
    wrong_weight_per_client: list[float | None] | None = None
    """the same by weight: of the sum of the weights of its answers, the share on wrong ones"""
    ece_mean: float | None = None
    """mean over clients of their expected calibration error on the test set (`edgefd.runs.calibration`)"""
    teacher_ece: float | None = None
    """of the teacher, on the proxy rows that it knows; None without proxy labels"""
    agreement_mean: float | None = None
    """mean over clients of the share of the teacher's rows where they say what the teacher says, after learning it"""
    agreement_per_client: list[float | None] | None = None
    evaluation: dict[str, Any] | None = None
    """of the closing round only: an `Evaluation`; it goes to a file of its own, evaluation.json"""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """The models at the end, in detail. Lists are by client; None = not measured, as with devices."""

    test_by_class: list[int]
    """test rows of each class"""
    correct_by_class: list[list[int] | None]
    """of those, how many a client's model gets right"""
    clients: list[Reliability | None]
    """of each client's model, on the test set"""
    teacher: Reliability | None
    """of the last teacher, on the proxy rows that it knows; None without proxy labels"""


def measure(
    result: RoundResult, federation: Federation, seconds: float, message: MessageKind = MessageKind.PROXY_LABELS
) -> RoundMetrics:
    """The metrics of a round.

    `message` is the kind of the method's messages (`Method.message`). Only rows that stand for proxy samples have an
    accepted fraction, and only a single teacher has an accuracy.
    """
    reports = sorted(result.exchange.reports, key=lambda r: r.client)
    n_clients = len(federation.clients)
    accuracies = [r.metrics["accuracy"] for r in reports if "accuracy" in r.metrics]
    size = len(federation.proxy)
    by_sample = message.of_proxy_rows
    kept = {r.client: len(r.knowledge) / size if by_sample else 0.0 for r in reports}
    teacher = result.teacher if message is MessageKind.PROXY_LABELS else None
    return RoundMetrics(
        round=result.plan.round,
        closing=result.plan.closing,
        seconds=seconds,
        accuracy_mean=_mean_of(reports, "accuracy"),
        accuracy_worst=min(accuracies, default=None),
        accuracy_per_client=_by_client(reports, "accuracy", n_clients),
        heldout_accuracy_mean=_mean_of(reports, "heldout_accuracy"),
        kept_fraction=float(np.mean(list(kept.values()))),
        kept_per_client=[kept.get(c) for c in range(n_clients)],
        wrong_claims=out_of_class_fraction(reports, federation) if by_sample else None,
        teacher_coverage=len(teacher) / size if teacher is not None else 0.0,
        teacher_accuracy=_teacher_accuracy(teacher, federation),
        distil_loss=_mean_of(reports, "distil_loss"),
        train_loss=_mean_of(reports, "train_loss"),
        bytes_up=result.exchange.bytes_up,
        bytes_down=result.exchange.bytes_down,
        wrong_claims_per_client=_wrong_by_client(reports, federation, weighted=False) if by_sample else None,
        wrong_weight_per_client=_wrong_by_client(reports, federation, weighted=True) if by_sample else None,
        ece_mean=_mean_of(reports, "ece"),
        teacher_ece=None if (bins := _teacher_bins(teacher, federation)) is None else ece(bins),
        agreement_mean=_mean_of(reports, "agreement"),
        agreement_per_client=_by_client(reports, "agreement", n_clients),
        evaluation=asdict(_evaluation(reports, teacher, federation)) if result.plan.closing else None,
    )


def out_of_class_fraction(reports: list[Report], federation: Federation) -> float | None:
    """Share of the rows answered for whose true class is not among the answering client's classes."""
    has: Bool = federation.table > 0
    total = sum(len(r.knowledge) for r in reports)
    labels = federation.proxy_labels
    if not total or labels is None:
        return None
    wrong = sum(int((~has[r.client][labels[r.knowledge.ids]]).sum()) for r in reports)
    return wrong / total


def _wrong_by_client(reports: list[Report], federation: Federation, weighted: bool) -> list[float | None] | None:
    labels = federation.proxy_labels
    if labels is None:
        return None
    found: list[float | None] = [None] * len(federation.clients)
    for r in reports:
        if len(r.knowledge):
            wrong = federation.table[r.client][labels[r.knowledge.ids]] == 0
            weights = r.knowledge.weights if weighted else np.ones(len(wrong))
            found[r.client] = float(weights[wrong].sum(dtype=np.float64) / weights.sum(dtype=np.float64))
    return found


def _evaluation(reports: list[Report], teacher: Knowledge | None, federation: Federation) -> Evaluation:
    """From the metrics of `edgefd.runs.evaluate`."""
    correct: list[list[int] | None] = [None] * len(federation.clients)
    clients: list[Reliability | None] = [None] * len(federation.clients)
    for r in reports:
        if "correct/0" in r.metrics:
            correct[r.client] = [round(n) for n in _listed(r, "correct")]
            count, right = ([round(n) for n in _listed(r, name)] for name in ("bin_count", "bin_correct"))
            clients[r.client] = Reliability(count, _listed(r, "bin_confidence"), right)
    by_class = np.bincount(federation.y_test, minlength=federation.n_classes)
    return Evaluation(by_class.tolist(), correct, clients, _teacher_bins(teacher, federation))


def _listed(report: Report, name: str) -> list[float]:
    """The metrics name/0, name/1, ..."""
    return [report.metrics[f"{name}/{i}"] for i in range(sum(key.startswith(f"{name}/") for key in report.metrics))]


def _teacher_bins(teacher: Knowledge | None, federation: Federation) -> Reliability | None:
    """None also for a teacher whose rows are no probabilities."""
    if teacher is None or not len(teacher) or federation.proxy_labels is None:
        return None
    if teacher.values.min() < 0 or np.abs(teacher.values.sum(1) - 1).max() > 0.02:  # float16 loses a little
        return None
    return reliability(teacher.values, federation.proxy_labels[teacher.ids])


def _teacher_accuracy(teacher: Knowledge | None, federation: Federation) -> float | None:
    if teacher is None or not len(teacher) or federation.proxy_labels is None:
        return None
    return float((teacher.values.argmax(1) == federation.proxy_labels[teacher.ids]).mean())


def _by_client(reports: list[Report], name: str, n_clients: int) -> list[float | None] | None:
    """None if no report has it."""
    found = {r.client: r.metrics[name] for r in reports if name in r.metrics}
    return [found.get(c) for c in range(n_clients)] if found else None


def _mean_of(reports: list[Report], name: str) -> float | None:
    values = [r.metrics[name] for r in reports if name in r.metrics]
    return float(np.mean(values)) if values else None
