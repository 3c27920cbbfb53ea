"""The server's part of a round: the order of reports, and the hooks that it calls."""

import dataclasses

import numpy as np
import pytest

from edgefd.core.knowledge import Knowledge
from edgefd.federation.context import ServerContext
from edgefd.federation.method import Method
from edgefd.federation.progress import Progress
from edgefd.methods import get_method
from edgefd.rounds.server import Server, server_round
from tests.support.linear_clients import LABELS, Linear, new_server, plan, play, with_methods
from tests.support.votes import report

FEDMD = get_method("fedmd")


def server_of_two_classes(method: Method) -> Server:
    made = new_server(method)
    return dataclasses.replace(made, terms=dataclasses.replace(made.terms, n_classes=2))


@with_methods()
def test_the_order_of_reports_changes_no_bit(method: Method) -> None:
    assert play(method, 3)[1][-1].equals(play(method, 3, order=-1)[1][-1])


def test_reports_are_sorted_by_client_before_they_are_aggregated() -> None:
    method = dataclasses.replace(FEDMD, aggregate=lambda ctx: ctx.uploads[0])
    first, second = report(0, [1], [[0.9, 0.1]]), report(1, [2], [[0.2, 0.8]])
    teacher = server_round(server_of_two_classes(method), [second, first], plan(0), Progress()).teacher
    assert teacher is first.knowledge


def test_aggregate_receives_the_last_teacher_and_all_that_the_server_has() -> None:
    received: list[ServerContext] = []

    def aggregate(ctx: ServerContext) -> Knowledge:
        received.append(ctx)
        return ctx.uploads[0]

    server = dataclasses.replace(
        server_of_two_classes(dataclasses.replace(FEDMD, aggregate=aggregate)),
        config="config",
        labels=LABELS,
        learner=Linear(),
        combine=lambda uploads: uploads[-1],
    )
    reports = [report(1, [0], [[1, 0]]), report(0, [0], [[0, 1]])]
    last, the_plan = report(9, [0], [[0.5, 0.5]]).knowledge, plan(1)
    progress = server_round(server, reports, the_plan, Progress(1, last))
    assert progress.next_round == 2
    assert progress.teacher is reports[1].knowledge
    (ctx,) = received
    assert [r.client for r in ctx.reports] == [0, 1]
    assert ctx.teacher is last
    assert ctx.plan is the_plan
    for name in ("proxy", "terms", "config", "labels", "learner", "combine"):
        assert getattr(ctx, name) is getattr(server, name)


def test_the_combination_of_the_server_replaces_the_mean() -> None:
    server = dataclasses.replace(server_of_two_classes(FEDMD), combine=lambda uploads: uploads[-1])
    reports = [report(0, [0], [[1, 0]]), report(1, [0], [[0, 1]])]
    teacher = server_round(server, reports, plan(0), Progress()).teacher
    assert teacher is not None
    assert teacher.equals(reports[1].knowledge)


def test_a_closing_round_changes_no_teacher_and_calls_no_hook() -> None:
    method = dataclasses.replace(FEDMD, aggregate=lambda _: pytest.fail("no teacher is made"))
    last = report(9, [0], [[0.5, 0.5]]).knowledge
    progress = server_round(new_server(method), [report(0, [], np.empty((0, 2)))], plan(4), Progress(4, last))
    assert progress.teacher is last
    assert progress.next_round == 5
