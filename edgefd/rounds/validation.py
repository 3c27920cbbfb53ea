"""What a receiver checks of a message beyond its form: that it belongs to this round, proxy set and classes.

`edgefd.wire.messages` and `Knowledge` have already refused what is malformed. Everything here raises ValueError with the reason.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.method import MessageKind, Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report

_OVERHEAD = 64 * 2**10  # metrics and framing


def check_plan(plan: RoundPlan, n_proxy: int) -> None:
    """Whether a plan asks for rows that exist: ids < P."""
    if len(plan.ids) and int(plan.ids[-1]) >= n_proxy:
        raise ValueError(f"the plan asks for proxy row {plan.ids[-1]}; there are {n_proxy}")


def check_teacher(method: Method, teacher: Knowledge, n_proxy: int, n_classes: int) -> None:
    """Whether a teacher speaks of rows and classes that exist: width = C, ids < P, or < C where rows are classes.

    How many teachers there are where there are several is not known here: each is one of the P rows all the same.
    """
    if method.message is MessageKind.PARAMETERS:
        return
    if teacher.width != n_classes:
        raise ValueError(f"the teacher has {teacher.width} values a row; there are {n_classes} classes")
    what, count = ("class", n_classes) if method.message is MessageKind.CLASS_LABELS else ("proxy row", n_proxy)
    if method.message is not MessageKind.MULTI_TEACHER and len(teacher) and int(teacher.ids[-1]) >= count:
        raise ValueError(f"the teacher knows {what} {teacher.ids[-1]}; there are {count}")


def check_report(method: Method, report: Report, plan: RoundPlan, clients: Container[int], n_classes: int) -> None:
    """Whether a report answers the plan: its round, a client that may answer, rows that were asked for, width = C.

    Rows of classes and of parameters are not asked for by number: ids < C, or id 0 alone, of any width.
    """
    if report.client not in clients:
        raise ValueError(f"client {report.client} is not who may answer here")
    if report.round != plan.round:
        raise ValueError(f"client {report.client} answered for round {report.round} in round {plan.round}")
    knowledge = report.knowledge
    if knowledge.width != n_classes and method.message is not MessageKind.PARAMETERS:
        raise ValueError(f"the report has {knowledge.width} values a row; there are {n_classes} classes")
    if plan.closing and len(knowledge):
        raise ValueError("the closing round asks for metrics alone")
    known = {MessageKind.CLASS_LABELS: np.arange(n_classes), MessageKind.PARAMETERS: np.arange(1)}.get(
        method.message, plan.ids
    )
    strange = knowledge.ids[~np.isin(knowledge.ids, known)]
    if len(strange):
        what = {MessageKind.CLASS_LABELS: "class", MessageKind.PARAMETERS: "model"}.get(method.message, "proxy row")
        raise ValueError(f"the report answers for {what} {strange[0]}, which the plan does not ask for")


def largest_report(plan: RoundPlan, n_classes: int) -> int:
    """Bytes that no honest report of soft labels exceeds: every row, proxy sample or class, in the widest codec."""
    return _OVERHEAD + max(len(plan.ids), n_classes) * (5 + 4 + 4 * n_classes)
