"""Rounds through an exchange folder with partial participation, and rounds that a killed coordinator left there."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from edgefd_client.folder_link import FolderLink
from edgefd_client.link import Membership
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.folder_link.front_end import open_folder

from edgefd.core.errors import RunError
from edgefd.core.files import put
from edgefd.federation.report import Report
from edgefd.rounds.participation import ParticipationConfig
from edgefd.rounds.validation import ExpectedTask
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import COMPLETE, COUNTED, DONE, PLAN, report_file, round_folder
from tests.support.expectations import TEACHER
from tests.support.federations import ignore_event
from tests.support.rounds import INFO, knowledge, plan


def submit(folder: Path, round: int, *clients: int) -> None:
    """Write a report of each of the clients."""
    for client in clients:
        blob = wire.encode_report(Report(client, round, knowledge(10 * round + client)), "float32")
        put(report_file(folder, round, client), blob)


@contextmanager
def exchange(folder: Path, first: int = 0, timeout: float = 5.0, **rules: object) -> Iterator[RoundCoordinator]:
    """Open the exchange folder with these rules of participation."""
    coordinator = RoundCoordinator(INFO, timeout, ignore_event, ParticipationConfig(**rules))  # type: ignore[arg-type]
    with open_folder(folder, coordinator, 5, first):
        yield coordinator


def run_round(transport: RoundCoordinator, round: int = 0, sampled: Sequence[int] = range(4)) -> list[tuple[int, int]]:
    """Run a round, and return client and round of the reports that count."""
    teacher = knowledge(99) if round else None
    return sorted((r.client, r.round) for r in transport.exchange(plan(round), sampled, teacher).reports)


def test_a_quorum_ends_the_round_with_all_reports_that_are_there(tmp_path: Path) -> None:
    submit(tmp_path, 0, 1, 2, 3)
    with exchange(tmp_path, min_reports=2) as transport:
        assert run_round(transport) == [(1, 0), (2, 0), (3, 0)]
    assert json.loads((round_folder(tmp_path, 0) / COUNTED).read_text()) == [1, 2, 3]


def test_too_few_reports_end_the_run_with_the_sampled_clients_that_are_missing(tmp_path: Path) -> None:
    submit(tmp_path, 0, 1)
    with (
        exchange(tmp_path, timeout=0.5, min_reports=2) as transport,
        pytest.raises(RunError, match=r"1 of 3 reports after 0.5 s: no report of client 0, 2"),
    ):
        run_round(transport, 0, (0, 1, 2))


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(("late", "expected"), [("drop", [(0, 1), (1, 1)]), ("use", [(0, 1), (1, 1), (2, 0)])])
def test_a_late_report_counts_in_the_next_round_if_the_rules_use_it(
    tmp_path: Path, late: str, expected: list[tuple[int, int]], killed: bool
) -> None:
    """Clients 1 and 2 are late. Client 1 reports in the next round too. Client 3 was not sampled."""
    with exchange(tmp_path, min_reports=1, stale_reports=late) as transport:
        submit(tmp_path, 0, 0)
        assert run_round(transport, 0, (0, 1, 2)) == [(0, 0)]
        submit(tmp_path, 0, 1, 2, 3)
        submit(tmp_path, 1, 0, 1)
        if not killed:
            assert run_round(transport, 1) == expected
    if killed:
        with exchange(tmp_path, 1, min_reports=1, stale_reports=late) as transport:
            assert run_round(transport, 1) == expected


def test_buffered_rounds_count_reports_of_earlier_rounds(tmp_path: Path) -> None:
    with exchange(tmp_path, min_reports=2, stale_reports="buffer") as transport:
        submit(tmp_path, 0, 0, 1)
        assert run_round(transport, 0) == [(0, 0), (1, 0)]
        submit(tmp_path, 1, 0, 1)
        assert run_round(transport, 1) == [(0, 1), (1, 1)]
        submit(tmp_path, 0, 2)
        submit(tmp_path, 2, 0)
        assert run_round(transport, 2) == [(0, 2), (2, 0)]


def test_an_invalid_late_report_is_refused(tmp_path: Path) -> None:
    with exchange(tmp_path, min_reports=1, stale_reports="use") as transport:
        submit(tmp_path, 0, 0)
        run_round(transport)
        put(report_file(tmp_path, 0, 2), b"rubbish")
        submit(tmp_path, 1, 0)
        assert run_round(transport, 1) == [(0, 1)]
    assert report_file(tmp_path, 0, 2).with_suffix(".refused").exists()


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_another_report(path: Path) -> None:
    path.symlink_to("0.bin")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def folder_in_place_of_the_reason(path: Path) -> None:
    path.write_bytes(b"rubbish")
    path.with_suffix(".refused").mkdir()


def links_in_place_of_the_reason(path: Path) -> None:
    """Prepare links with the names that an earlier version used for temporary files."""
    path.write_bytes(b"rubbish")
    (path.parents[3] / "victim").write_text("untouched")
    for name in (".1.refused.part", "1.refused", "1.refused.part"):
        (path.parent / name).symlink_to(path.parents[3] / "victim")


@pytest.mark.parametrize(
    "make",
    [
        *(Path.mkdir, os.mkfifo, link_to_itself, link_to_another_report, huge),
        *(folder_in_place_of_the_reason, links_in_place_of_the_reason),
    ],
)
def test_what_is_not_a_report_is_refused_and_counted_and_the_run_goes_on(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    refused = []

    def log(event: str, **fields: object) -> None:
        refused.extend([fields["client"]] if event == "refused" else [])

    path = report_file(tmp_path, 0, 1)
    path.parent.mkdir(parents=True)
    make(path)
    submit(tmp_path, 0, 0, 2)
    coordinator = RoundCoordinator(INFO, 5.0, log, ParticipationConfig(min_reports=3))
    with open_folder(tmp_path, coordinator, 5):
        later = threading.Timer(0.3, submit, (tmp_path, 0, 3))
        later.start()
        assert run_round(coordinator) == [(0, 0), (2, 0), (3, 0)]
        later.join()
    assert set(refused) == {1}
    if make is links_in_place_of_the_reason:
        assert (tmp_path / "victim").read_text() == "untouched"
        assert not path.with_suffix(".refused").is_symlink()
    if make is not folder_in_place_of_the_reason:
        assert path.with_suffix(".refused").is_file()


def test_a_folder_of_reports_that_leads_elsewhere_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A link in place of the folder neither shows other files nor lets the coordinator write elsewhere."""
    exchanged, elsewhere = tmp_path / "exchange", tmp_path / "elsewhere"
    exchanged.mkdir()
    with exchange(exchanged, timeout=1.5, min_reports=2) as transport:

        def replace_folder() -> None:
            report_file(exchanged, 0, 1).parent.rename(elsewhere)
            (elsewhere / "1.bin").write_bytes(b"rubbish")
            report_file(exchanged, 0, 1).parent.symlink_to(elsewhere)

        later = threading.Timer(0.3, replace_folder)
        later.start()
        with pytest.raises(RunError, match=r"0 of 4 reports after 1\.5 s"):
            run_round(transport)
        later.join()
    assert {path.name for path in elsewhere.iterdir()} == {"1.bin"}
    assert "no report counts until it can be read" in caplog.text


