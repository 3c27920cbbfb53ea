"""The replay of reports: honest ones are equal to the bit, and broken controls or altered reports end as invalid."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgefd.auditing.attacks import model_outputs
from edgefd.auditing.attacks.replay import check_candidates, check_models, replay
from edgefd.auditing.recording.candidates import choose
from edgefd.auditing.recording.read import open_recording
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.core.npz import npz_bytes
from edgefd.federation.report import Report
from edgefd.runs.record import KNOWLEDGE, model_file
from edgefd.runs.terms import terms_of
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import report_file


def test_honest_reports_are_equal_to_the_bit(recorded: Path) -> None:
    result, failed = replay(open_recording(recorded))
    assert failed == []
    assert (result["reports"], result["equal"], result["exact"], result["skipped"]) == (20, 20, True, [])


@pytest.mark.parametrize("change", ["uniform", "other rows", "weights", "one value"])
def test_a_report_that_its_model_did_not_send_is_named(change: str, run: Path) -> None:
    recording = open_recording(run)
    path = report_file(run / KNOWLEDGE, 1, 3)
    knowledge = next(r for r in _reports(run, 1) if r.client == 3).knowledge
    values, weights, ids = knowledge.values.copy(), knowledge.weights.copy(), knowledge.ids
    if change == "uniform":
        values[:] = 1 / values.shape[1]
    elif change == "weights":
        weights[0] = 0.5 if weights[0] != 0.5 else 0.25
    elif change == "one value":
        values[0] = np.roll(values[0], 1)
    else:
        values, weights, ids = values[1:], weights[1:], ids[1:]
    codec = terms_of(recording.config, recording.federation).codec
    path.write_bytes(wire.encode_report(Report(3, 1, Knowledge(ids, values, weights)), codec))
    result, failed = replay(recording)
    assert result["differing"] == [{"round": 1, "client": 3}]
    assert "1 of 20 reports are not those that the recorded models send (client 3 in round 1)" in failed[0]


def _reports(run: Path, round: int) -> list[Report]:
    from edgefd.auditing.recording.read import reports

    return reports(open_recording(run), round)


def test_an_exchanged_model_is_found(run: Path) -> None:
    recording = open_recording(run)
    paths = [model_file(run / KNOWLEDGE, "0001", client) for client in (2, 3)]
    blobs = [path.read_bytes() for path in paths]
    for path, blob in zip(paths, reversed(blobs), strict=True):
        path.write_bytes(blob)
    result, _ = replay(recording)
    assert result["differing"] == [{"round": 1, "client": 2}, {"round": 1, "client": 3}]
    paths[0].write_bytes(npz_bytes({"x": np.zeros(1)}))
    with pytest.raises(UserError, match=r"0001/2\.npz is not a model of the config"):
        check_models(recording)


def test_attacks_that_see_something_else_than_the_server_are_found(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uniform(*arguments: object) -> np.ndarray:
        x = arguments[-1]
        assert isinstance(x, np.ndarray)
        return np.full((len(x), 10), 0.1, np.float32)

    monkeypatch.setattr(model_outputs, "received_outputs", uniform)
    assert len(replay(open_recording(recorded))[0]["differing"]) == 20


def test_shuffled_members_are_found(recorded: Path) -> None:
    recording = open_recording(recorded)
    candidates, _ = choose(recording.federation, 0)
    assert check_candidates(recording, candidates) == []
    shuffled = replace(candidates, member=np.random.default_rng(0).permutation(candidates.member))
    assert "are not the members or non-members that they are called" in check_candidates(recording, shuffled)[0]
