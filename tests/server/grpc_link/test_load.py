"""Many devices on one coordinator: no report is lost, and no memory of a round is retained."""

import pytest

from benchmarks.load import measure

LEAK = 80  # rounds after the 20th: a coordinator that retained one report of each would hold so many


@pytest.mark.slow
def test_two_hundred_devices_lose_no_report() -> None:
    load = measure(devices=200, rounds=3, rows=1000, classes=10, limit=300)
    assert [r.reports for r in load.rounds] == [200] * 3
    assert load.accepted == 200 * 4
    assert load.rounds[-1].descriptors < 200 + 40


@pytest.mark.slow
def test_a_hundred_rounds_of_fifty_devices_leave_nothing_behind() -> None:
    rows, classes = 2000, 50
    load = measure(devices=50, rounds=100, rows=rows, classes=classes, limit=500)
    report = rows * (4 * classes + 8 + 4) / 2**20  # MiB of a report in memory
    # The minimum of some rounds, because memory at the end of a round varies with the calls in progress.
    early = min(r.memory for r in load.rounds[15:25])
    late = min(r.memory for r in load.rounds[90:100])
    assert late - early < LEAK * report / 2, f"{early:.1f} MiB around round 20, {late:.1f} MiB at the end"
    assert load.rounds[99].descriptors <= load.rounds[19].descriptors
    assert load.accepted == 50 * 101