def test_a_folder_that_cannot_be_used_ends_the_run(tmp_path: Path) -> None:
    with exchange(tmp_path) as transport:
        (tmp_path / "rounds").write_text("not a folder")
        with pytest.raises(RunError, match=r"cannot use .*: Not a directory"):
            run_round(transport)


def test_a_device_has_a_task_only_in_rounds_that_sample_it(tmp_path: Path) -> None:
    submit(tmp_path, 0, 0)
    submit(tmp_path, 1, 3)
    with exchange(tmp_path, min_reports=1) as transport:
        run_round(transport, 0, (0, 2))
        run_round(transport, 1, (1, 3))
    tasks = {}
    for client in range(4):
        link = FolderLink(tmp_path, client, Membership("run", INFO.terms), 0.01)
        tasks[client] = link._sampled(1) and link.next_task(-1, ExpectedTask(5, TEACHER))
    assert [bool(tasks[c]) for c in range(4)] == [False, True, False, True]
    returned = tasks[1]
    assert returned
    assert returned.teacher is not None
    assert returned.teacher.equals(knowledge(99))  # client 1 was not sampled in round 0: it gets the newest teacher


def test_the_same_round_continues_and_another_one_is_refused(tmp_path: Path) -> None:
    submit(tmp_path, 0, 0)
    with exchange(tmp_path, min_reports=1) as transport:
        first = run_round(transport, 0, (0, 1))
    before = (round_folder(tmp_path, 0) / PLAN).stat().st_ino
    with exchange(tmp_path, min_reports=1) as transport:
        assert run_round(transport, 0, (0, 1)) == first
    assert (round_folder(tmp_path, 0) / PLAN).stat().st_ino == before
    with (
        exchange(tmp_path, min_reports=1) as transport,
        pytest.raises(RunError, match=r"asked\.json differs from the file that this run would write"),
    ):
        run_round(transport, 0, (0, 2))
    other = RoundCoordinator(replace(INFO, run="other"), 1.0, ignore_event)
    with (
        pytest.raises(RunError, match=r"federation\.json differs from the file that this run would write"),
        open_folder(tmp_path, other, 5),
    ):
        pass


def test_a_stopped_exchange_is_reopened_and_a_complete_one_stays_complete(tmp_path: Path) -> None:
    with exchange(tmp_path) as transport:
        transport.finish("it was interrupted")
    assert (tmp_path / DONE).read_text() == "it was interrupted"
    with exchange(tmp_path) as transport:
        assert not (tmp_path / DONE).exists()
        transport.finish(COMPLETE)
    with exchange(tmp_path):
        assert (tmp_path / DONE).read_text() == COMPLETE
