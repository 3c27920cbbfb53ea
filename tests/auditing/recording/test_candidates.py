"""The choice of candidates: members and non-members of a client differ in membership alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgefd.auditing.recording.candidates import choose, fresh_records
from edgefd.auditing.recording.read import open_recording
from edgefd.core.errors import UserError


def test_candidates_differ_in_nothing_but_membership(recorded: Path) -> None:
    federation = open_recording(recorded).federation
    candidates, population = choose(federation, 0)
    members = {row.tobytes() for data in federation.clients for row in data.x}
    assert all((row.tobytes() in members) == m for row, m in zip(candidates.x, candidates.member, strict=True))
    for client in range(10):
        of_client = candidates.client == client
        classes = [
            np.bincount(candidates.y[of_client & (candidates.member == m)], minlength=10).tolist()
            for m in (True, False)
        ]
        assert classes[0] == classes[1]
    candidate_rows = {row.tobytes() for row in candidates.x}
    assert not candidate_rows & {row.tobytes() for row in population.x}
    fresh = [row.tobytes() for rows in fresh_records(federation, 0, 0.1) for row in rows]
    assert len(fresh) == len(set(fresh)) > 0  # no record is the canary of two clients
    assert not set(fresh) & (members | candidate_rows)


def test_too_few_held_out_records_are_refused(recorded: Path) -> None:
    federation = open_recording(recorded).federation
    few = tuple(replace(d, x_heldout=d.x_heldout[:1], y_heldout=d.y_heldout[:1]) for d in federation.clients)
    with pytest.raises(UserError, match=r"too few samples .* 10 held-out records .* larger data\.heldout"):
        choose(replace(federation, clients=few), 0)
