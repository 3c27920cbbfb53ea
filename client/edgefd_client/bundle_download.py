"""Download of a bundle over the device link. Files are accepted only if they have the digest from the Join reply."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import grpc

from edgefd.core.errors import RunError
from edgefd.core.files import appending, get, make_folder, os_errors, read
from edgefd.wire.bundle_manifest import MANIFEST
from edgefd.wire.bundle_reader import MAX_FILE, MAX_MANIFEST, parse_manifest
from edgefd_client.grpc_link import GrpcLink


def fetch_bundle(link: GrpcLink, folder: Path) -> Path:
    """Download the bundle into `folder` and return its folder. A download resumes after an interruption or a restart.

    Raises:
        RunError: if the manifest differs from the digest in the Join reply, a file differs from the manifest, or a file
            cannot be written.
    """
    digest = link.manifest_sha256
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise RunError(f"the coordinator names a bundle by {digest[:80]!r}, which is not a sha256")
    out = folder / f"bundle-{digest[:16]}"
    partial = out.with_name(f"{out.name}.part")
    if out.exists():
        return out
    with os_errors(f"write the bundle to {partial}", RunError):
        make_folder(partial)
        _download(link, partial / MANIFEST, None, digest)
        for name, record in parse_manifest(read(partial / MANIFEST, MAX_MANIFEST)).files.items():
            _download(link, partial / name, record.bytes, record.sha256)
        os.rename(partial, out)
    return out


def _download(link: GrpcLink, path: Path, size: int | None, sha256: str) -> None:
    """Download one file. `size` is None if it is not known."""
    limit = MAX_MANIFEST if size is None else min(size, MAX_FILE)

    def receive() -> None:
        """Append to the file until it is complete or too large. Raise if an attempt ends without any new byte."""
        with appending(path) as file:
            while size is None or file.tell() < size:
                before = file.tell()
                try:
                    for piece in link.pieces(path.name, before):
                        if file.tell() + len(piece) > limit:
                            return
                        file.write(piece)
                    return
                except grpc.RpcError:
                    if file.tell() == before:
                        raise

    link.retry(receive)
    with appending(path) as file:
        os.fsync(file.fileno())
    try:
        complete = hashlib.sha256(get(path, limit) or b"").hexdigest() == sha256
    except ValueError:  # larger than announced
        complete = False
    if not complete:
        path.unlink()
        raise RunError(
            f"{path.name} of the coordinator is not the file that it announced: start again to download it again"
        )
