"""Bytes of one message of parameters by model and codec, and the time of a round on a link.

    python -m benchmarks.parameter_bytes

A round of parameter averaging sends such a message to each client and one back. The models are those of
simulations/frontier_bytes.yaml.
"""

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.learners.models import EdgeCNN
from edgefd.report.figure import byte_text
from edgefd.wire.messages import encode
from simulations.frontier_bytes import LINKS, duration
from simulations.large_models import cnn_1m, cnn_11m

CODECS = ("float32", "float16", "int8")


def main() -> None:
    """Print a Markdown table with a row for each model and codec."""
    print(f"| parameters | codec | up, and down | {' | '.join(link.name for link in LINKS)} |")
    print("| --- " * (3 + len(LINKS)) + "|")
    for factory in (EdgeCNN, cnn_1m, cnn_11m):
        count = sum(p.numel() for p in factory((1, 28, 28), 10).parameters())
        values = np.random.default_rng(0).normal(size=(1, count)).astype(np.float32)
        knowledge = Knowledge(np.zeros(1, np.int64), values, np.array([6e-4], np.float32))
        for codec in CODECS:
            size = len(encode(knowledge, codec))
            times = [duration(8 * size / link.up + 8 * size / link.down) for link in LINKS]
            print(f"| {count:,} | {codec} | {byte_text(size)} | {' | '.join(times)} |")


if __name__ == "__main__":
    main()
