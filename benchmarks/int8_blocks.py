"""Rounding errors of int8 for several sizes of a block: python -m benchmarks.int8_blocks MODEL.safetensors.

MODEL is a model that a run kept, for example RUN/models/round-0015/client-000.safetensors. A row of the table holds the
size of a block, the bits that a number takes, the root mean square error relative to that of the parameters, and the
largest error relative to the largest parameter.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from edgefd.wire.blocks import SCALE_BYTES, decode, encode

SIZES = (16, 32, 64, 128, 256, 512, 4096)


def main(path: Path) -> None:
    """Print a Markdown table."""
    tensors = load_file(path)
    values = np.concatenate([v.ravel() for v in tensors.values() if v.dtype.kind == "f"]).astype(np.float32)
    print("| block | bits per number | error | largest error |\n| --- | --- | --- | --- |")
    for size in (*SIZES, len(values)):
        wrong = np.abs(decode(encode(values, size), len(values), size).astype(np.float64) - values)
        error = np.sqrt((wrong**2).mean() / (values.astype(np.float64) ** 2).mean())
        bits = 8 + 8 * SCALE_BYTES / size
        print(f"| {size} | {bits:.2f} | {100 * error:.3f} % | {100 * wrong.max() / np.abs(values).max():.3f} % |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
