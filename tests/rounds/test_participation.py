"""Rules of participation, without a clock: elapsed time is an argument."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from edgefd.core.errors import RunError, UserError
from edgefd.core.knowledge import empty
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.federation.report import Report
from edgefd.methods import get_method
from edgefd.rounds.participation import (
    ParticipationConfig,
    add_stale_reports,
    arrived,
    check_rules,
    check_supported_over_flower,
    quorum_reached,
    responding_clients,
    sample_clients,
)
from edgefd.rounds.server import make_plan
from tests.support.linear_clients import new_server


def report(client: int, round: int) -> Report:
    return Report(client, round, empty(3))


def plan(round: int = 0) -> RoundPlan:
    return RoundPlan(round, np.arange(3), closing=round == 9)


@pytest.mark.parametrize(
    ("rules", "n_reports", "seconds", "ends"),
    [
        (ParticipationConfig(), 9, 1e9, False),
        (ParticipationConfig(), 10, 0, True),
        (ParticipationConfig(min_reports=4), 3, 1e9, False),
        (ParticipationConfig(min_reports=4), 4, 0, True),
        (ParticipationConfig(min_reports=4, deadline_s=5), 9, 4.99, False),
        (ParticipationConfig(min_reports=4, deadline_s=5), 4, 5, True),
        (ParticipationConfig(min_reports=4, deadline_s=5), 3, 5, False),
        (ParticipationConfig(min_reports=4, deadline_s=5), 10, 0, True),
        (ParticipationConfig(min_reports=40), 10, 0, True),
    ],
)
def test_a_round_of_ten_clients_ends_when_its_quorum_is_reached(
    rules: ParticipationConfig, n_reports: int, seconds: float, ends: bool
) -> None:
    assert quorum_reached(rules, 10, n_reports, seconds) is ends


@pytest.mark.parametrize(
    ("rules", "n_reports", "n_refused", "ends"),
    [
        (ParticipationConfig(min_reports=4, deadline_s=5), 9, 1, True),
        (ParticipationConfig(min_reports=4, deadline_s=5), 4, 6, True),
        (ParticipationConfig(min_reports=4, deadline_s=5), 8, 1, False),  # one client has not answered at all
        (ParticipationConfig(min_reports=4, deadline_s=5), 3, 7, False),
        (ParticipationConfig(), 9, 1, False),
    ],
)
def test_a_round_does_not_wait_for_clients_whose_reports_were_refused(
    rules: ParticipationConfig, n_reports: int, n_refused: int, ends: bool
) -> None:
    assert quorum_reached(rules, 10, n_reports, 0.1, n_refused) is ends


def test_a_round_with_its_quorum_ends_at_the_deadline() -> None:
    rules, arrivals = ParticipationConfig(min_reports=2, deadline_s=3), {0: 1, 1: 1, 5: 1}
    n_reports, ended = 0, []
    for second in range(8):
        n_reports += arrivals.get(second, 0)
        ended.append(quorum_reached(rules, 3, n_reports, second))
    assert ended.index(True) == 3


def test_all_clients_are_sampled_unless_fraction_is_below_one() -> None:
    assert sample_clients(ParticipationConfig(), 0, 0, 5) == (0, 1, 2, 3, 4)
    rules = ParticipationConfig(fraction=0.4)
    samples = [sample_clients(rules, 0, r, 10) for r in range(50)]
    assert all(len(s) == 4 and list(s) == sorted(set(s)) for s in samples)
    assert len(set(samples)) > 20
    assert set().union(*samples) == set(range(10))
    assert samples == [sample_clients(rules, 0, r, 10) for r in range(50)]
    assert samples != [sample_clients(rules, 1, r, 10) for r in range(50)]
    assert len(sample_clients(ParticipationConfig(fraction=0.01), 0, 0, 10)) == 1


def test_a_plan_samples_clients_for_its_round_and_all_clients_for_the_closing_one() -> None:
    rules = ParticipationConfig(fraction=0.5)
    server = dataclasses.replace(new_server(get_method("fedmd")), n_clients=6, participation=rules, evaluate_every=3)
    seed, rounds = server.terms.seed, server.terms.training.rounds
    planned = [make_plan(server, Progress(r)) for r in range(rounds + 1)]
    assert [plan.round for plan, _ in planned] == list(range(rounds + 1))
    assert [sampled for _, sampled in planned[:-1]] == [sample_clients(rules, seed, r, 6) for r in range(rounds)]
    assert [plan.closing for plan, _ in planned] == [False] * rounds + [True]
    assert planned[-1][1] == tuple(range(6))
    assert [plan.evaluate for plan, _ in planned[:-1]] == [r % 3 == 0 for r in range(rounds)]
    assert all(np.array_equal(plan.ids, np.arange(len(server.proxy))) for plan, _ in planned)


def test_late_reports_are_used_only_if_their_client_has_no_newer_report() -> None:
    current, late = [report(0, 5), report(1, 5)], [report(1, 4), report(2, 4)]
    assert add_stale_reports(ParticipationConfig(min_reports=1), current, late) == current
    used = add_stale_reports(ParticipationConfig(min_reports=1, stale_reports="use"), current, late)
    assert [(r.client, r.round) for r in used] == [(0, 5), (1, 5), (2, 4)]


def test_clients_drop_out_by_seed_round_and_client() -> None:
    rules = ParticipationConfig(min_reports=1, dropout=0.3)
    everyone = range(1000)
    first = responding_clients(rules, 0, plan(), everyone)
    assert 640 < len(first) < 760
    assert first == responding_clients(rules, 0, plan(), everyone)
    assert first != responding_clients(rules, 0, plan(round=1), everyone)
    assert first != responding_clients(rules, 1, plan(), everyone)
    assert responding_clients(rules, 0, plan(), [c for c in everyone if c % 2]) == [c for c in first if c % 2]
    assert responding_clients(rules, 0, plan(round=9), everyone) == list(everyone)  # the closing round
    assert responding_clients(ParticipationConfig(), 0, plan(), everyone) == list(everyone)


def test_too_few_reports_in_time_end_a_simulation() -> None:
    few = [report(c, 0) for c in range(3)]
    with pytest.raises(RunError, match=r"round 0: 3 clients report in time, but coordinator.min_reports is 4"):
        arrived(ParticipationConfig(min_reports=4, dropout=0.5), 0, plan(), few, [])


def test_late_reports_of_a_simulation_count_in_the_next_round_if_the_rules_use_them() -> None:
    rules = ParticipationConfig(min_reports=1, lateness=0.3, stale_reports="use")
    first, late = arrived(rules, 0, plan(), [report(c, 0) for c in range(1000)], [])
    assert 240 < len(late) < 360
    assert sorted(r.client for r in [*first, *late]) == list(range(1000))
    second, later = arrived(rules, 0, plan(1), [report(c, 1) for c in range(500)], late)
    new = {r.client for r in second if r.round == 1}
    assert new == set(range(500)) - {r.client for r in later}
    assert {r.client for r in second if r.round == 0} == {r.client for r in late} - new
    closing, none = arrived(rules, 0, plan(9), [report(c, 9) for c in range(1000)], late)
    assert len(closing) == 1000
    assert none == []
    dropping = dataclasses.replace(rules, stale_reports="drop")
    assert {r.round for r in arrived(dropping, 0, plan(1), [report(c, 1) for c in range(500)], late)[0]} == {1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0}, "fraction must be in"),
        ({"fraction": 1.1}, "fraction must be in"),
        ({"min_reports": 0}, "min_reports must be at least 1"),
        ({"deadline_s": 0, "min_reports": 1}, "deadline_s must be above 0"),
        ({"deadline_s": 5}, "deadline_s needs min_reports"),
        ({"dropout": 0.1}, "dropout needs min_reports"),
        ({"dropout": 1, "min_reports": 1}, "below 1"),
        ({"lateness": 0.1}, "lateness needs min_reports"),
        ({"lateness": 1, "min_reports": 1}, "below 1"),
        ({"memory_discount": 1.1}, "memory_discount must be in"),
        ({"memory_discount": -0.1}, "memory_discount must be in"),
        ({"stale_reports": "use"}, "stale_reports needs min_reports"),
    ],
)
def test_inconsistent_rules_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParticipationConfig(**settings)


def test_a_quorum_above_the_number_of_sampled_clients_is_refused() -> None:
    check_rules(ParticipationConfig(fraction=0.5, min_reports=5), 10)
    with pytest.raises(UserError, match="min_reports=6, but a round samples 5 of 10 clients"):
        check_rules(ParticipationConfig(fraction=0.5, min_reports=6), 10)


@pytest.mark.parametrize("name", ["dropout", "lateness"])
def test_simulated_absence_is_refused_over_flower(name: str) -> None:
    check_supported_over_flower(ParticipationConfig(fraction=0.5, min_reports=1, deadline_s=1, stale_reports="use"))
    with pytest.raises(UserError, match=f"coordinator.{name} works only with the local engine"):
        check_supported_over_flower(ParticipationConfig(**{name: 0.5}, min_reports=1))
