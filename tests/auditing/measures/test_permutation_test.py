"""The permutation test of all attacks: its level without a leak, the leaks that it finds, and exact small samples."""

from itertools import combinations

import numpy as np
import pytest

from edgefd.auditing.measures.permutation_test import ScoreTable, drawn_again, exact_p, permutation_test

CLIENT, MEMBER = np.repeat(np.arange(10), 108), np.tile(np.arange(108) < 54, 10)


def scores(seed: int, attacks: int = 6) -> np.ndarray:
    """Return scores of some attacks that depend on each other and say nothing of membership."""
    r = np.random.default_rng(seed)
    return r.normal(size=(1080, 1)) + r.normal(size=(1080, attacks))


def test_without_a_leak_one_audit_in_forty_finds_one() -> None:
    """One table has one distribution of the largest statistic, so 1,000 draws of membership need one test."""
    table = ScoreTable(scores(0)[:, :3], CLIENT, MEMBER)
    reference = permutation_test([table], np.random.default_rng(1), draws=199)
    again = drawn_again(table, np.random.default_rng(2), 60)
    assert (again.sum(axis=1) == MEMBER.sum()).all()
    assert all((again[:, c == CLIENT].sum(axis=1) == 54).all() for c in range(10))
    found = 0
    for member in again:
        result = permutation_test([ScoreTable(table.values, CLIENT, member)], np.random.default_rng(3), draws=39)
        found += result[0].p <= 0.025
    assert found <= 5  # 1.5 expected; above in 4 of 1,000
    assert reference[0].p > 0.025


def test_members_given_away_with_certainty_are_found() -> None:
    values = scores(1, 29)
    values[np.random.default_rng(0).permutation(np.flatnonzero(MEMBER))[:16], 3] += 30  # 3 % of the members
    best = permutation_test([ScoreTable(values, CLIENT, MEMBER)], np.random.default_rng(0))[0]
    assert best.p <= 0.025
    assert (best.attack, best.client, best.kind, best.members) == (3, None, "highest", best.size)
    turned = permutation_test([ScoreTable(-values, CLIENT, MEMBER)], np.random.default_rng(0))[0]
    assert (turned.attack, turned.kind) == (3, "lowest")


def test_one_leaking_client_of_ten_is_found_and_named() -> None:
    values = scores(2, 29)
    values[(CLIENT == 4) & MEMBER, 3] += 3.0  # AUC 0.93
    best = permutation_test([ScoreTable(values, CLIENT, MEMBER)], np.random.default_rng(0))[0]
    assert (best.attack, best.client, best.kind) == (3, 4, "auc")
    assert best.p <= 0.001


def test_pairs_are_exchanged_and_other_records_of_a_second_table_are_drawn_alone() -> None:
    r = np.random.default_rng(0)
    common = r.normal(0, 3, 60)
    pairs = np.concatenate([common + 0.5 + 0.1 * r.normal(size=60), common + 0.1 * r.normal(size=60)])[:, None]
    member, client = np.arange(120) < 60, np.tile(np.zeros(60, np.int64), 2)
    paired = permutation_test([ScoreTable(pairs, client, member, paired=True)], r)
    alone = permutation_test([ScoreTable(pairs, client, member)], r)
    assert paired[0].p <= 0.01
    assert alone[0].p > 0.2
    both = permutation_test([ScoreTable(scores(5)[:, :1], CLIENT, MEMBER), ScoreTable(pairs, client, member, True)], r)
    assert both[0].table == 1
    assert both[0].p <= 0.025


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_probability_is_that_of_all_draws(seed: int) -> None:
    r = np.random.default_rng(seed)
    values = r.integers(0, 5, 9).astype(float)
    ranks = np.array([np.sum(values < v) + (np.sum(values == v) + 1) / 2 for v in values])
    sums = [ranks[list(rows)].sum() for rows in combinations(range(9), 4)]
    expected = np.mean(np.array(sums) >= ranks[:4].sum())
    assert exact_p(values[:4], values[4:]) == pytest.approx(expected)


def test_the_exact_probability_of_pairs_is_that_of_all_exchanges() -> None:
    assert exact_p(np.array([2.0, 4.0, 6.0]), np.array([1.0, 3.0, 5.0]), paired=True) == 1 / 8
    assert exact_p(np.ones(19), np.zeros(19)) < 1e-9
