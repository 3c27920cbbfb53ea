"""What a device must not lose: model and optimizer, claims, the last finished round. One file, two generations.

File: magic, version, sha256 of the rest, then an npz. Each save replaces the older of two generations by an atomic
rename, so whatever happens during a save, the newer one is still whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefd.bundle import State
from edgefd.errors import RunError
from edgefd.knowledge import Float32

_MAGIC = b"EDGEFD-STATE"
_VERSION = b"\x01"
_NAMES = ("state.a", "state.b")


@dataclass(frozen=True, eq=False)
class DeviceState:
    """A device between rounds."""

    bundle: str
    """digest of the bundle's manifest: state of another bundle is foreign"""
    round: int
    """last finished round, -1 = none"""
    learner: State
    claims: Float32


def save_state(folder: Path, state: DeviceState) -> None:
    """On disk when this returns.

    Raises:
        RunError: if it cannot be written (a full disk); what was saved before is intact.
    """
    part = folder / "state.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = [_read(folder / name) for name in _NAMES]
        ages = [-1 if entry is None else entry[0] for entry in found]
        target = folder / _NAMES[ages.index(min(ages))]
        with part.open("wb") as file:
            file.write(_encoded(state, max(ages) + 1))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
        _sync_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise RunError(f"cannot save state in {folder}: {error.strerror}; the state saved before is intact") from error


def load_state(folder: Path, bundle: str) -> DeviceState | None:
    """The newest whole state of that bundle; None if there is none. Torn and foreign files are passed over."""
    found = [entry for name in _NAMES if (entry := _read(folder / name)) is not None and entry[1].bundle == bundle]
    return max(found, key=lambda entry: entry[0])[1] if found else None


def _encoded(state: DeviceState, generation: int) -> bytes:
    file = io.BytesIO()
    arrays = {f"learner/{name}": value for name, value in state.learner.items()}
    numbers = {"generation": np.array(generation), "round": np.array(state.round), "bundle": np.array(state.bundle)}
    np.savez(file, allow_pickle=False, claims=state.claims, **numbers, **arrays)
    body = file.getvalue()
    return _MAGIC + _VERSION + hashlib.sha256(body).digest() + body


def _read(path: Path) -> tuple[int, DeviceState] | None:
    """Generation and state; None for a file that is missing, torn, foreign or of another version."""
    try:
        blob = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + len(_VERSION)
    digest, body = blob[start : start + 32], blob[start + 32 :]
    if blob[:start] != _MAGIC + _VERSION or hashlib.sha256(body).digest() != digest:
        return None
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            learner = {
                name.removeprefix("learner/"): arrays[name] for name in arrays.files if name.startswith("learner/")
            }
            state = DeviceState(str(arrays["bundle"]), int(arrays["round"]), learner, arrays["claims"])
            return int(arrays["generation"]), state
    except (ValueError, KeyError, OSError, zipfile.BadZipFile):
        return None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
