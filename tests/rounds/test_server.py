"""The server's part of a round: the order of reports, and the hooks that it calls."""

import dataclasses

import numpy as np
import pytest

from edgefd.core.knowledge import Knowledge
from edgefd.federation.method import Method
from edgefd.federation.report import Report
from edgefd.methods import get_method
from edgefd.rounds.server import server_round
from tests.support.linear_clients import new_server, plan, play, with_methods
from tests.support.votes import report

FEDMD = get_method("fedmd")


@with_methods()
def test_the_order_of_reports_changes_no_bit(method: Method) -> None:
    assert play(method, 3)[1][-1].equals(play(method, 3, order=-1)[1][-1])


def test_reports_are_sorted_by_client_before_they_are_aggregated() -> None:
    method = dataclasses.replace(FEDMD, aggregate=lambda uploads, _: uploads[0])
    first, second = report(0, [1], [[0.9, 0.1]]), report(1, [2], [[0.2, 0.8]])
    assert server_round(method, None, [second, first], plan(0)).equals(first.knowledge)


def test_the_server_filter_is_applied_to_the_aggregate() -> None:
    def first_row(teacher: Knowledge, config: object) -> Knowledge:
        return Knowledge(teacher.ids[:1], teacher.values[:1], teacher.weights[:1])

    method = dataclasses.replace(FEDMD, server_filter=first_row)
    teacher = server_round(method, None, [report(0, [3, 4], [[1, 0], [0, 1]])], plan(0))
    assert teacher.ids.tolist() == [3]


def test_a_server_update_replaces_the_aggregate_and_receives_the_last_teacher() -> None:
    received = []

    def server_update(reports: list[Report], teacher: Knowledge | None, *rest: object) -> Knowledge:
        received.append(([r.client for r in reports], teacher, rest))
        return reports[0].knowledge

    method = dataclasses.replace(FEDMD, server_update=server_update)
    reports = [report(1, [0], [[1, 0]]), report(0, [0], [[0, 1]])]
    last, server = report(9, [0], [[0.5, 0.5]]).knowledge, new_server(FEDMD)
    the_plan = plan(1)
    assert server_round(method, "config", reports, the_plan, last, server).equals(reports[1].knowledge)
    ((clients, teacher, rest),) = received
    assert clients == [0, 1]
    assert teacher is last
    assert rest == (the_plan, server, "config")


def test_a_server_update_without_data_of_the_server_is_refused() -> None:
    method = dataclasses.replace(FEDMD, server_update=lambda *_: Knowledge(*[np.empty(0)] * 3))
    with pytest.raises(ValueError, match="method fedmd needs data of the server"):
        server_round(method, None, [report(0, [0], [[1, 0]])], plan(0))
