"""Checks of received plans, teachers and reports against the round, the proxy set and the classes."""

import dataclasses

import numpy as np
import pytest

from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.method import MessageKind, Method
from edgefd.federation.report import Report
from edgefd.methods import get_method
from edgefd.rounds.validation import check_plan, check_report, check_teacher, check_values, largest_report
from edgefd.wire import messages as wire
from tests.support.linear_clients import CLASSES, ROWS, TRAINING, plan, with_methods

FEDMD, FKD, COMET = (get_method(name) for name in ("fedmd", "fkd", "comet"))


def rows(*ids: int, width: int = CLASSES) -> Knowledge:
    values = np.full((len(ids), width), 1 / width, np.float32)
    return Knowledge(np.array(ids, np.int64), values, np.ones(len(ids), np.float32))


@with_methods()
def test_a_report_with_a_row_that_does_not_exist_is_refused(method: Method) -> None:
    with pytest.raises(ValueError, match="does not query"):
        check_report(method, Report(0, 0, rows(ROWS)), plan(0), range(CLASSES), CLASSES)


@pytest.mark.parametrize(
    ("report", "round", "message"),
    [
        (Report(4, 0, rows(1)), 0, "unexpected report of client 4"),
        (Report(0, 1, rows(1)), 0, "client 0 sent a report for round 1 in round 0"),
        (Report(0, 0, rows(1, width=3)), 0, "3 values per row, but there are 4 classes"),
        (Report(0, TRAINING.rounds, rows(1)), TRAINING.rounds, "metrics only"),
        (Report(0, 0, rows(1, 2)), 0, "proxy row 2, which the plan does not query"),
    ],
)
def test_a_report_that_does_not_fit_the_plan_is_refused(report: Report, round: int, message: str) -> None:
    odd_rows = dataclasses.replace(plan(round), ids=np.arange(1, ROWS, 2))
    check_report(FEDMD, Report(0, 0, rows(1)), dataclasses.replace(plan(0), ids=odd_rows.ids), range(4), CLASSES)
    with pytest.raises(ValueError, match=message):
        check_report(FEDMD, report, odd_rows, range(4), CLASSES)


def test_a_report_of_class_labels_may_have_classes_that_the_plan_does_not_query() -> None:
    no_rows = dataclasses.replace(plan(0), ids=np.empty(0, np.int64))
    check_report(FKD, Report(0, 0, rows(0, 3)), no_rows, range(4), CLASSES)
    with pytest.raises(ValueError, match="class 4, which the plan does not query"):
        check_report(FKD, Report(0, 0, rows(0, 4)), no_rows, range(4), CLASSES)


def test_a_report_with_some_of_the_rows_is_refused_where_methods_need_all() -> None:
    for knowledge in (empty(CLASSES), rows(*range(ROWS))):
        check_report(COMET, Report(0, 0, knowledge), plan(0), range(4), CLASSES)
    with pytest.raises(ValueError, match="the report has 2 of 60 rows: method comet needs all"):
        check_report(COMET, Report(0, 0, rows(0, 1)), plan(0), range(4), CLASSES)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        *((MessageKind.PROXY_LABELS, value) for value in (-0.01, 1.01, 3e38)),
        (MessageKind.MULTI_TEACHER, 1.01),
        *((MessageKind.CLASS_LABELS, value) for value in (-3e38, 10_001)),
    ],
)
def test_values_that_no_client_can_have_are_refused(message: MessageKind, wrong: float) -> None:
    good = rows(0, 1)
    for knowledge in (good, empty(CLASSES)):
        check_values(message, knowledge)
    values = good.values.copy()
    values[1, 2] = wrong
    with pytest.raises(ValueError, match="the report has values from"):
        check_values(message, dataclasses.replace(good, values=values))


def test_a_plan_with_a_row_that_does_not_exist_is_refused() -> None:
    check_plan(plan(0), ROWS)
    with pytest.raises(ValueError, match="proxy row 59, but the proxy set has 59 rows"):
        check_plan(plan(0), ROWS - 1)


@pytest.mark.parametrize(
    ("method", "teacher", "message"),
    [
        (FEDMD, rows(1, width=3), "the teacher has 3 values per row, but there are 4 classes"),
        (FEDMD, rows(ROWS), "proxy row 60, but there are only 60"),
        (FKD, rows(CLASSES), "class 4, but there are only 4"),
    ],
)
def test_a_teacher_with_rows_or_classes_that_do_not_exist_is_refused(
    method: Method, teacher: Knowledge, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_teacher(method, teacher, ROWS, CLASSES)


def test_several_teachers_may_have_ids_beyond_the_proxy_set() -> None:
    check_teacher(COMET, rows(1, ROWS + 1), ROWS, CLASSES)
    check_teacher(FEDMD, empty(CLASSES), ROWS, CLASSES)


@pytest.mark.parametrize("codec", ["float32", "float16"])
def test_no_honest_report_is_larger_than_the_limit(codec: str) -> None:
    everything = Report(3, 0, rows(*range(ROWS)), {"heldout_accuracy": 0.5, "train_loss": 1.0})
    assert len(wire.encode_report(everything, codec)) <= largest_report(plan(0), CLASSES)
