"""`edgefd inspect FOLDER` states the bits per row of recorded messages, as they were sent."""

from pathlib import Path

import numpy as np
import pytest

from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.federation.report import Report
from edgefd.wire.codecs import CODECS
from edgefd.wire.describe_rounds import describe_rounds
from edgefd.wire.messages import encode, encode_report

RNG = np.random.default_rng(0)
KNOWLEDGE = Knowledge(np.arange(90), RNG.dirichlet(np.ones(10), 90).astype(np.float32), np.ones(90, np.float32))


def recorded(folder: Path, codec: str) -> Path:
    """Write two rounds as a run records them: reports of two clients, and the teacher of the second round."""
    for round in ("0000", "0001"):
        reports = folder / "knowledge" / "rounds" / round / "reports"
        reports.mkdir(parents=True)
        for client in (0, 1):
            (reports / f"{client}.bin").write_bytes(encode_report(Report(client, int(round), KNOWLEDGE), codec))
    (folder / "knowledge" / "rounds" / "0001" / "teacher.bin").write_bytes(encode(KNOWLEDGE, codec))
    return folder


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_each_round_has_a_line_with_its_bits_per_row(tmp_path: Path, codec: str) -> None:
    run = recorded(tmp_path, codec)
    size = len(encode(KNOWLEDGE, codec))
    lines = describe_rounds(run)
    assert lines[1:] == describe_rounds(run / "knowledge")[1:]
    assert f"2 rounds as sent, CODEC_{codec.upper()}" in lines[0]
    bits = f"{8 * size / 90:.1f} bits per row"
    assert lines[1] == f"  round 0: teacher 0 bytes, 0 rows; 2 reports {2 * size:,} bytes, 180 rows, {bits}"
    assert lines[2].startswith(f"  round 1: teacher {size:,} bytes, 90 rows, {bits}; 2 reports")
    assert lines[3].endswith(f"reports {4 * size:,} bytes, 360 rows, {bits}")


def test_other_folders_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no recorded messages"):
        describe_rounds(tmp_path)
    run = recorded(tmp_path, "float16")
    (run / "knowledge" / "rounds" / "0000" / "reports" / "0.bin").write_bytes(b"\xff\xff")
    with pytest.raises(UserError, match=r"0\.bin is not a message of edgefd"):
        describe_rounds(run)
