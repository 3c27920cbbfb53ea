"""Rounds in which clients are absent: which methods remember them, and how much they count."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from edgefd.core.knowledge import Knowledge
from edgefd.federation.method import Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.federation.report import Report
from edgefd.methods import get_method
from edgefd.poisoning.robust_aggregation import Aggregator, aggregate_of
from edgefd.rounds.participation import ParticipationConfig
from edgefd.rounds.server import Server, server_round
from tests.support.linear_clients import METHODS, new_server, plan, play, with_methods
from tests.support.small_runs import config, results

PARTIAL = ParticipationConfig(fraction=0.5)
REMEMBERING = {
    "edgefd",
    "fedmd",
    "fedmd_published",
    "dsfl",
    "selective_fd",
    "weighted_fd",
    "feded",
    "cfd",
    "fccl",
    "fedproto",
    "fkd",
}


def server(method: str | Method, rules: ParticipationConfig = PARTIAL, **changes: Any) -> Server:
    found = get_method(method) if isinstance(method, str) else method
    return dataclasses.replace(new_server(found), participation=rules, **changes)


def says(client: int, label: int, round: int = 0, rows: tuple[int, ...] = (0,)) -> Report:
    values = np.tile(np.eye(4, dtype=np.float32)[label], (len(rows), 1))
    return Report(client, round, Knowledge(np.array(rows), values, np.ones(len(rows), np.float32)))


def after(made: Server, *rounds: list[Report], ids: np.ndarray | None = None) -> Knowledge:
    """Return the teacher after rounds with these reports; the last round queries `ids`."""
    progress = Progress()
    for r, reports in enumerate(rounds):
        queried = ids if ids is not None and r == len(rounds) - 1 else plan(r).ids
        progress = server_round(made, reports, RoundPlan(r, queried), progress)
    assert progress.teacher is not None
    return progress.teacher


def test_an_absent_client_counts_with_a_weight_that_falls_with_its_age() -> None:
    teacher = after(server("fedmd"), [says(0, 0)], [], [says(1, 1, 2)])
    assert teacher.values[0] == pytest.approx([0.81 / 1.81, 1 / 1.81, 0, 0])


def test_without_memory_the_teacher_holds_only_the_reports_of_the_round() -> None:
    rules = dataclasses.replace(PARTIAL, memory_discount=0)
    teacher = after(server("fedmd", rules), [says(0, 0)], [says(1, 1, 1, (2,))])
    assert teacher.ids.tolist() == [2]


def test_a_new_report_replaces_the_remembered_one() -> None:
    teacher = after(server("fedmd"), [says(0, 0)], [says(0, 1, 1)])
    assert teacher.values[0].tolist() == [0, 1, 0, 0]


def test_only_rows_that_the_plan_queries_are_recalled() -> None:
    teacher = after(server("fedmd"), [says(0, 0, rows=(0, 1, 2))], [says(1, 1, 1, (1,))], ids=np.array([1, 2]))
    assert teacher.ids.tolist() == [1, 2]


def test_a_late_report_counts_once_and_updates_the_memory() -> None:
    rules = ParticipationConfig(min_reports=1, stale_reports="use")
    made = server("fedmd", rules)
    late = says(0, 2, round=1)
    teacher = after(made, [says(0, 0)], [], [late, says(1, 1, 2)])
    assert teacher.values[0] == pytest.approx([0, 0.5, 0.5, 0])
    teacher = after(made, [says(0, 0)], [], [late], [says(1, 1, 3)])
    assert teacher.values[0] == pytest.approx([0, 1 / 1.81, 0.81 / 1.81, 0])  # its age is 2, counted from its own round


@pytest.mark.parametrize("method", ["fedmd", "edgefd"])
def test_a_buffered_report_counts_with_a_weight_that_falls_with_its_age_and_then_in_memory(method: str) -> None:
    made = server(method, ParticipationConfig(min_reports=2, stale_reports="buffer", memory_discount=0.5))
    rounds = [[says(2, 0)], [], [says(0, 2, round=0), says(1, 1, 2)]]
    assert after(made, *rounds).values[0] == pytest.approx(np.array([0.25, 1, 0.25, 0]) / 1.5)
    assert after(made, *rounds, [says(1, 1, 3)]).values[0] == pytest.approx(np.array([0.125, 1, 0.125, 0]) / 1.25)


@with_methods(m for m in METHODS if m.exchanges)
def test_the_methods_that_average_labels_remember_and_the_others_do_not(method: Method) -> None:
    assert method.remembers == (method.name in REMEMBERING)
    reports, _, _ = play(method, 1)
    progress = server_round(server(method), reports[0], plan(0), Progress())
    assert set(progress.memory) == (set(range(4)) if method.remembers else set())
    if not method.remembers:
        alone = [dataclasses.replace(report, round=1) for report in reports[0][:1]]
        with_past, without = (
            server_round(server(method), alone, plan(1), Progress(1, None, None, memory)).teacher
            for memory in (progress.memory, {})
        )
        assert with_past is not None
        assert without is not None
        assert with_past.equals(without)


@with_methods(m for m in METHODS if m.remembers and not m.server_model and m.name != "fedmd_published")
def test_a_round_without_reports_repeats_the_teacher_if_the_discount_is_1(method: Method) -> None:
    reports, teachers, _ = play(method, 1)
    made = server(method, dataclasses.replace(PARTIAL, memory_discount=1))
    progress = server_round(made, reports[0], plan(0), Progress())
    again = server_round(made, [], plan(1), progress).teacher
    assert again is not None
    assert again.equals(teachers[0])


@pytest.mark.parametrize("name", ["fkd", "fedproto"])
def test_classes_are_remembered_also_if_there_are_fewer_proxy_rows_than_classes(name: str) -> None:
    labels = [says(0, 3, rows=(0, 3))], [says(1, 1, 1, (1,))], [says(0, 2, 2, (0,))], [says(1, 1, 3, (1,))]
    made = server(name)
    assert after(made, *labels[:2], ids=np.arange(2)).ids.tolist() == [0, 1, 3]
    few = Progress()
    for r, reports in enumerate(labels):
        few = server_round(made, reports, RoundPlan(r, np.arange(2)), few)
    assert few.memory[0].knowledge.ids.tolist() == [0]  # client 0 has no more samples of class 3


@with_methods(m for m in METHODS if m.exchanges)
def test_nothing_is_remembered_if_all_clients_report_in_each_round(method: Method) -> None:
    reports, _, _ = play(method, 1)
    assert server_round(new_server(method), reports[0], plan(0), Progress()).memory == {}


@pytest.mark.parametrize("name", ["median", "geometric_median", "trimmed_mean"])
def test_a_remembered_liar_cannot_overrule_the_honest_clients(name: Any) -> None:
    made = server("fedmd", combine=aggregate_of(Aggregator(name, trim=0.3)))
    teacher = after(made, [says(3, 3)], [says(0, 0, 1), says(1, 0, 1), says(2, 0, 1)])
    assert teacher.values[0].argmax() == 0
    assert teacher.values[0, 3] < 0.05


def test_a_remembered_vote_keeps_its_discount() -> None:
    """Client 0 sent two rows two rounds ago, so its vote for row 0 has the weight 0.81 / 2; client 1 has one vote."""
    rounds = [says(0, 0, rows=(0, 1))], [], [says(1, 1, 2)]
    one_vote = after(server("fedmd", combine=aggregate_of(Aggregator(one_vote=True))), *rounds)
    assert one_vote.values[0] == pytest.approx([0.405 / 1.405, 1 / 1.405, 0, 0])
    both = aggregate_of(Aggregator(one_vote=True, min_voters=2))  # row 1 has a single voter and counts for nobody
    assert after(server("fedmd", combine=both), *rounds).values.ravel() == pytest.approx([0.81 / 1.81, 1 / 1.81, 0, 0])


def test_rows_of_different_ages_keep_their_discount_in_one_vote() -> None:
    """Client 0 sent row 0 two rounds ago and row 1 one round ago: 0.81 / 2 and 0.9 / 2 of the votes of client 1."""
    made = server("fedmd", combine=aggregate_of(Aggregator(one_vote=True)))
    progress = server_round(made, [says(0, 0)], RoundPlan(0, np.array([0])), Progress())
    progress = server_round(made, [says(0, 0, 1, (1,))], RoundPlan(1, np.array([1])), progress)
    teacher = server_round(made, [says(1, 1, 2, (0, 1))], RoundPlan(2, np.array([0, 1])), progress).teacher
    assert teacher is not None
    assert teacher.values[:, 0] == pytest.approx([0.405 / 0.905, 0.45 / 0.95])


def test_memory_changes_no_bit_with_full_participation() -> None:
    full, without = (results(config(coordinator={"memory_discount": d})) for d in (0.9, 0.0))
    for a, b in zip(full, without, strict=True):
        assert a.teacher is not None
        assert b.teacher is not None
        assert a.teacher.equals(b.teacher)
        assert (a.exchange.bytes_up, a.exchange.bytes_down) == (b.exchange.bytes_up, b.exchange.bytes_down)


def test_memory_keeps_the_rows_of_absent_clients_in_the_teacher() -> None:
    sections: dict[str, Any] = {"partition": {"name": "strong", "n_clients": 10}, "method": {"name": "edgefd"}}
    covered = [
        [
            0 if r.teacher is None else len(r.teacher)
            for r in results(config(coordinator={"fraction": 0.3, "memory_discount": d}, **sections))
        ]
        for d in (0.9, 0.0)
    ]
    assert covered[0][0] == covered[1][0]
    assert covered[0][2] > 1.5 * covered[1][2]
