"""What a device must not lose: model and optimizer, claims, the last finished round and its report.

One file, so that all of it is from the same moment, and two generations of it.

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

from edgefd.core import files
from edgefd.core.arrays import Float32
from edgefd.core.errors import RunError, UserError
from edgefd.learners.graphs import State

_MAGIC = b"EDGEFD-STATE"
_VERSION = b"\x02"
_NAMES = ("state.a", "state.b")


@dataclass(frozen=True, eq=False)
class DeviceState:
    """A device between rounds."""

    bundle: str
    """digest of the bundle's manifest: state of another bundle is foreign"""
    run: str
    """the federation's run"""
    client: int
    round: int
    """last finished round, -1 = none"""
    learner: State
    acceptance: Float32
    acceptance_of: str
    """digest of what the claims depend on: private data and bundle"""
    report: bytes
    """of the last finished round, as it is submitted: however often that happens, with the same bytes"""


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
    """The newest whole state of that bundle, or None where nothing was ever saved. A torn file is passed over.

    Raises:
        UserError: if there are files, and none is a whole state of that bundle: to start anew is for the user to say.
    """
    present = [name for name in _NAMES if (folder / name).exists()]
    found = [entry for name in present if (entry := _read(folder / name)) is not None and entry[1].bundle == bundle]
    if present and not found:
        raise UserError(f"{folder} holds no whole state of this bundle: give another --state folder, or remove it")
    return max(found, key=lambda entry: entry[0])[1] if found else None


def exclusive_lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Keep other devices out of the folder while the context lasts. The lock ends with the process.

    Raises:
        UserError: if another edgefd-client uses the folder, or the folder cannot be written.
    """
    in_use, unusable = f"another edgefd-client keeps its state in {folder}", f"cannot keep state in {folder}"
    return files.exclusive_lock(folder / "lock", in_use, unusable)


def _encoded(state: DeviceState, generation: int) -> bytes:
    file = io.BytesIO()
    arrays = {f"learner/{name}": value for name, value in state.learner.items()}
    head: dict[str, int | str] = {"generation": generation, "round": state.round, "client": state.client}
    head |= {"bundle": state.bundle, "run": state.run, "claims_of": state.acceptance_of}
    plain = {name: np.array(value) for name, value in head.items()}
    report = np.frombuffer(state.report, np.uint8)
    np.savez(file, allow_pickle=False, report=report, **{"claims": state.acceptance}, **plain, **arrays)
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
            state = DeviceState(
                bundle=str(arrays["bundle"]),
                run=str(arrays["run"]),
                client=int(arrays["client"]),
                round=int(arrays["round"]),
                learner=learner,
                acceptance=arrays["claims"],
                acceptance_of=str(arrays["claims_of"]),
                report=arrays["report"].tobytes(),
            )
            return int(arrays["generation"]), state
    except (ValueError, KeyError, OSError, zipfile.BadZipFile):
        return None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
