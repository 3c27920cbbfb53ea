"""Bits per row of the messages of a recorded run in each codec: python -m benchmarks.codec_sizes RUN.

The run must have recorded its knowledge in a codec that rounds less than those to compare:
edgefd simulate CONFIG codec.name=float32 run.record_knowledge=true --out RUN
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from edgefd.auditing.recording.read import open_recording, reports, teacher_after
from edgefd.core.knowledge import Knowledge
from edgefd.wire.messages import encode

CODECS = ("float16", "uint8", "uint4", "simplex15")


def bits_per_row(messages: Sequence[Knowledge], codec: str) -> float:
    """Return the bits of whole messages per row that they hold."""
    return 8 * sum(len(encode(k, codec)) for k in messages) / sum(len(k) for k in messages)


def main(folder: Path) -> None:
    """Print one line for each direction and codec."""
    recording = open_recording(folder)
    rounds = range(recording.config.train.rounds)
    up = [report.knowledge for r in rounds for report in reports(recording, r) if len(report.knowledge)]
    down = [teacher_after(recording, r) for r in rounds]
    for name, messages in (("up", up), ("down", down)):
        base = bits_per_row(messages, "float16")
        for codec in CODECS:
            bits = bits_per_row(messages, codec)
            print(f"{name:4} {codec:9} {bits:6.1f} bits per row, 1/{base / bits:.1f} of float16")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
