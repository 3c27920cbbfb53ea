"""Download files with a progress bar, a size limit and a checksum; an incomplete or wrong file is never left."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from rich.progress import Progress

from edgefd.core.errors import UserError
from edgefd.core.files import SHARED, replacing
from edgefd.data.cache import cache_folder
from edgefd.data.datasets import DATASETS
from edgefd.data.formats import CIFAR10_MD5

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Remote:
    """File to download: its name, its md5 and its size limit in bytes."""

    file: str
    md5: str
    max_bytes: int


MIRRORS: dict[str, tuple[str, ...]] = {
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    "fashion_mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/",),
}
REMOTE: dict[str, tuple[Remote, ...]] = {
    "mnist": (
        Remote("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 20_000_000),
        Remote("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 1_000_000),
        Remote("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 5_000_000),
        Remote("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 1_000_000),
    ),
    "fashion_mnist": (
        Remote("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 40_000_000),
        Remote("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 1_000_000),
        Remote("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 10_000_000),
        Remote("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 1_000_000),
    ),
    "cifar10": (Remote("cifar-10-python.tar.gz", CIFAR10_MD5, 200_000_000),),
}


def fetch_dataset(
    name: str, mirrors: Mapping[str, Sequence[str]] = MIRRORS, remote: Mapping[str, Sequence[Remote]] = REMOTE
) -> Path:
    """Download the original files of a data set to its cache folder, unless they are there already.

    Raises:
        UserError: if the data set cannot be downloaded, or no mirror sent the right file.
    """
    if name not in remote:
        reason = f"unknown data set {name!r}"
        if name in DATASETS:
            reason = f"{name} {'needs no download' if name in ('mnist_mini', 'digits') else 'cannot be downloaded'}"
        raise UserError(f"{reason}; these can be downloaded: {', '.join(remote)}")
    folder = cache_folder(name)
    for file in remote[name]:
        path = folder / file.file  # a wrong file is downloaded again, as its reader advises
        if not path.exists() or hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != file.md5:
            _download_from_any(mirrors[name], file, folder)
    return folder


def download(url: str, path: Path, *, md5: str, max_bytes: int, timeout: float = 30) -> None:
    """Download `url` to `path`.

    Raises:
        UserError: if the file cannot be downloaded, is larger than `max_bytes`, is incomplete, or has another md5. No
            partial file is left.
    """
    try:
        with replacing(path, SHARED) as file:
            actual = _stream(url, path.name, file, max_bytes, timeout)
            if actual != md5:
                raise UserError(f"{url} is not the expected file: its md5 is {actual}, not {md5}")
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"cannot download {url} to {path}: {reason}") from error


def _download_from_any(mirrors: Sequence[str], file: Remote, folder: Path) -> None:
    failures = []
    for mirror in mirrors:
        try:
            download(mirror + file.file, folder / file.file, md5=file.md5, max_bytes=file.max_bytes)
        except UserError as error:
            failures.append(str(error))
        else:
            return
    raise UserError("; ".join(failures))


def _stream(url: str, name: str, out: BinaryIO, max_bytes: int, timeout: float) -> str:
    """Write the body of `url` to `out` and return its md5; `name` is shown with the progress."""
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=timeout) as response, Progress() as progress:
        announced = response.length or 0  # None without a Content-Length that is a number
        if announced > max_bytes:
            raise UserError(f"{url} has {announced} bytes, more than the limit of {max_bytes}")
        task = progress.add_task(name.split(".")[0], total=announced or None)
        n_received = 0
        while chunk := response.read(_CHUNK):
            n_received += len(chunk)
            if n_received > max_bytes:
                raise UserError(f"{url} has more bytes than the limit of {max_bytes}")
            digest.update(chunk)
            out.write(chunk)
            progress.advance(task, len(chunk))
    if announced and n_received < announced:
        raise UserError(f"{url} is incomplete: {n_received} of {announced} bytes arrived")
    return digest.hexdigest()
