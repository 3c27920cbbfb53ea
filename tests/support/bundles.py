"""Change the files of a bundle."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replace_file(folder: Path, name: str, blob: bytes) -> None:
    (folder / name).write_bytes(blob)
    record = {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    edit(folder, lambda m: m["files"].update({name: record}))
