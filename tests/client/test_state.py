"""The durable state of a device: which files are used, and which errors leave the saved state unchanged."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.state import DeviceState, load_state, save_state

from edgefd.core.errors import RunError, UserError


def device_state(round: int) -> DeviceState:
    learner = {"weight": np.full((2, 3), round, np.float32), "step": np.array(round, np.float32)}
    acceptance = np.full(4, round, np.float32)
    return DeviceState("digest", "run", 0, round, learner, acceptance, "of", b"report %d" % round)


def loaded(folder: Path) -> DeviceState:
    state = load_state(folder, "digest")
    assert state is not None
    return state


def test_the_newest_complete_state_of_the_bundle_is_loaded(tmp_path: Path) -> None:
    states = [device_state(round) for round in range(3)]
    assert load_state(tmp_path / "s", "digest") is None
    for state in states:
        save_state(tmp_path / "s", state)
    newest = loaded(tmp_path / "s")
    assert newest.round == 2
    assert set(newest.learner) == {"weight", "step"}
    assert all(np.array_equal(newest.learner[name], states[2].learner[name]) for name in newest.learner)
    assert newest.report == b"report 2"
    with pytest.raises(UserError, match="no complete state"):
        load_state(tmp_path / "s", "another")
    incomplete = tmp_path / "s" / "state.a"  # generations 0 and 2
    incomplete.write_bytes(incomplete.read_bytes()[:-7])
    assert loaded(tmp_path / "s").round == 1
    save_state(tmp_path / "s", dataclasses.replace(states[2], round=7))
    assert loaded(tmp_path / "s").round == 7


def test_a_full_disk_leaves_the_saved_state_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = device_state(0)
    save_state(tmp_path, state)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="No space left"):
        save_state(tmp_path, dataclasses.replace(state, round=1))
    assert loaded(tmp_path).round == 0
    assert not list(tmp_path.glob("*.part"))
