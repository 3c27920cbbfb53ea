"""Checks of a device for `edgefd-client doctor`: facts about the machine, and a self-test of one training step."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from edgefd.core.errors import RunError, UserError
from edgefd.core.version import __version__
from edgefd.learners.batches import Batch
from edgefd.wire.bundle_reader import Bundle
from edgefd.wire.selftest import checksums

TOLERANCE = 1e-4
"""largest accepted deviation of the self-test, relative to the largest value of each tensor"""
_SMALL = 0.01  # fraction of the largest value of a kind of tensors that counts as the least value of the optimizer
_EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)  # a clock that shows an earlier time is not set


def require_64_bit() -> None:
    """Check that Python is 64-bit: ONNX Runtime has no 32-bit ARM build.

    Raises:
        UserError: on a 32-bit Python.
    """
    if sys.maxsize <= 2**32:
        raise UserError(f"this Python is 32-bit ({platform.machine()}): install a 64-bit operating system")


def machine(folder: Path) -> dict[str, str]:
    """Return facts about this machine. `folder` is the folder in which the state will be kept."""
    from edgefd.learners.session import ort

    now = datetime.now(UTC)
    existing = next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())
    return {
        "machine": f"{platform.system()} {platform.machine()}, {sys.maxsize.bit_length() + 1}-bit",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**20:.0f} MB",
        "free disk": f"{shutil.disk_usage(existing).free / 2**20:.0f} MB",
        "clock": f"{now.isoformat(timespec='seconds')}" + ("" if now > _EARLIEST else " NOT SET"),
        "versions": f"edgefd {__version__}, python {platform.python_version()}, numpy {np.__version__}, "
        f"onnxruntime {ort.__version__}",
    }


def _kind(name: str) -> str:
    """Return the kind of a tensor of the state: its slot of the optimizer, or `model`."""
    return name.rpartition("/")[0]


def selftest(bundle: Bundle) -> float:
    """Compare one training step with the checksums in the bundle, and with its loss.

    Returns:
        the largest deviation of a checksum, relative to the largest value of its tensor; a checksum deviates by at
        least as much as its numbers do (`edgefd.wire.selftest`). Values of the optimizer count relative to at least a
        hundredth of the largest of their kind: before batch normalisation, the gradient of a bias is 0, and its value
        is rounding.

    Raises:
        RunError: if the deviation exceeds `TOLERANCE`.
    """
    from edgefd.learners.onnx_learner import OnnxLearner, Sessions

    test, names = bundle.selftest, bundle.manifest.state
    learner = OnnxLearner(Sessions(bundle.graphs), test.start(bundle.init))
    batch = Batch(bundle.proxy[: len(test.targets)], test.targets, np.ones(len(test.targets), np.float32))
    loss, state = learner.train([batch], test.lr), learner.state()
    largest, of_kind = dict(zip(names, test.largest.tolist(), strict=True)), dict[str, float]()
    for name, size in largest.items():
        of_kind[_kind(name)] = max(of_kind.get(_kind(name), 0.0), size)
    deviation, first = abs(loss - test.loss) / max(abs(test.loss), 1e-12), 0
    for name in names:
        sums = checksums(state[name])
        expected = test.sums[first : first + len(sums)]
        first += len(sums)
        scale = max(largest[name], 1e-12, _SMALL * of_kind[_kind(name)] if name.startswith("optimizer/") else 0.0)
        deviation = max(deviation, float(np.abs(sums - expected).max(initial=0)) / scale)
    if not deviation <= TOLERANCE:
        raise RunError(
            f"the largest deviation after one training step is {deviation:.1e}, more than {TOLERANCE:.0e}: "
            "do not use this machine"
        )
    return deviation
