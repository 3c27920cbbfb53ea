"""Rounds through a folder that do not wait for everybody, and what a killed coordinator finds there."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.folder_link import FolderLink
from edgefd_server.coordinator.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    exclusive_lock,
    load_checkpoint,
    save_checkpoint,
)
from edgefd_server.folder_link.transport import FolderTransport, open_folder

from edgefd.core.errors import RunError, UserError
from edgefd.core.files import put
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.rounds.participation import ParticipationConfig
from edgefd.selection.query import SelectionState
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import COMPLETE, COUNTED, DONE, PLAN, report_file, round_folder
from tests.support.rounds import INFO, knowledge, plan


def hand_in(folder: Path, round: int, *clients: int) -> None:
    for client in clients:
        blob = wire.encode_report(Report(client, round, knowledge(10 * round + client)), "float32")
        put(report_file(folder, round, client), blob)


def opened(folder: Path, timeout: float = 5.0, **rules: object) -> FolderTransport:
    return open_folder(folder, INFO, timeout, ParticipationConfig(**rules))  # type: ignore[arg-type]


def answers(transport: FolderTransport, p: RoundPlan) -> list[tuple[int, int]]:
    teacher = knowledge(99) if p.round else None
    return sorted((r.client, r.round) for r in transport.exchange(p, teacher).reports)


def test_a_quorum_ends_the_round(tmp_path: Path) -> None:
    transport = opened(tmp_path, min_reports=2)
    hand_in(tmp_path, 0, 1, 3)
    assert answers(transport, plan()) == [(1, 0), (3, 0)]
    assert json.loads((round_folder(tmp_path, 0) / COUNTED).read_text()) == [1, 3]


def test_but_not_before_the_deadline(tmp_path: Path) -> None:
    transport = opened(tmp_path, min_reports=2, deadline_s=0.3)
    hand_in(tmp_path, 0, 1, 3)
    began = time.monotonic()
    assert answers(transport, plan()) == [(1, 0), (3, 0)]
    assert 0.3 <= time.monotonic() - began < 3


def test_too_few_reports_end_the_run_and_only_who_was_asked_is_missed(tmp_path: Path) -> None:
    transport = opened(tmp_path, timeout=0.2, min_reports=2)
    hand_in(tmp_path, 0, 1)
    with pytest.raises(RunError, match=r"1 of 3 reports after 0.2 s: no report of client 0, 2"):
        answers(transport, plan(clients=(0, 1, 2)))


@pytest.mark.parametrize(("late", "expected"), [("drop", [(0, 1), (1, 1)]), ("use", [(0, 1), (1, 1), (2, 0)])])
def test_late_reports(tmp_path: Path, late: str, expected: list[tuple[int, int]]) -> None:
    """Client 1 is late too, but has answered the next round; 3 was not asked; 2 exclusive_lock has nothing newer."""
    transport = opened(tmp_path, min_reports=1, stale_reports=late)
    hand_in(tmp_path, 0, 0)
    assert answers(transport, plan(clients=(0, 1, 2))) == [(0, 0)]
    hand_in(tmp_path, 0, 1, 2, 3)
    hand_in(tmp_path, 1, 0, 1)
    assert answers(transport, plan(1)) == expected


def test_a_late_report_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    transport = opened(tmp_path, min_reports=1, stale_reports="use")
    hand_in(tmp_path, 0, 0)
    answers(transport, plan())
    put(report_file(tmp_path, 0, 2), b"rubbish")
    hand_in(tmp_path, 1, 0)
    assert answers(transport, plan(1)) == [(0, 1)]
    assert report_file(tmp_path, 0, 2).with_suffix(".refused").exists()


def test_a_device_sees_only_rounds_that_ask_it(tmp_path: Path) -> None:
    transport = opened(tmp_path, min_reports=1)
    hand_in(tmp_path, 0, 0)
    answers(transport, plan(clients=(0, 2)))
    hand_in(tmp_path, 1, 3)
    answers(transport, plan(1, clients=(1, 3)))
    tasks = {}
    for client in range(4):
        link = FolderLink(tmp_path, client, "run", 0.01)
        tasks[client] = link._sampled(1) and link.next_task(-1)
    assert [bool(tasks[c]) for c in range(4)] == [False, True, False, True]
    back = tasks[1]
    assert back
    assert back.teacher is not None
    assert back.teacher.equals(knowledge(99))  # client 1 was away in round 0: it gets the newest teacher


def test_the_same_round_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    hand_in(tmp_path, 0, 0)
    first = answers(opened(tmp_path, min_reports=1), plan(clients=(0, 1)))
    before = (round_folder(tmp_path, 0) / PLAN).stat().st_ino
    assert answers(opened(tmp_path, min_reports=1), plan(clients=(0, 1))) == first
    assert (round_folder(tmp_path, 0) / PLAN).stat().st_ino == before
    with pytest.raises(RunError, match="holds something else than this run would write"):
        answers(opened(tmp_path, min_reports=1), plan(clients=(0, 2)))
    with pytest.raises(RunError, match="holds something else"):
        open_folder(tmp_path, replace(INFO, run="other"), 1.0)


def test_a_stopped_exchange_is_open_again_and_a_complete_one_stays(tmp_path: Path) -> None:
    opened(tmp_path).finish("it was interrupted")
    opened(tmp_path)
    assert not (tmp_path / DONE).exists()
    opened(tmp_path).finish(COMPLETE)
    opened(tmp_path)
    assert (tmp_path / DONE).exists()


def test_a_checkpoint_reads_as_it_was_written(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    done, memory = ({"round": 0},), SelectionState(knowledge(4), np.array([0.1, 0, 2], np.float32))
    for saved in (
        Checkpoint("r", "c", "o"),
        Checkpoint("r", "c", "o", done, knowledge(3)),
        Checkpoint("r", "c", "o", done, knowledge(3), memory),
    ):
        save_checkpoint(tmp_path, saved)
        found = load_checkpoint(tmp_path)
        assert found is not None
        assert (found.run, found.config, found.out, found.metrics) == ("r", "c", "o", saved.metrics)
        assert (found.teacher is None) == (saved.teacher is None)
        assert found.teacher is None or found.teacher.equals(knowledge(3))
        assert found.next_round == len(saved.metrics)
        assert (found.selection_state is None) == (saved.selection_state is None)
        if found.selection_state is not None:
            assert found.selection_state.known.equals(knowledge(4))
            assert np.array_equal(found.selection_state.lag, memory.lag)


@pytest.mark.parametrize("at", [0, 25, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, at: int) -> None:
    save_checkpoint(tmp_path, Checkpoint("r", "c", "o", ({"round": 0},), knowledge()))
    blob = bytearray((tmp_path / CHECKPOINT).read_bytes())
    blob[at] ^= 1
    (tmp_path / CHECKPOINT).write_bytes(blob)
    with pytest.raises(UserError, match="is not a coordinator's checkpoint"):
        load_checkpoint(tmp_path)


def test_only_one_coordinator_at_a_time(tmp_path: Path) -> None:
    with (
        exclusive_lock(tmp_path),
        pytest.raises(UserError, match="another server is at work"),
        exclusive_lock(tmp_path),
    ):
        pass
    with exclusive_lock(tmp_path):
        pass
