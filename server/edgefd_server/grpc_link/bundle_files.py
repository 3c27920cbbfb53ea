"""Bundles that devices may download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgefd.wire.bundle_manifest import MANIFEST, Manifest


@dataclass(frozen=True)
class BundleFiles:
    """A bundle folder that devices may fetch."""

    folder: Path
    digest: str
    """sha256 of its manifest"""
    sizes: dict[str, int]


def load_bundle_files(folder: Path, manifest: Manifest, digest: str) -> BundleFiles:
    """A bundle that has been read and found whole."""
    sizes = {name: record.bytes for name, record in manifest.files.items()}
    return BundleFiles(folder, digest, sizes | {MANIFEST: (folder / MANIFEST).stat().st_size})
