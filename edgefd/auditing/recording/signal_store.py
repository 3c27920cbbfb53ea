"""Store signals on disk, part by part with checksums, so that an interrupted audit can resume.

`audit/signals` holds `<part>.npz`, and `manifest.json` with `schema`, `run` (digest of the run) and `parts` (name:
sha256).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgefd.core.errors import UserError
from edgefd.core.files import npz_arrays, npz_bytes, put, writing
from edgefd.core.json_files import write_json

SCHEMA = 2
Arrays = dict[str, np.ndarray]


def part(folder: Path, run: str, name: str, compute: Callable[[], Arrays]) -> Arrays:
    """Return the arrays of one part: loaded if they are stored for this run, otherwise computed and stored.

    Raises:
        UserError: if the stored part is corrupt or belongs to another run.
        RunError: if it cannot be stored.
    """
    manifest = _manifest(folder, run)
    stored: dict[str, str] = manifest["parts"]  # type: ignore[assignment]
    path = folder / f"{name}.npz"
    if name in stored:
        return _load(path, stored[name], folder)
    arrays = compute()
    blob = npz_bytes(arrays)
    stored[name] = hashlib.sha256(blob).hexdigest()
    with writing(path):
        put(path, blob)
    write_json(folder / "manifest.json", manifest)
    return npz_arrays(blob)


def _manifest(folder: Path, run: str) -> dict[str, object]:
    path = folder / "manifest.json"
    if not path.exists():
        return {"schema": SCHEMA, "run": run, "parts": {}}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        same = manifest["schema"] == SCHEMA and manifest["run"] == run and isinstance(manifest["parts"], dict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is corrupt: remove {folder} to compute the signals again") from error
    if not same:
        raise UserError(f"{folder} holds signals of another run or version: remove it to compute them again")
    return dict(manifest)


def _load(path: Path, sha256: str, folder: Path) -> Arrays:
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; remove {folder} to compute it again") from error
    if hashlib.sha256(blob).hexdigest() != sha256:
        raise UserError(
            f"{path} is corrupt (its sha256 differs from the manifest's): remove {folder} to compute it again"
        )
    return npz_arrays(blob)
