"""Store signals on disk, part by part with checksums, so that an interrupted audit can resume.

`audit/signals` holds `<part>.npz`, and `manifest.json` with `schema`, `run` (digest of the run) and `parts` (name:
sha256).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgefd.core.errors import UserError
from edgefd.core.files import get, put, read, writing
from edgefd.core.json_files import parse_json, write_json
from edgefd.core.npz import npz_arrays, npz_bytes

SCHEMA = 4
_MAX_MANIFEST, _MAX_PART = 2**24, 2**34  # bytes; the latter also bounds the arrays of a part
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
    return npz_arrays(blob, _MAX_PART)


def _manifest(folder: Path, run: str) -> dict[str, object]:
    path = folder / "manifest.json"
    try:
        blob = get(path, _MAX_MANIFEST)
        if blob is None:
            return {"schema": SCHEMA, "run": run, "parts": {}}
        manifest = parse_json(blob)
        same = manifest["schema"] == SCHEMA and manifest["run"] == run and isinstance(manifest["parts"], dict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is corrupt: remove {folder} to compute the signals again") from error
    if not same:
        raise UserError(f"{folder} holds signals of another run or version: remove it to compute them again")
    return dict(manifest)


def _load(path: Path, sha256: str, folder: Path) -> Arrays:
    blob = read(path, _MAX_PART, f"remove {folder} to compute it again")
    if hashlib.sha256(blob).hexdigest() != sha256:
        raise UserError(
            f"{path} is corrupt (its sha256 differs from the manifest's): remove {folder} to compute it again"
        )
    return npz_arrays(blob, _MAX_PART)
