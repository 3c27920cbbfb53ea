"""A small bundle for tests, and functions that change the files of a bundle."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.export.write_bundle import BundleSettings, export_bundle
from edgefd.federation.terms import FederationTerms
from edgefd.federation.units import Units, channel_statistics
from edgefd.learners.models import build_model

SHAPE = (1, 16, 16)
"""shape of the samples of `small_bundle`, which has three classes, mean 10 and standard deviation 2"""


def small_bundle(out: Path) -> Path:
    """Export a bundle of an untrained `cnn_small` with 20 proxy rows into `out`."""
    proxy = np.random.default_rng(0).standard_normal((20, *SHAPE)).astype(np.float32)
    terms = FederationTerms("edgefd", {"n_clusters": 2}, "float16", 0, 3, hashlib.sha256(proxy.tobytes()).hexdigest())
    units = Units("uint8", 0.0, 255.0, *channel_statistics(proxy))
    model = build_model("cnn_small", SHAPE, 3, 0)
    export_bundle(out, model, proxy, BundleSettings("cnn_small", "adam", 8, ((10.0,), (2.0,)), 0.1, 2, terms, units))
    return out


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Apply a change to the fields of a bundle's manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replace_file(folder: Path, name: str, blob: bytes) -> None:
    """Replace a file of a bundle, and its size and digest in the manifest."""
    (folder / name).write_bytes(blob)
    record = {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    edit(folder, lambda m: m["files"].update({name: record}))
