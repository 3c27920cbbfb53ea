"""The memory of a server: newest labels, their ages, the discount, and the rows that a plan queries."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge
from edgefd.federation.memory import Memory, Remembered, recall, update
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from tests.support.votes import votes

ROWS = 6
Answers = list[dict[int, set[int]]]
"""for each round, the rows for which each client answers"""

answers = st.lists(
    st.dictionaries(st.integers(0, 3), st.sets(st.integers(0, ROWS - 1)), max_size=4), min_size=1, max_size=6
)


def label(client: int, round: int, row: int) -> list[float]:
    """Return a label that no other client, round or row has."""
    p = (1 + row + ROWS * (round + 10 * client)) / 1000
    return [p, 1 - p]


def report(client: int, round: int, rows: Sequence[int]) -> Report:
    values = np.array([label(client, round, row) for row in rows], np.float32).reshape(-1, 2)
    return Report(client, round, Knowledge(np.array(rows, np.int64), values, np.full(len(rows), 0.5, np.float32)))


def plan(round: int, rows: Sequence[int] = range(ROWS)) -> RoundPlan:
    return RoundPlan(round, np.array(rows, np.int64))


def equal(a: Memory, b: Memory) -> bool:
    return a.keys() == b.keys() and all(
        a[c].knowledge.equals(b[c].knowledge) and np.array_equal(a[c].rounds, b[c].rounds) for c in a
    )


def after(rounds: Answers, *, reverse: bool = False) -> Memory:
    """Return the memory after rounds that query only the rows for which some client answers."""
    memory: Memory = {}
    for round, sent in enumerate(rounds):
        reports = [report(client, round, sorted(rows)) for client, rows in sent.items()]
        queried = sorted(set().union(*sent.values()))
        memory = update(memory, reports[::-1] if reverse else reports, plan(round, queried))
    return memory


@given(answers)
def test_the_memory_holds_the_newest_label_of_each_row_that_was_not_declined_since(rounds: Answers) -> None:
    memory = after(rounds)
    for client in range(4):
        newest: dict[int, int] = {}
        for round, sent in enumerate(rounds):
            if client in sent:
                for row in set().union(*sent.values()):
                    newest.pop(row, None)
                newest |= dict.fromkeys(sent[client], round)
        if client not in memory:
            assert all(client not in sent for sent in rounds)
            continue
        known = memory[client]
        assert dict(zip(known.knowledge.ids.tolist(), known.rounds.tolist(), strict=True)) == newest
        expected = [label(client, newest[row], row) for row in sorted(newest)]
        assert np.array_equal(known.knowledge.values, np.array(expected, np.float32).reshape(-1, 2))


@given(answers)
def test_the_order_of_reports_changes_no_bit_of_the_memory(rounds: Answers) -> None:
    assert equal(after(rounds), after(rounds, reverse=True))


@given(answers, st.sets(st.integers(0, ROWS - 1)), st.sets(st.integers(0, 3)), st.sampled_from([1.0, 0.9, 0.5]))
def test_absent_clients_are_recalled_for_queried_rows_with_weights_that_fall_with_age(
    rounds: Answers, queried: set[int], present: set[int], discount: float
) -> None:
    memory, now = after(rounds), len(rounds)
    recalled = recall(memory, present, plan(now, sorted(queried)), discount)
    clients = [r.client for r in recalled]
    assert clients == sorted(set(clients))
    assert not present & set(clients)
    for r in recalled:
        known = memory[r.client]
        age = {row: now - round for row, round in zip(known.knowledge.ids, known.rounds, strict=True)}
        assert r.knowledge.ids.tolist() == sorted(queried & set(known.knowledge.ids.tolist())) != []
        weights = [0.5 * discount ** age[row] for row in r.knowledge.ids]
        assert r.knowledge.weights == pytest.approx(weights, rel=1e-6)
        assert min(age.values()) >= 1


def test_a_row_that_a_client_declines_is_forgotten_and_a_row_that_is_not_queried_stays() -> None:
    memory = update({}, [report(1, 0, [0, 1, 2])], plan(0))
    memory = update(memory, [report(1, 1, [1])], plan(1, [0, 1]))
    assert memory[1].knowledge.ids.tolist() == [1, 2]
    assert memory[1].rounds.tolist() == [1, 0]


def test_a_late_report_replaces_only_the_rows_that_it_holds() -> None:
    memory = update({}, [report(1, 0, [0, 1, 2])], plan(0))
    memory = update(memory, [report(1, 1, [1])], plan(2))
    assert memory[1].rounds.tolist() == [0, 1, 0]


def test_the_weight_of_very_old_knowledge_stays_above_zero() -> None:
    memory = {0: Remembered(votes([3], [[1, 0]]), np.array([0]))}
    (recalled,) = recall(memory, (), plan(5000), 0.5)
    assert recalled.knowledge.weights == np.float32(1e-6)


def test_a_client_without_queried_rows_is_not_recalled() -> None:
    memory = update({}, [report(0, 0, []), report(1, 0, [4])], plan(0))
    assert recall(memory, (), plan(1, [0]), 0.9) == []
