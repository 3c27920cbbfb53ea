"""Personal and general metrics: properties, an oracle for F1, and their place in a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

import edgefd
from edgefd.core.knowledge import empty
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.federation.report import Exchange, Report
from edgefd.rounds.loop import RoundResult
from edgefd.runs.facts import GroundTruth
from edgefd.runs.personal_metrics import bam, macro_f1, personal_accuracy, quantiles, recall
from edgefd.runs.read import read_run
from edgefd.runs.round_metrics import RoundMetrics, measure
from edgefd.runs.summary import PERSONAL
from tests.support.small_configs import SMALL

counts = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=2, max_size=8)


def split(pairs: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Return the correct and the total rows of each class from pairs of (correct, more)."""
    return [right for right, _ in pairs], [right + more for right, more in pairs]


@given(counts, st.integers(1, 9))
def test_with_the_classes_of_the_test_set_personal_is_general(pairs: list[tuple[int, int]], factor: int) -> None:
    correct, total = split(pairs)
    personal = personal_accuracy(correct, total, [n * factor for n in total])
    assert personal == pytest.approx(sum(correct) / sum(total))
    assert bam(personal or 0, sum(correct) / sum(total)) == pytest.approx(personal)


@given(counts, st.data())
def test_with_one_class_personal_is_its_recall(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    correct, total = split(pairs)
    c = data.draw(st.integers(0, len(total) - 1))
    samples = np.zeros(len(total), int)
    samples[c] = data.draw(st.integers(1, 100))
    assert personal_accuracy(correct, total, samples) == pytest.approx(correct[c] / total[c])
    assert recall(correct, total)[c] == correct[c] / total[c]


@given(counts, st.data())
def test_personal_accuracy_lies_between_the_recalls_of_the_clients_classes(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    correct, total = split(pairs)
    samples = data.draw(st.lists(st.integers(0, 9), min_size=len(total), max_size=len(total)).filter(any))
    recalls = recall(correct, total)[np.array(samples) > 0]
    personal = personal_accuracy(correct, total, samples)
    assert personal is not None
    assert recalls.min() - 1e-9 <= personal <= recalls.max() + 1e-9


def test_a_class_without_test_rows_is_left_out() -> None:
    assert personal_accuracy([3, 0], [4, 0], [1, 9]) == 0.75
    assert personal_accuracy([3, 0], [4, 0], [0, 9]) is None
    assert np.isnan(recall([3, 0], [4, 0])[1])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_macro_f1_is_that_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    y, predicted = np.array(rows).T
    count = [np.bincount(values, minlength=5) for values in (y[y == predicted], predicted, y)]
    assert macro_f1(*count) == pytest.approx(f1_score(y, predicted, average="macro", zero_division=0))


def test_quantiles_are_over_clients() -> None:
    assert quantiles([0.0, 0.25, 0.5, 0.75, 1.0]) == pytest.approx([0.1, 0.5, 0.9])
    assert quantiles([]) is None


def report_of(client: int, correct: list[int], predicted: list[int], **metrics: float) -> Report:
    numbered = {f"correct/{c}": float(n) for c, n in enumerate(correct)}
    numbered |= {f"predicted/{c}": float(n) for c, n in enumerate(predicted)}
    return Report(client, 0, empty(2), {**numbered, **metrics})


def metrics_of(by_group: bool) -> RoundMetrics:
    reports = [
        report_of(0, [8, 0], [8, 2], accuracy=0.8, heldout_accuracy=0.5),
        report_of(2, [4, 2], [4, 6], accuracy=0.6, heldout_accuracy=0.9),
    ]
    table = np.array([[5, 0], [0, 1], [1, 3]])
    truth = GroundTruth(3, 4, table=table, test_by_class=[8, 2], by_group=by_group)
    return measure(RoundResult(RoundPlan(0, np.arange(4)), Exchange(reports, 0, 0), Progress(1)), truth, 1.0)


def test_a_round_records_personal_and_general_metrics_of_the_clients_that_reported() -> None:
    m = metrics_of(by_group=False)
    assert m.personal_accuracy_per_client == pytest.approx([1.0, None, 0.25 * 0.5 + 0.75 * 1.0])
    assert m.personal_accuracy_mean == pytest.approx((1 + 0.875) / 2)
    assert m.bam_mean == pytest.approx((0.8**0.5 + (0.875 * 0.6) ** 0.5) / 2)
    assert m.macro_f1_mean == pytest.approx(((1.0 + 0.0) / 2 + (8 / 12 + 4 / 8) / 2) / 2)
    assert m.recall_by_class == [0.75, 0.5]
    assert m.accuracy_quantiles == pytest.approx([0.62, 0.7, 0.78])
    assert m.personal_accuracy_quantiles == pytest.approx([0.8875, 0.9375, 0.9875])


def test_the_own_distribution_of_a_person_is_its_held_out_data() -> None:
    m = metrics_of(by_group=True)
    assert m.personal_accuracy_per_client == [0.5, None, 0.9]
    assert m.bam_mean == pytest.approx(((0.8 * 0.5) ** 0.5 + (0.6 * 0.9) ** 0.5) / 2)


def test_a_run_folder_holds_the_metrics_and_an_older_one_is_read_without_them(tmp_path: Path) -> None:
    run = edgefd.simulate(SMALL, out=tmp_path / "run")
    first, last = run.rounds[0], run.rounds[-1]
    assert {name: run.summary[name] for name in PERSONAL} == {name: getattr(last, name) for name in PERSONAL}
    assert first.personal_accuracy_mean is not None  # not only in the closing round
    assert first.recall_by_class is not None
    assert last.evaluation is not None
    correct = np.array(last.evaluation["correct_by_class"])
    by_hand = [
        personal_accuracy(row, last.evaluation["test_by_class"], shares)
        for row, shares in zip(correct, run.federation.table, strict=True)
    ]
    assert last.personal_accuracy_per_client == pytest.approx(by_hand)
    _forget(tmp_path / "run", [*PERSONAL, "personal_accuracy_per_client", "evaluated_on", "predicted_by_class"])
    old = read_run(tmp_path / "run")
    assert old.summary is not None
    assert (old.summary.bam_mean, old.summary.evaluated_on, old.rounds[0].bam_mean) == (None, "test", None)


def _forget(folder: Path, names: list[str]) -> None:
    """Remove fields from the JSON files of a run folder."""

    def without(content: dict[str, Any]) -> str:
        return json.dumps({key: value for key, value in content.items() if key not in names})

    for file in ("summary.json", "evaluation.json"):
        (folder / file).write_text(without(json.loads((folder / file).read_text())))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("".join(without(json.loads(line)) + "\n" for line in lines))
