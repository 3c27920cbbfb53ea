"""`edgefd inspect FILE` recognises the kind of a message by its bytes alone."""

from pathlib import Path

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.core.knowledge import empty
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.wire.codecs import CODECS
from edgefd.wire.describe import describe
from edgefd.wire.messages import encode, encode_plan, encode_report
from tests.support.rounds import knowledge


def described(folder: Path, data: bytes) -> str:
    path = folder / "message.bin"
    path.write_bytes(data)
    return "\n".join(describe(path))


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_each_kind_of_message_is_recognised(tmp_path: Path, codec: str) -> None:
    for data in (encode(knowledge(), codec), encode(empty(3), codec)):
        assert "edgefd.v1.Knowledge" in described(tmp_path, data)
    for report in (Report(0, 0, knowledge()), Report(2, 9, empty(3), {"heldout_accuracy": 0.5})):
        assert "edgefd.v1.Report" in described(tmp_path, encode_report(report, codec))


@pytest.mark.parametrize("ids", [range(100), [0], [7], [3, 5, 900]])
@pytest.mark.parametrize("round", [0, 1, 300])
@pytest.mark.parametrize("closing", [False, True])
def test_a_plan_is_recognised(tmp_path: Path, ids: list[int], round: int, closing: bool) -> None:
    text = described(tmp_path, encode_plan(RoundPlan(round, np.array(ids), evaluate=True, closing=closing)))
    assert "edgefd.v1.RoundPlan" in text
    assert f"round: {round}, {'closing' if closing else 'with reports'}" in text
    assert f"queried proxy rows: {len(ids)}" in text


@pytest.mark.parametrize("data", [b"", b"seed: 0\nmethod: {name: edgefd}\n", b"\xff\xff"])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UserError, match="is neither a message of edgefd"):
        described(tmp_path, data)


def test_names_in_a_file_are_shown_escaped(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"x\x1b[2J\x07\u202e": np.zeros(3)})
    lines = describe(tmp_path / "a.npz")
    assert all(line.isprintable() for line in lines)
    assert r"x\x1b[2J\x07\u202e: float64 [3]" in lines[1]
