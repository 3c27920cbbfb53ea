"""The order of events on the virtual clock, against schedules that are worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import empty
from edgefd.federation.device_profile import DeviceProfile
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.learners.counted_learner import Work
from edgefd.rounds.participation import ParticipationConfig
from edgefd.simulation.device_costs import ClientCosts
from edgefd.simulation.virtual_clock import TimedRound, VirtualClock

BYTES = 1_000_000  # 8 seconds at 1 Mbit/s


class Fleet:
    """Clients whose rounds take given seconds, on a virtual clock."""

    def __init__(self, seconds: Sequence[float], profile: DeviceProfile | None = None, **rules: object) -> None:
        profile = profile or DeviceProfile(down_mbit=1e9, up_mbit=1e9)
        costs = [ClientCosts(profile, step_seconds=1.0, row_seconds=0.0, filter_seconds=0.0) for _ in seconds]
        self.work = [Work(steps=round(s)) for s in seconds]
        self.clock = VirtualClock(ParticipationConfig(**rules), seed=0, costs=costs)  # type: ignore[arg-type]
        self.next_rounds = [0] * len(seconds)
        self.batches: list[list[int]] = []
        self.download = 0
        self.clock.start()

    def run(self, round: int, closing: bool = False, sampled: Sequence[int] | None = None) -> TimedRound:
        plan = RoundPlan(round, np.arange(3), closing=closing)

        def compute(clients: Sequence[int]) -> list[tuple[Report, Work]]:
            self.batches += [list(clients)] * bool(clients)
            for client in clients:
                self.next_rounds[client] = round + 1
            return [(Report(client, round, empty(2)), self.work[client]) for client in clients]

        clients = range(len(self.work)) if sampled is None else sampled
        return self.clock.run_round(
            plan, clients, self.next_rounds.__getitem__, lambda _: Work(1), lambda _: self.download, compute
        )


def found(timed: TimedRound) -> tuple[float, list[tuple[int, int]]]:
    return timed.seconds, sorted((r.client, r.round) for r in timed.reports)


def test_a_synchronous_round_lasts_as_long_as_its_slowest_client() -> None:
    fleet = Fleet([2, 5, 11])
    assert found(fleet.run(0)) == (11, [(0, 0), (1, 0), (2, 0)])
    assert found(fleet.run(1)) == (11, [(0, 1), (1, 1), (2, 1)])
    assert fleet.batches == [[0, 1, 2], [0, 1, 2]]  # all in parallel


def test_a_buffered_schedule() -> None:
    """Clients of 2, 5 and 11 seconds, and a buffer of two reports.

    Absolute times: 0 ends at 2 and 1 at 5: round 0 ends at 5. Both begin round 1 at 5. 0 ends at 7, 1 at 10: round 1
    ends at 10. Both begin round 2 at 10. 2 ends round 0 at 11, and begins round 2 then; 0 ends at 12: round 2 ends at
    12 with 2 (age 2) and 0. 0 begins round 3 at 12 and ends at 14; 1 ends round 2 at 15: round 3 ends at 15.
    0 begins round 4 at 15 and ends at 17; 1 begins round 4 at 15, and ends at 20: round 4 ends at 20. Then 2 ends
    round 2 at 22, before the closing round, which has begun at 20, is over, and begins it at 22.
    """
    fleet = Fleet([2, 5, 11], min_reports=2, stale_reports="buffer")
    assert found(fleet.run(0)) == (5, [(0, 0), (1, 0)])
    assert found(fleet.run(1)) == (5, [(0, 1), (1, 1)])
    assert found(fleet.run(2)) == (2, [(0, 2), (2, 0)])
    assert found(fleet.run(3)) == (3, [(0, 3), (1, 2)])
    assert found(fleet.run(4)) == (5, [(0, 4), (1, 4)])
    assert found(fleet.run(5, closing=True)) == (13, [(0, 5), (1, 5), (2, 5)])


@pytest.mark.parametrize(("rule", "of_client_2"), [("drop", []), ("use", [(2, 0)])])
def test_a_late_report_is_dropped_or_used_in_the_round_after(rule: str, of_client_2: list[tuple[int, int]]) -> None:
    """Round 0 ends at 5. Client 2 ends at 8, in round 1, which it does not help to end: 0 ends it at 7, 1 at 10."""
    fleet = Fleet([2, 5, 8], min_reports=2, stale_reports=rule)
    assert found(fleet.run(0)) == (5, [(0, 0), (1, 0)])
    assert found(fleet.run(1)) == (5, [(0, 1), (1, 1), *of_client_2])
    # client 2 has begun round 1 at 8 and ends at 16: round 2 ends at 15
    assert found(fleet.run(2)) == (5, [(0, 2), (1, 2)])


def test_a_deadline_waits_for_more_reports_than_are_needed() -> None:
    fleet = Fleet([2, 5, 11], min_reports=1, deadline_s=7)
    assert found(fleet.run(0)) == (7, [(0, 0), (1, 0)])
    assert found(fleet.run(1)) == (7, [(0, 1), (1, 1)])  # 2 ends round 0 at 11 and begins round 1, until 22


def test_without_enough_reports_a_round_goes_on_after_its_deadline() -> None:
    assert found(Fleet([9, 11], min_reports=1, deadline_s=7).run(0)) == (9, [(0, 0)])


def test_download_upload_latency_and_energy() -> None:
    profile = DeviceProfile(
        down_mbit=1, up_mbit=2, latency_seconds=0.5, training_watts=3, radio_watts=2, filter_row_seconds=1
    )
    costs = ClientCosts(profile, step_seconds=2, row_seconds=0.25, filter_seconds=7)
    cost = costs.round(Work(steps=5, rows=4), bytes_down=BYTES, bytes_up=BYTES)
    assert cost.seconds == pytest.approx(8 + 10 + 1 + 4 + 2 * 0.5)
    assert cost.joules == pytest.approx(11 * 3 + 12 * 2)
    assert (costs.filter().seconds, costs.filter().joules) == (7, 21)


def test_a_failure_costs_time_and_energy_and_the_device_begins_again() -> None:
    always_up = Fleet([4] * 40)
    failing = Fleet([4] * 40, DeviceProfile(down_mbit=1e9, up_mbit=1e9, failure=0.5, training_watts=1))
    assert found(always_up.run(0)) == (4, [(c, 0) for c in range(40)])
    failing.download = 1
    timed = failing.run(0)
    assert timed.seconds > 4
    assert len(timed.reports) == 40
    assert timed.bytes_down > 50
    assert timed.joules > 160
    again = Fleet([4] * 40, DeviceProfile(down_mbit=1e9, up_mbit=1e9, failure=0.5, training_watts=1))
    again.download = 1
    assert found(again.run(0)) == found(timed)


def test_an_absent_device_returns() -> None:
    profile = DeviceProfile(down_mbit=1e9, up_mbit=1e9, availability=0.5, absence_seconds=100)
    timed = Fleet([4] * 20, profile).run(0)
    assert timed.seconds == 104
    assert len(timed.reports) == 20


@given(
    seconds=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    k=st.integers(1, 6),
    rule=st.sampled_from(["drop", "use", "buffer"]),
)
def test_no_report_counts_twice_and_each_round_has_enough(seconds: list[int], k: int, rule: str) -> None:
    k = min(k, len(seconds))
    fleet = Fleet(seconds, min_reports=k, stale_reports=rule)
    rounds = [fleet.run(round) for round in range(6)]
    counted = [(r.client, r.round) for timed in rounds for r in timed.reports]
    assert len(set(counted)) == len(counted)
    assert all(len({r.client for r in timed.reports}) == len(timed.reports) >= k for timed in rounds)
    assert all(timed.seconds >= 0 for timed in rounds)
    assert len(fleet.run(6, closing=True).reports) == len(seconds)
