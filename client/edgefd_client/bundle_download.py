"""Download of a bundle. Files are accepted only if they have the digest from the Join reply, wherever they come from.

They come from a cache, from a web server, or from the coordinator over the device link, in this order.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import grpc

from edgefd.core.errors import RunError
from edgefd.core.files import appending, get, make_folder, os_errors, put, read
from edgefd.wire.bundle_manifest import MANIFEST
from edgefd.wire.bundle_reader import MAX_FILE, MAX_MANIFEST, parse_manifest
from edgefd_client.bundle_cache import cached, keep
from edgefd_client.grpc_link import GrpcLink
from edgefd_client.http_source import NotDelivered, download

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """Where the files of a bundle may come from, besides the coordinator."""

    cache: Path | None = None
    """folder of files by their sha256; None = no cache"""
    url: str | None = None
    """address of a folder with the files on a web server; None = no web server"""


def fetch_bundle(link: GrpcLink, folder: Path, sources: Sources = Sources()) -> Path:
    """Download the bundle into `folder` and return its folder. A download resumes after an interruption or a restart.

    Bundles of earlier federations in `folder` are then removed.

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
        _fetch(link, partial / MANIFEST, None, digest, sources)
        for name, record in parse_manifest(read(partial / MANIFEST, MAX_MANIFEST)).files.items():
            _fetch(link, partial / name, record.bytes, record.sha256, sources)
        os.rename(partial, out)
        for earlier in folder.glob("bundle-*"):
            if earlier != out and re.fullmatch(r"bundle-[0-9a-f]{16}(\.part)?", earlier.name):
                shutil.rmtree(earlier)
    return out


def _fetch(link: GrpcLink, path: Path, size: int | None, sha256: str, sources: Sources) -> None:
    """Make one file complete. `size` is None if it is not known."""
    limit = MAX_MANIFEST if size is None else min(size, MAX_FILE)
    blob = None if sources.cache is None else cached(sources.cache, sha256, limit)
    if blob is not None:
        put(path, blob)
        return
    if not (sources.url is not None and _from_web_server(sources.url, path, size, sha256, limit)):
        _from_coordinator(link, path, size, sha256, limit)
    if sources.cache is not None:
        keep(sources.cache, sha256, get(path, limit) or b"")


def _from_web_server(url: str, path: Path, size: int | None, sha256: str, limit: int) -> bool:
    """Return whether the web server delivered the file. If not, the log says why."""
    part = path.with_name(f"{path.name}.web")  # apart from what the coordinator sent, which its bytes must not follow
    try:
        download(f"{url.rstrip('/')}/{path.name}", part, size, limit)
        if _is_whole(part, sha256, limit):
            os.replace(part, path)
            return True
        reason = "it is another file than the coordinator announced"
    except NotDelivered as error:
        reason = str(error)
    part.unlink()
    _LOG.warning("cannot get %s from %s: %s: the coordinator sends it", path.name, url, reason)
    return False


def _from_coordinator(link: GrpcLink, path: Path, size: int | None, sha256: str, limit: int) -> None:
    """Download one file over the device link."""

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
    if not _is_whole(path, sha256, limit):
        path.unlink()
        raise RunError(
            f"{path.name} of the coordinator is not the file that it announced: start again to download it again"
        )


def _is_whole(path: Path, sha256: str, limit: int) -> bool:
    """Return whether a file, which is then on disk, has this digest."""
    with appending(path) as file:
        os.fsync(file.fileno())
    try:
        return hashlib.sha256(get(path, limit) or b"").hexdigest() == sha256
    except ValueError:  # larger than announced
        return False
