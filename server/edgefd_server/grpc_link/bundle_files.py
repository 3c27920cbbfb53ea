"""Bundles that devices may download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgefd.wire.bundle_manifest import MANIFEST, Manifest


@dataclass(frozen=True)
class BundleFiles:
    """A bundle folder that devices may download."""

    folder: Path
    digest: str
    """sha256 of the manifest"""
    sizes: dict[str, int]
    """bytes of each file, by name"""


def load_bundle_files(folder: Path, manifest: Manifest, digest: str) -> BundleFiles:
    """Return the files of a bundle that has been read and found complete.

    Args:
        folder: of the bundle.
        manifest: of the bundle.
        digest: sha256 of the manifest.
    """
    sizes = {name: record.bytes for name, record in manifest.files.items()}
    return BundleFiles(folder, digest, sizes | {MANIFEST: (folder / MANIFEST).stat().st_size})
