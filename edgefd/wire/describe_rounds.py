"""Description for `edgefd inspect FOLDER`: how many bits a row took, as sent, in each round of recorded messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.errors import UserError
from edgefd.core.files import read
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import TEACHER
from edgefd.wire.expected import MAX_BYTES


def describe_rounds(folder: Path) -> list[str]:
    """Return a line for each round of RUN/knowledge, or of a folder that holds it, and a line for all rounds together.

    Bits per row are those of the whole messages with ids and weights, divided by the number of rows that they state.

    Raises:
        UserError: if there are no rounds, or a file is not a message.
    """
    for base in (folder / "knowledge", folder):
        if rounds := sorted(path for path in (base / "rounds").glob("[0-9]*") if path.is_dir()):
            break
    else:
        raise UserError(f"{folder} holds no recorded messages: give RUN/knowledge of a run with run.record_knowledge")
    lines, up, down = [], list[pb.Knowledge](), list[pb.Knowledge]()
    for round in rounds:
        files = sorted(round.glob("reports/*.bin"))
        reports = [_parsed(pb.Report(), path).knowledge for path in files]
        teachers = [_parsed(pb.Knowledge(), path) for path in round.glob(TEACHER)]
        lines.append(
            f"  round {int(round.name)}: {_bits('teacher', teachers)}; {_bits(f'{len(reports)} reports', reports)}"
        )
        up, down = up + reports, down + teachers
    codecs = sorted({pb.Codec.Name(k.codec) for k in up + down})
    head = f"{folder}: messages of {len(rounds)} rounds as sent, {', '.join(codecs)}"
    return [head, *lines, f"  all rounds: {_bits('teachers', down)}; {_bits('reports', up)}"]


def _bits(name: str, messages: Sequence[pb.Knowledge]) -> str:
    rows, size = sum(map(wire.n_rows, messages)), sum(k.ByteSize() for k in messages)
    return f"{name} {size:,} bytes, {rows:,} rows" + (f", {8 * size / rows:.1f} bits per row" if rows else "")


def _parsed(message: wire.AnyMessage, path: Path) -> wire.AnyMessage:
    try:
        return wire.parsed(message, read(path, MAX_BYTES))
    except ValueError as error:
        raise UserError(f"{path} is not a message of edgefd: {error}") from error
