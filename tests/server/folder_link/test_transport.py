"""Rounds through an exchange folder with partial participation, and rounds that a killed coordinator left there."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from edgefd_client.folder_link import FolderLink
from edgefd_client.link import Membership
from edgefd_server.folder_link.transport import FolderTransport, open_folder

from edgefd.core.errors import RunError
from edgefd.core.files import put
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.rounds.participation import ParticipationConfig
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import COMPLETE, COUNTED, DONE, PLAN, report_file, round_folder
from tests.support.rounds import INFO, knowledge, plan


def submit(folder: Path, round: int, *clients: int) -> None:
    """Write a report of each of the clients."""
    for client in clients:
        blob = wire.encode_report(Report(client, round, knowledge(10 * round + client)), "float32")
        put(report_file(folder, round, client), blob)


def transport_with(folder: Path, timeout: float = 5.0, **rules: object) -> FolderTransport:
    """Open the exchange folder with these rules of participation."""
    return open_folder(folder, INFO, timeout, ParticipationConfig(**rules))  # type: ignore[arg-type]


def run_round(
    transport: FolderTransport, p: RoundPlan, sampled: Sequence[int] = range(INFO.n_clients)
) -> list[tuple[int, int]]:
    """Run a round, and return client and round of the reports that count."""
    teacher = knowledge(99) if p.round else None
    return sorted((r.client, r.round) for r in transport.exchange(p, sampled, teacher).reports)


def test_a_quorum_ends_the_round(tmp_path: Path) -> None:
    transport = transport_with(tmp_path, min_reports=2)
    submit(tmp_path, 0, 1, 3)
    assert run_round(transport, plan()) == [(1, 0), (3, 0)]
    assert json.loads((round_folder(tmp_path, 0) / COUNTED).read_text()) == [1, 3]


def test_a_quorum_ends_the_round_at_the_deadline(tmp_path: Path) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    transport = transport_with(tmp_path, timeout=600, min_reports=2, deadline_s=60)
    transport = replace(transport, poll=1.0, clock=lambda: now[0], sleep=sleep)
    submit(tmp_path, 0, 1, 3)
    assert run_round(transport, plan()) == [(1, 0), (3, 0)]
    assert now[0] == 60


def test_too_few_reports_end_the_run_with_the_sampled_clients_that_are_missing(tmp_path: Path) -> None:
    transport = transport_with(tmp_path, timeout=0.2, min_reports=2)
    submit(tmp_path, 0, 1)
    with pytest.raises(RunError, match=r"1 of 3 reports after 0.2 s: no report of client 0, 2"):
        run_round(transport, plan(), (0, 1, 2))


@pytest.mark.parametrize(("late", "expected"), [("drop", [(0, 1), (1, 1)]), ("use", [(0, 1), (1, 1), (2, 0)])])
def test_a_late_report_counts_in_the_next_round_if_the_rules_use_it(
    tmp_path: Path, late: str, expected: list[tuple[int, int]]
) -> None:
    """Clients 1 and 2 are late. Client 1 reports in the next round too. Client 3 was not sampled."""
    transport = transport_with(tmp_path, min_reports=1, stale_reports=late)
    submit(tmp_path, 0, 0)
    assert run_round(transport, plan(), (0, 1, 2)) == [(0, 0)]
    submit(tmp_path, 0, 1, 2, 3)
    submit(tmp_path, 1, 0, 1)
    assert run_round(transport, plan(1)) == expected


def test_an_invalid_late_report_is_refused(tmp_path: Path) -> None:
    transport = transport_with(tmp_path, min_reports=1, stale_reports="use")
    submit(tmp_path, 0, 0)
    run_round(transport, plan())
    put(report_file(tmp_path, 0, 2), b"rubbish")
    submit(tmp_path, 1, 0)
    assert run_round(transport, plan(1)) == [(0, 1)]
    assert report_file(tmp_path, 0, 2).with_suffix(".refused").exists()


def test_a_device_has_a_task_only_in_rounds_that_sample_it(tmp_path: Path) -> None:
    transport = transport_with(tmp_path, min_reports=1)
    submit(tmp_path, 0, 0)
    run_round(transport, plan(), (0, 2))
    submit(tmp_path, 1, 3)
    run_round(transport, plan(1), (1, 3))
    tasks = {}
    for client in range(4):
        link = FolderLink(tmp_path, client, Membership(INFO.run, INFO.terms), 0.01)
        tasks[client] = link._sampled(1) and link.next_task(-1)
    assert [bool(tasks[c]) for c in range(4)] == [False, True, False, True]
    returned = tasks[1]
    assert returned
    assert returned.teacher is not None
    assert returned.teacher.equals(knowledge(99))  # client 1 was not sampled in round 0: it gets the newest teacher


def test_the_same_round_continues_and_another_one_is_refused(tmp_path: Path) -> None:
    submit(tmp_path, 0, 0)
    first = run_round(transport_with(tmp_path, min_reports=1), plan(), (0, 1))
    before = (round_folder(tmp_path, 0) / PLAN).stat().st_ino
    assert run_round(transport_with(tmp_path, min_reports=1), plan(), (0, 1)) == first
    assert (round_folder(tmp_path, 0) / PLAN).stat().st_ino == before
    with pytest.raises(RunError, match=r"asked\.json differs from the file that this run would write"):
        run_round(transport_with(tmp_path, min_reports=1), plan(), (0, 2))
    with pytest.raises(RunError, match=r"federation\.json differs from the file that this run would write"):
        open_folder(tmp_path, replace(INFO, run="other"), 1.0)


def test_a_stopped_exchange_is_reopened_and_a_complete_one_stays_complete(tmp_path: Path) -> None:
    transport_with(tmp_path).finish("it was interrupted")
    transport_with(tmp_path)
    assert not (tmp_path / DONE).exists()
    transport_with(tmp_path).finish(COMPLETE)
    transport_with(tmp_path)
    assert (tmp_path / DONE).exists()
