"""`edgefd inspect FILE` recognises the kind of a message by its bytes alone."""

from pathlib import Path

import numpy as np
import pytest
from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge, empty
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


def test_the_bits_per_row_are_those_of_the_whole_message(tmp_path: Path) -> None:
    n = 500
    k = Knowledge(np.arange(n), np.eye(10, dtype=np.float32)[np.arange(n) % 7], np.full(n, 0.5, np.float32))
    for codec in ("float16", "simplex15"):
        text = described(tmp_path, encode_report(Report(1, 2, k), codec))
        assert f"bits per row: {8 * len(encode(k, codec)) / n:.1f}, with its id and weight" in text
        assert "weights: 0.500000 to 0.500000, 0 of them exactly 1" in text
    assert "which also hold 1 runs of ids, and the weights" in text


def test_coded_rows_that_a_small_file_only_claims_are_not_decoded(tmp_path: Path) -> None:
    claim = pb.Knowledge(width=10, codec=pb.CODEC_SIMPLEX15, rows=2**23, runs=1, values=b"\xff" * 600)
    with pytest.raises(UserError, match="is neither a message of edgefd"):
        described(tmp_path, claim.SerializeToString())
