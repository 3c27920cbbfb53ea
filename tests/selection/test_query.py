"""Rows that the server queries: closed forms, and that they are rows of the plan within the budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge, empty
from edgefd.selection import selection_of, selection_rules
from edgefd.selection._rule import SelectionState, n_rows
from edgefd.selection.ddk import Ddk, apportion, budget_shares, by_class, groups
from edgefd.selection.pcoreset import k_centre
from tests.support.small_runs import config, results

SERVER_RULES = sorted(name for name, rule in selection_rules().items() if rule.queries)
BUDGETED = sorted(set(SERVER_RULES) - {"alternating"})


def knowledge(ids: list[int], values: list[list[float]]) -> Knowledge:
    return Knowledge(np.array(ids), np.array(values, np.float32), np.ones(len(ids), np.float32))


def test_k_centre_chooses_the_farthest_row_first_and_the_nearest_last() -> None:
    line = np.array([[0.0], [1.0], [4.0], [10.0], [5.5]], np.float32)
    assert k_centre(line, line[:1], 5).tolist() == [3, 4, 2, 1, 0]
    assert k_centre(line, np.array([[0.0], [10.0]], np.float32), 2).tolist() == [4, 2]
    assert sorted(k_centre(np.zeros((4, 2), np.float32), np.zeros((1, 2), np.float32), 4)) == [0, 1, 2, 3]


def test_k_centre_has_at_most_twice_the_best_radius() -> None:
    rng = np.random.default_rng(0)
    points = rng.dirichlet(np.ones(3), 8).astype(np.float32)
    start, k = points[:1], 2

    def radius(chosen: list[int]) -> float:
        centres = np.concatenate([start, points[chosen]])
        return float(np.sqrt(((points[:, None] - centres) ** 2).sum(2)).min(1).max())

    best = min(radius([i, j]) for i in range(8) for j in range(i))
    assert radius(k_centre(points, start, k).tolist()) <= 2 * best + 1e-6


def test_budgets_of_classes_follow_their_lag_and_their_available_rows() -> None:
    labels = np.array([[0.9, 0.1]] * 6 + [[0.2, 0.8]] * 6 + [[0.5, 0.5]] * 4, np.float32)
    assert groups(labels).tolist() == [0] * 6 + [1] * 6 + [2] * 4
    lag = np.array([3.0, 1.0], np.float32)
    assert budget_shares(labels, lag, 0.0).tolist() == [0.75, 0.25, 0.0]
    assert budget_shares(labels, lag, 1.0) == pytest.approx([1 / 3] * 3)
    assert budget_shares(labels, np.zeros(2, np.float32), 0.0) == pytest.approx([1 / 3] * 3)
    assert budget_shares(labels[:6], lag, 0.5).tolist() == [1.0, 0.0, 0.0]
    assert by_class(labels, budget_shares(labels, lag, 0.0), 4).tolist() == [0, 1, 2, 6]
    assert apportion(np.array([0.75, 0.25, 0.0]), np.array([6, 6, 4]), 16).tolist() == [6, 6, 4]


def test_rows_that_were_never_queried_come_first() -> None:
    selection_state = SelectionState(knowledge([0, 1, 2], [[1, 0], [0, 1], [0.5, 0.5]]), np.zeros(2, np.float32))
    for name in ("pcoreset", "ddk"):
        rule = selection_of({"name": name, "budget": 3})
        rows = rule.query(np.arange(5), selection_state.known, selection_state, np.random.default_rng(0), 4)
        assert {3, 4} <= set(rows.tolist())
        assert len(rows) == 3


def test_pcoreset_queries_rows_that_differ_from_the_last_teacher() -> None:
    selection_state = SelectionState(
        knowledge([0, 1, 2, 3], [[1, 0], [0.9, 0.1], [0, 1], [1, 0]]), np.zeros(2, np.float32)
    )
    teacher = knowledge([0], [[1, 0]])
    rule = selection_of({"name": "pcoreset", "budget": 2})
    rows = rule.query(np.arange(4), teacher, selection_state, np.random.default_rng(0), 4)
    assert rows.tolist() == [1, 2]


def test_the_state_holds_the_newest_labels_and_uniform_ones_for_unanswered_rows() -> None:
    rule = Ddk(budget=2)
    first = rule.next_state(
        None, np.array([0, 2]), knowledge([2], [[0.9, 0.1]]), [{"class_kl/1": 4.0}, {"class_kl/1": 2.0}, {}]
    )
    assert first.known.ids.tolist() == [0, 2]
    assert first.known.values == pytest.approx(np.array([[0.5, 0.5], [0.9, 0.1]]))
    assert first.lag.tolist() == [0.0, 3.0]
    second = rule.next_state(first, np.array([1, 2]), knowledge([1, 2], [[0, 1], [0.2, 0.8]]), [{"class_kl/0": 1e9}])
    assert second.known.ids.tolist() == [0, 1, 2]
    assert second.known.values == pytest.approx(np.array([[0.5, 0.5], [0, 1], [0.2, 0.8]]))
    assert second.lag.tolist() == [20.0, 0.0]  # larger values than soft labels can have are clipped


@st.composite
def states(draw: st.DrawFn) -> tuple[SelectionState | None, Knowledge | None, int]:
    n = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    known = np.flatnonzero(rng.random(n) < draw(st.sampled_from([0, 0.5, 1])))
    labels = rng.dirichlet(np.ones(3), len(known)).astype(np.float32)
    k = Knowledge(known, labels, np.ones(len(known), np.float32)) if len(known) else empty(3)
    selection_state = draw(st.sampled_from([None, SelectionState(k, rng.random(3).astype(np.float32))]))
    return selection_state, draw(st.sampled_from([None, k])), n


@given(states(), st.sampled_from(BUDGETED), st.sampled_from([0.01, 0.25, 0.99, 2, 7, 100]), st.integers(0, 9))
def test_queried_rows_are_distinct_rows_of_the_plan_and_fill_the_budget(
    drawn: tuple[SelectionState | None, Knowledge | None, int], name: str, budget: float, seed: int
) -> None:
    selection_state, teacher, n = drawn
    ids = np.arange(n)
    rule = selection_of({"name": name, "budget": budget})
    chosen = [rule.query(ids, teacher, selection_state, np.random.default_rng(seed), 3) for _ in range(2)]
    assert np.array_equal(*chosen)
    assert (np.diff(chosen[0]) > 0).all()
    assert np.isin(chosen[0], ids).all()
    assert len(chosen[0]) == n_rows(budget, n)


@given(st.integers(2, 9), st.integers(9, 40), st.integers(0, 99), st.integers(0, 3))
def test_alternating_queries_each_row_once_in_a_cycle(parts: int, n: int, seed: int, cycle: int) -> None:
    rule = selection_of({"name": "alternating", "parts": parts})
    rounds = range(cycle * parts, (cycle + 1) * parts)
    assert rule.cycle == parts
    queried = [rule.query(np.arange(n), None, None, np.random.default_rng(seed), round) for round in rounds]
    assert sorted(np.concatenate(queried).tolist()) == list(range(n))
    assert max(map(len, queried)) - min(map(len, queried)) <= 1
    assert all((np.diff(rows) > 0).all() for rows in queried)


def test_alternating_divides_the_rows_anew_in_each_cycle_of_a_run() -> None:
    done = results(config(selection={"name": "alternating", "parts": 2}, train={"rounds": 4}))
    queried = [r.plan.ids.tolist() for r in done if not r.plan.closing]
    everything = done[-1].plan.ids.tolist()
    assert sorted(queried[0] + queried[1]) == sorted(queried[2] + queried[3]) == everything
    assert queried[2] not in (queried[0], queried[1])


@pytest.mark.parametrize(("parts", "message"), [(1, "at least 2"), (61, "only 60 rows: lower it")])
def test_alternating_needs_several_parts_that_are_not_empty(parts: int, message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        selection_of({"name": "alternating", "parts": parts}).check_budget(60)


def test_with_a_rule_of_the_client_the_server_queries_all_rows() -> None:
    assert SERVER_RULES == ["alternating", "ddk", "pcoreset", "random"]
    for name in sorted(set(selection_rules()) - set(SERVER_RULES)):
        rule = selection_of({"name": name} | ({} if name == "all" else {"budget": 0.5}))
        assert rule.query(np.arange(5), None, None, np.random.default_rng(0), 0).tolist() == [0, 1, 2, 3, 4]
        assert rule.next_state(None, np.arange(5), knowledge([0], [[1, 0]]), [{}]) is None
