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
    """Compare one training step with the expected values in the bundle.

    Returns:
        the largest deviation, relative to the largest value of its tensor. Values of the optimizer count relative to
        at least a hundredth of the largest of their kind: before batch normalisation, the gradient of a bias is 0, and
        its value is rounding.

    Raises:
        RunError: if the deviation exceeds `TOLERANCE`.
    """
    from edgefd.learners.onnx_learner import OnnxLearner, Sessions

    expected = bundle.selftest
    start = {name.removeprefix("start/"): v for name, v in expected.items() if name.startswith("start/")}
    learner = OnnxLearner(Sessions(bundle.graphs), {**bundle.init, **start})
    targets = expected["targets"]
    batch = Batch(bundle.proxy[: len(targets)], targets, np.ones(len(targets), np.float32))
    learner.train([batch], float(expected["lr"]))
    deviation, largest, state = 0.0, dict[str, float](), learner.state()
    for name in state:
        size = float(np.abs(expected[f"expected/{name}"]).max())
        largest[_kind(name)] = max(largest.get(_kind(name), 0.0), size)
    for name, value in state.items():
        target = expected[f"expected/{name}"]
        scale = max(
            float(np.abs(target).max()), 1e-12, _SMALL * largest[_kind(name)] if name.startswith("optimizer/") else 0.0
        )
        deviation = max(deviation, float(np.abs(value - target).max()) / scale)
    if not deviation <= TOLERANCE:
        raise RunError(
            f"the largest deviation after one training step is {deviation:.1e}, more than {TOLERANCE:.0e}: "
            "do not use this machine"
        )
    return deviation
