"""Checks of received messages: whether they fit the round, the proxy set and the classes.

`edgefd.wire.messages` and `Knowledge` have refused malformed messages before. All checks raise a ValueError with the
reason.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.method import MessageKind, Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report

_OVERHEAD = 64 * 2**10  # bytes for metrics and framing
_MAX_LOGIT = 10_000  # below the largest number of float16


def check_plan(plan: RoundPlan, n_proxy: int) -> None:
    """Check that a plan queries only existing rows: ids < P."""
    if len(plan.ids) and int(plan.ids[-1]) >= n_proxy:
        raise ValueError(f"the plan queries proxy row {plan.ids[-1]}, but the proxy set has {n_proxy} rows")


def check_teacher(method: Method, teacher: Knowledge, n_proxy: int, n_classes: int) -> None:
    """Check that a teacher has only existing rows and classes: width = C, and ids < P, or < C if rows are classes.

    The ids of several teachers are not checked, because their number is not known here: each id refers to one of the P
    rows in any case.
    """
    if method.message is MessageKind.PARAMETERS:
        return
    if teacher.width != n_classes:
        raise ValueError(f"the teacher has {teacher.width} values per row, but there are {n_classes} classes")
    subject, count = ("class", n_classes) if method.message is MessageKind.CLASS_LABELS else ("proxy row", n_proxy)
    if method.message is not MessageKind.MULTI_TEACHER and len(teacher) and int(teacher.ids[-1]) >= count:
        raise ValueError(f"the teacher has {subject} {teacher.ids[-1]}, but there are only {count}")


def check_report(method: Method, report: Report, plan: RoundPlan, clients: Container[int], n_classes: int) -> None:
    """Check that a report fits the plan: the round, an expected client, only queried rows, width = C.

    Rows of classes and of parameters are not queried. Instead, ids must be < C, or the only id is 0 with any width.
    Where the server sends several teachers, a report has all queried rows or none.
    """
    if report.client not in clients:
        raise ValueError(f"unexpected report of client {report.client}")
    if report.round != plan.round:
        raise ValueError(f"client {report.client} sent a report for round {report.round} in round {plan.round}")
    knowledge = report.knowledge
    if knowledge.width != n_classes and method.message is not MessageKind.PARAMETERS:
        raise ValueError(f"the report has {knowledge.width} values per row, but there are {n_classes} classes")
    if plan.closing and len(knowledge):
        raise ValueError("a report of the closing round must have metrics only, without rows")
    allowed = {MessageKind.CLASS_LABELS: np.arange(n_classes), MessageKind.PARAMETERS: np.arange(1)}.get(
        method.message, plan.ids
    )
    unexpected = knowledge.ids[~np.isin(knowledge.ids, allowed)]
    if len(unexpected):
        subject = {MessageKind.CLASS_LABELS: "class", MessageKind.PARAMETERS: "model"}.get(method.message, "proxy row")
        raise ValueError(f"the report has {subject} {unexpected[0]}, which the plan does not query")
    if method.message is MessageKind.MULTI_TEACHER and 0 < len(knowledge) < len(plan.ids):
        raise ValueError(f"the report has {len(knowledge)} of {len(plan.ids)} rows: method {method.name} needs all")


def check_values(message: MessageKind, knowledge: Knowledge) -> None:
    """Check that values are possible: soft labels from 0 to 1, as in any codec, and logits that float16 can hold."""
    if message is MessageKind.PARAMETERS or not len(knowledge):
        return
    low, high = float(knowledge.values.min()), float(knowledge.values.max())
    least, most, subject = (0, 1, "soft labels") if message.of_proxy_rows else (-_MAX_LOGIT, _MAX_LOGIT, "logits")
    if not least <= low <= high <= most:
        raise ValueError(f"the report has values from {low:g} to {high:g}, but {subject} are from {least} to {most}")


def largest_report(plan: RoundPlan, n_classes: int) -> int:
    """Return the largest possible size of an honest report of soft labels, in bytes: all rows in the widest codec."""
    return _OVERHEAD + max(len(plan.ids), n_classes) * (5 + 4 + 4 * n_classes)
