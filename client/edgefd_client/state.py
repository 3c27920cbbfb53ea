"""Durable state of a device: model, optimizer, acceptance weights, the last finished round and its report.

One file holds the whole state, so that all of it is from the same moment. The folder keeps two generations of this
file.

A file consists of a magic number, a version, the sha256 of the rest, and an npz. Each save replaces the older
generation by an atomic rename. Whatever happens during a save, the newer generation is still complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgefd.core import files
from edgefd.core.arrays import Float32
from edgefd.core.errors import RunError, UserError
from edgefd.core.knowledge import Knowledge
from edgefd.core.npz import npz_arrays, npz_bytes, with_prefix, without_prefix
from edgefd.core.seeding import NoiseKey, noise_key
from edgefd.federation.changes import Published, published_of
from edgefd.filters.drift import DataSummary
from edgefd.learners.graphs import State

_MAGIC = b"EDGEFD-STATE"
_VERSION = b"\x03"
LOCK = "lock"
_NAMES = ("state.a", "state.b")
MAX_FILE = 2**31
"""largest size in bytes of a state"""


@dataclass(frozen=True, eq=False)
class DeviceState:
    """State of a device between rounds."""

    bundle: str
    """digest of the bundle's manifest"""
    run: str
    """identifier of the federation's run"""
    client: int
    """number of this device's client"""
    round: int
    """last finished round, -1 = none"""
    learner: State
    """parameters and optimizer state"""
    acceptance: Float32
    """acceptance weight of each proxy row, float32 [P]"""
    acceptance_of: str
    """digest of the private data and the bundle, on which the acceptance weights depend"""
    report: bytes
    """serialised report of the last finished round; each submission sends these bytes"""
    teacher: Knowledge | None = None
    """teacher of the last finished round, if the federation sends only changes"""
    published: Published | None = None
    """what the device has published, if the federation sends only changes"""
    noise_key: NoiseKey = field(default_factory=noise_key)
    """key of the noise of the defence, from the entropy of the operating system; the coordinator never learns it"""
    budget_spent: float = 0.0
    """share of the privacy budget of the run that is spent; 0 without a defence that has one"""
    graphs: str = ""
    """digest of the graphs to which the parameters belong"""
    fitted_to: DataSummary | None = None
    """summary of the data to which the filter was fitted; None = it was not fitted yet"""


def save_state(folder: Path, state: DeviceState) -> None:
    """Save the state. It is on disk when this function returns.

    Raises:
        RunError: if it cannot be written, for example to a full disk; the state saved before is intact.
    """
    saved = [_read(folder / name) for name in _NAMES]
    generations = [-1 if entry is None else entry[0] for entry in saved]
    with files.os_errors(f"save state in {folder}", RunError, "the state saved before is intact"):
        files.put(folder / _NAMES[generations.index(min(generations))], _encoded(state, max(generations) + 1))


def load_state(folder: Path, bundle: str | None = None) -> DeviceState | None:
    """Return the newest complete state, or None if no state was ever saved. Incomplete files are skipped.

    Args:
        folder: the state folder.
        bundle: digest of the bundle that the state must belong to; None = any.

    Raises:
        UserError: if there are files, but none is such a complete state: only the user may start afresh.
    """
    present = [name for name in _NAMES if os.path.lexists(folder / name)]
    complete = [entry for name in present if (entry := _read(folder / name)) is not None]
    usable = [entry for entry in complete if bundle in (None, entry[1].bundle)]
    if present and not usable:
        of = "" if bundle is None else " of this bundle"
        raise UserError(f"{folder} holds no complete state{of}: give another --state folder, or remove it")
    return max(usable, key=lambda entry: entry[0])[1] if usable else None


@contextlib.contextmanager
def new_state(folder: Path) -> Iterator[None]:
    """Remove a state folder that the context created and that holds nothing but its lock, if the context fails."""

    def used() -> bool:
        return any(path.name != LOCK for path in folder.glob("*"))

    with files.removed_on_error(folder, unless=used):
        yield


def exclusive_lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Lock the folder against other processes while the context lasts. The lock ends with the process.

    Raises:
        UserError: if another edgefd-client uses the folder, or the folder cannot be written.
    """
    in_use = f"another edgefd-client uses the state in {folder}: stop it, or give another --state folder"
    return files.exclusive_lock(folder / LOCK, in_use, f"cannot keep state in {folder}")


def _encoded(state: DeviceState, generation: int) -> bytes:
    arrays: dict[str, np.ndarray] = with_prefix("learner", state.learner)
    fields: dict[str, int | str] = {"generation": generation, "round": state.round, "client": state.client}
    fields |= {"bundle": state.bundle, "run": state.run, "claims_of": state.acceptance_of, "graphs": state.graphs}
    scalars = {name: np.array(value) for name, value in fields.items()}
    scalars |= {"noise_key": np.array(state.noise_key, np.uint32), "budget_spent": np.array(state.budget_spent)}
    arrays |= scalars | {"claims": state.acceptance, "report": np.frombuffer(state.report, np.uint8)}
    if state.teacher is not None:
        arrays |= with_prefix("teacher", vars(state.teacher))
    if state.published is not None:
        arrays |= with_prefix("published", state.published.to_arrays())
    if state.fitted_to is not None:
        arrays |= with_prefix("fitted_to", vars(state.fitted_to))
    body = npz_bytes(arrays, compressed=False)
    return _MAGIC + _VERSION + hashlib.sha256(body).digest() + body


def _read(path: Path) -> tuple[int, DeviceState] | None:
    """Return generation and state; None if the file is missing, incomplete, of another kind or of another version."""
    try:
        blob = files.get(path, MAX_FILE)
    except (OSError, ValueError):
        return None
    if blob is None:
        return None
    start = len(_MAGIC) + len(_VERSION)
    digest, body = blob[start : start + 32], blob[start + 32 :]
    if blob[:start] != _MAGIC + _VERSION or hashlib.sha256(body).digest() != digest:
        return None
    try:
        arrays = npz_arrays(body, MAX_FILE)
        parts = ("learner", "teacher", "published", "fitted_to")
        learner, teacher, published, fitted_to = (without_prefix(name, arrays) for name in parts)
        state = DeviceState(
            bundle=str(arrays["bundle"]),
            run=str(arrays["run"]),
            client=int(arrays["client"]),
            round=int(arrays["round"]),
            learner=learner,
            acceptance=arrays["claims"],
            acceptance_of=str(arrays["claims_of"]),
            report=arrays["report"].tobytes(),
            teacher=Knowledge(**teacher) if teacher else None,
            published=published_of(published) if published else None,
            noise_key=tuple(arrays["noise_key"].tolist()),
            budget_spent=float(arrays["budget_spent"]),
            graphs=str(arrays["graphs"]),
            fitted_to=DataSummary(**fitted_to) if fitted_to else None,
        )
        return int(arrays["generation"]), state
    except (ValueError, KeyError, TypeError):
        return None
