"""The loop over rounds: which teacher and which rows each round gets, and how a run is resumed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.federation.changes import Exchanged
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.federation.report import Exchange, Report
from edgefd.methods import get_method
from edgefd.rounds.loop import run_rounds
from edgefd.rounds.server import Server, make_plan
from edgefd.runs.execute import make_server
from edgefd.runs.prepare import prepare
from edgefd.selection import selection_of
from edgefd.simulation.engine import open_transport
from tests.support.linear_clients import new_server
from tests.support.small_runs import config, results
from tests.support.votes import proxy, votes

FEDMD = get_method("fedmd")


class FakeTransport:
    """A transport whose single client labels every queried row with the number of the round, in eighths."""

    def __init__(self) -> None:
        self.sent: list[tuple[RoundPlan, Knowledge | None]] = []

    def exchange(
        self, plan: RoundPlan, sampled: Sequence[int], teacher: Knowledge | None, exchanged: Exchanged
    ) -> Exchange:
        self.sent.append((plan, teacher))
        ids = [] if plan.closing else plan.ids.tolist()
        rows: Any = [[plan.round / 8, 1 - plan.round / 8]] * len(ids) if ids else np.empty((0, 2))
        return Exchange([Report(0, plan.round, votes(ids, rows), {})], 0, 0)


def server(**selection: Any) -> Server:
    """Return a server with four rounds, eight proxy rows and two classes."""
    made = new_server(FEDMD)
    rule = selection_of(selection or {"name": "all"})
    return dataclasses.replace(made, proxy=proxy(8), terms=dataclasses.replace(made.terms, selection=rule, n_classes=2))


def test_each_round_sends_the_teacher_of_the_round_before() -> None:
    transport = FakeTransport()
    done = list(run_rounds(server(), transport))
    assert transport.sent[0][1] is None
    for (_, received), before in zip(transport.sent[1:], done, strict=False):
        assert received is before.teacher
    assert [r.teacher.values[0, 0] for r in done if r.teacher is not None] == [0, 1 / 8, 2 / 8, 3 / 8, 3 / 8]


def test_the_closing_round_keeps_the_last_teacher() -> None:
    *_, before, closing = run_rounds(server(), FakeTransport())
    assert closing.plan.closing
    assert closing.teacher is before.teacher


def test_a_resumed_loop_begins_with_the_given_teacher() -> None:
    transport, teacher = FakeTransport(), votes([0], [[0.5, 0.5]])
    next(run_rounds(server(), transport, Progress(2, teacher)))
    ((plan, received),) = transport.sent
    assert plan.round == 2
    assert received is teacher


def test_the_selection_rule_chooses_the_queried_rows_of_all_rounds_but_the_closing_one() -> None:
    random = server(name="random", budget=2)
    done = list(run_rounds(random, FakeTransport()))
    assert [len(r.plan.ids) for r in done] == [2, 2, 2, 2, 8]
    assert len({tuple(r.plan.ids) for r in done[:-1]}) > 1
    again = [make_plan(random, Progress(r))[0] for r in range(5)]
    assert all(np.array_equal(a.ids, r.plan.ids) for a, r in zip(again, done, strict=True))


def test_only_a_stateful_selection_rule_has_a_state() -> None:
    for name, has_state in (("random", False), ("ddk", True)):
        done = list(run_rounds(server(name=name, budget=2), FakeTransport()))
        assert {r.progress.selection_state is not None for r in done} == {has_state}


def test_every_row_is_queried_before_any_row_is_queried_again() -> None:
    done = results(config(train={"rounds": 4}, selection={"name": "pcoreset", "budget": 16}))
    queried = np.concatenate([r.plan.ids for r in done if not r.plan.closing])
    assert len(np.unique(queried)) == len(prepare(config()).federation.proxy)


def test_a_resumed_run_continues_with_the_selection_state_of_the_server() -> None:
    c = config(selection={"name": "ddk", "budget": 0.25})
    federation = prepare(c).federation
    transport = open_transport(c, federation)
    transport.start()
    whole = results(c)
    first_run = run_rounds(make_server(c, federation), transport)
    first = [next(first_run) for _ in range(2)][-1]
    first_run.close()
    rest = run_rounds(make_server(c, federation), transport, first.progress)
    for a, b in zip(rest, whole[2:], strict=True):
        assert np.array_equal(a.plan.ids, b.plan.ids)
        assert a.teacher is not None
        assert b.teacher is not None
        assert a.teacher.equals(b.teacher)
