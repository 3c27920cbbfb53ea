"""Checkpoints of a run, and the lock of a coordinator's folder."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.federation.memory import Remembered
from edgefd.federation.progress import BestRound, Progress
from edgefd.runs.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    check_memory,
    exclusive_lock,
    load_checkpoint,
    save_checkpoint,
)
from edgefd.selection._rule import SelectionState
from tests.support.expectations import TEACHER
from tests.support.rounds import knowledge
from tests.support.status_boards import round_metrics

WEIGHTED = Knowledge(np.array([1, 4]), knowledge(5).values[:2], np.array([0.3, 1e-6], np.float32))
MEMORY = {0: Remembered(knowledge(6), np.arange(5)), 3: Remembered(WEIGHTED, np.array([7, 2]))}
METRICS = tuple(round_metrics(r) for r in range(8))


def test_a_checkpoint_reads_as_it_was_written(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, TEACHER) is None
    metrics, state = METRICS, SelectionState(knowledge(4), np.array([0.1, 0, 2], np.float32))
    for saved in (
        Checkpoint("r", "c"),
        Checkpoint("r", "c", metrics, Progress(8, knowledge(3))),
        Checkpoint("r", "c", metrics, Progress(8, knowledge(3), state)),
        Checkpoint("r", "c", metrics, Progress(8, knowledge(3), None, MEMORY)),
        Checkpoint("r", "c", metrics, Progress(8, knowledge(3), state, MEMORY)),
        Checkpoint(
            "r", "c", metrics, Progress(8, knowledge(3), state, MEMORY, {"c": np.array([[1 / 3, 1e-300], [2, 0.1]])})
        ),
        Checkpoint(
            "r", "c", metrics, Progress(8, None, None, {}, {"file": np.ones(3, np.float32)}, BestRound(3, 1 / 3, 4))
        ),
    ):
        save_checkpoint(tmp_path, saved)
        loaded = load_checkpoint(tmp_path, TEACHER)
        assert loaded is not None
        assert (loaded.run, loaded.config, loaded.metrics) == ("r", "c", saved.metrics)
        progress, expected = loaded.progress, saved.progress
        assert (progress.teacher is None) == (expected.teacher is None)
        assert progress.teacher is None or progress.teacher.equals(knowledge(3))
        assert loaded.next_round == expected.next_round == len(saved.metrics)
        assert (progress.selection_state is None) == (expected.selection_state is None)
        assert progress.method_state.keys() == expected.method_state.keys()
        assert all(np.array_equal(progress.method_state[n], v) for n, v in expected.method_state.items())
        assert all(progress.method_state[n].dtype == v.dtype for n, v in expected.method_state.items())
        assert progress.best == expected.best
        if progress.selection_state is not None:
            assert progress.selection_state.known.equals(knowledge(4))
            assert np.array_equal(progress.selection_state.lag, state.lag)
        assert progress.memory.keys() == expected.memory.keys()
        for client, remembered in expected.memory.items():
            assert progress.memory[client].knowledge.equals(remembered.knowledge)
            assert progress.memory[client].rounds.tolist() == remembered.rounds.tolist()


def test_a_checkpoint_of_another_version_is_refused_with_advice(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint("r", "c"))
    blob = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(blob.replace(b"COORDINATOR\x04", b"COORDINATOR\x03", 1))
    with pytest.raises(UserError, match="another version of edgefd wrote it: continue the run with that version"):
        load_checkpoint(tmp_path, TEACHER)


def test_texts_in_the_state_of_a_method_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint("r", "c", (), Progress(method_state={"c": np.array(["x"])})))
    with pytest.raises(UserError, match="c in the state of the method must hold numbers"):
        load_checkpoint(tmp_path, TEACHER)


def test_a_memory_that_no_checkpoint_can_hold_is_refused_before_the_run() -> None:
    rows = dataclasses.replace(TEACHER, ids=range(10_000), widths=range(10, 11))
    check_memory(500, rows)
    with pytest.raises(UserError, match=r"set coordinator\.memory_discount=0, or use fewer proxy samples"):
        check_memory(5000, rows)


@pytest.mark.parametrize("at", [0, 25, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, at: int) -> None:
    save_checkpoint(tmp_path, Checkpoint("r", "c", (round_metrics(0),), Progress(1, knowledge())))
    blob = bytearray((tmp_path / CHECKPOINT).read_bytes())
    blob[at] ^= 1
    (tmp_path / CHECKPOINT).write_bytes(blob)
    with pytest.raises(UserError, match="is not a checkpoint of this run"):
        load_checkpoint(tmp_path, TEACHER)


def with_head(blob: bytes, **changes: Any) -> bytes:
    """Return a checkpoint with another first line, and the right checksum."""
    start = len(b"EDGEFD-COORDINATOR") + 1 + 32
    head, _, parts = blob[start:].partition(b"\n")
    body = json.dumps(json.loads(head) | changes).encode() + b"\n" + parts
    return blob[: start - 32] + hashlib.sha256(body).digest() + body


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": []},
        {"sizes": [-1, 1]},
        {"sizes": None},
        {"sizes": "12"},
        {"clients": [0]},
        {"clients": [0, 0]},
        {"clients": [-1, 3]},
        {"metrics": []},
        {"metrics": 3},
        {"lag": [10**400]},
        {"best": []},
        {"best": {"round": 1}},
        {"config": None, "best": 3},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_a_checkpoint_whose_first_line_is_wrong_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    state = SelectionState(knowledge(4), np.array([0.1, 0, 2], np.float32))
    save_checkpoint(tmp_path, Checkpoint("r", "c", METRICS, Progress(8, knowledge(), state, MEMORY)))
    path = tmp_path / CHECKPOINT
    path.write_bytes(with_head(path.read_bytes()))
    assert load_checkpoint(tmp_path, TEACHER) is not None
    path.write_bytes(with_head(path.read_bytes(), **changes))
    with pytest.raises(UserError, match="is not a checkpoint of this run"):
        load_checkpoint(tmp_path, TEACHER)


@pytest.mark.parametrize("rounds", [[-1, 0], [0, 8]], ids=str)
def test_a_checkpoint_whose_memory_is_of_no_past_round_is_refused(tmp_path: Path, rounds: list[int]) -> None:
    memory = {3: Remembered(WEIGHTED, np.array(rounds))}
    save_checkpoint(tmp_path, Checkpoint("r", "c", METRICS, Progress(8, knowledge(), None, memory)))
    with pytest.raises(UserError, match="memory of client 3"):
        load_checkpoint(tmp_path, TEACHER)


def test_only_one_coordinator_at_a_time_locks_a_folder(tmp_path: Path) -> None:
    with (
        exclusive_lock(tmp_path),
        pytest.raises(UserError, match="another server is at work"),
        exclusive_lock(tmp_path),
    ):
        pass
    with exclusive_lock(tmp_path):
        pass
