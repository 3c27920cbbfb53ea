"""Files of a bundle from a web server, with range requests. Whoever calls this checks the digest of the content."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from edgefd.core.errors import UserError
from edgefd.core.files import appending
from edgefd.core.text import shown

TIMEOUT = 20.0
"""seconds without any byte after which an attempt has failed"""
ATTEMPTS = 3
"""attempts in a row without any new byte after which the download has failed"""
SLOWEST = 1000
"""bytes in a second on average, with 60 s more for each file; a slower download has failed"""
_MAX_REDIRECTS = 3
_PIECE = 1 << 16
_PAUSE = 0.2


class NotDelivered(Exception):
    """A web server did not deliver a file; the text is the reason."""


class _Interrupted(Exception):
    """An attempt has failed, and another one can succeed."""


def check_url(url: str) -> None:
    """Check that this is the address of a folder on a web server, without a password.

    Raises:
        UserError: if not.
    """
    parts = urlsplit(url)
    plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise UserError(
            f"--bundle-url must be the address of a folder, such as https://example.org/bundle, not {shown(url)}"
        )


def download(url: str, path: Path, size: int | None, limit: int) -> None:
    """Append to a file what is missing of it, and continue after a broken connection.

    Args:
        url: of the file.
        path: the file, which may hold its first bytes already; it is begun again if the server ignores ranges.
        size: its size in bytes; None if it is not known.
        limit: largest size in bytes.

    Raises:
        NotDelivered: if the server does not deliver it, sends another range, is too slow, or redirects too often.
        OSError: if the file cannot be written.
    """
    until = time.monotonic() + 60 + limit / SLOWEST
    with appending(path) as file:
        failures, reason = 0, ""
        while failures < ATTEMPTS:
            before = file.tell()
            if before == size:
                return
            try:
                for start, piece in _pieces(url, before):
                    if start != file.tell():
                        file.seek(start)
                        file.truncate()
                    if start + len(piece) > limit:
                        raise NotDelivered(f"it sends more than {limit} bytes")
                    if time.monotonic() > until:
                        raise NotDelivered(f"it sends less than {SLOWEST} bytes in a second")
                    file.write(piece)
                    file.flush()
                if size is None or file.tell() >= size:
                    return
                reason = f"the connection ended after {file.tell()} of {size} bytes"
            except _Interrupted as error:
                reason = str(error)
            failures = 0 if file.tell() > before else failures + 1
            time.sleep(_PAUSE * failures)
    raise NotDelivered(reason)


def _pieces(url: str, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield pieces of the content with their places, from `offset` on, or from 0 if the server ignores ranges."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "edgefd-client"}
    headers |= {"Range": f"bytes={offset}-"} if offset else {}
    opener = urllib.request.build_opener(_FewRedirects())
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
            place = _place(response, offset)
            end = None if response.length is None else place + response.length
            while piece := response.read1(_PIECE):
                yield place, piece
                place += len(piece)
    except (OSError, HTTPException) as error:
        raise _Interrupted(str(getattr(error, "reason", None) or error or type(error).__name__)) from error
    if end is not None and place < end:  # the library reports this for whole reads only
        raise _Interrupted(f"the connection ended after {place} of {end} bytes")


def _place(response: HTTPResponse, offset: int) -> int:
    """Return the place in the file at which the content of a response begins."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise NotDelivered("it sends the file in another encoding")
    if response.status == 200:
        return 0
    stated = str(response.headers.get("Content-Range", ""))
    if response.status != 206 or not stated.startswith(f"bytes {offset}-"):
        raise NotDelivered(f"it answers {response.status} {shown(stated)!r} to a request of the bytes from {offset} on")
    return offset


class _FewRedirects(urllib.request.HTTPRedirectHandler):
    """Follows at most 3 redirections, to http and https only, and never from https to http."""

    max_redirections = _MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request of a redirection."""
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise NotDelivered(f"it redirects to {shown(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
