"""Fetching a bundle over the device link: whatever comes is believed only if it has the digest that Join announced."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import grpc

from edgefd.core.errors import RunError
from edgefd.wire.bundle_manifest import MANIFEST
from edgefd.wire.bundle_reader import MAX_FILE, MAX_MANIFEST, parse_manifest
from edgefd_client.grpc_link import GrpcLink


def fetch_bundle(link: GrpcLink, folder: Path) -> Path:
    """The bundle's folder, in `folder`; a download that was cut off goes on where it was, also by another process.

    Raises:
        RunError: if a file is not what the manifest, or the manifest not what Join, says; or it cannot be written.
    """
    digest = link.manifest_sha256
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise RunError(f"the coordinator names a bundle of sha256 {digest[:80]!r}")
    out = folder / f"bundle-{digest[:16]}"
    part = out.with_name(f"{out.name}.part")
    if out.exists():
        return out
    try:
        part.mkdir(parents=True, exist_ok=True)
        _fetch(link, part / MANIFEST, None, digest)
        for name, record in parse_manifest((part / MANIFEST).read_bytes()).files.items():
            _fetch(link, part / name, record.bytes, record.sha256)
        os.rename(part, out)
    except OSError as error:
        raise RunError(f"cannot write the bundle to {part}: {error.strerror}") from error
    return out


def _fetch(link: GrpcLink, path: Path, size: int | None, sha256: str) -> None:
    """One file, whose size may be known."""
    limit = MAX_MANIFEST if size is None else min(size, MAX_FILE)

    def act() -> None:
        """Returns when it is whole, or larger than it may be; raises when it is cut off without having got on."""
        with path.open("ab") as file:
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

    link.retried(act)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        path.unlink()
        raise RunError(
            f"{path.name} of the coordinator is not the file that it announced; start again to fetch it anew"
        )
