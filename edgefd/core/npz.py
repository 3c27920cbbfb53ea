"""Arrays of npz and npy files. Nothing is ever unpickled, and nothing is allocated before its size is checked."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from edgefd.core.text import shown

MAX_ARRAYS = 100_000
"""largest number of arrays in an npz file"""

Array = npt.NDArray[Any]


def npz_bytes(arrays: Mapping[str, Array], compressed: bool = True) -> bytes:
    """Return the arrays as the bytes of an npz file. Arrays of Python objects are refused."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, allow_pickle=False, **arrays)
    return file.getvalue()


def npz_arrays(source: bytes | BinaryIO, limit: int) -> dict[str, Array]:
    """Return the arrays of an npz file.

    Args:
        source: the bytes of the file, or the file opened for reading.
        limit: largest size in bytes of all arrays together.

    Raises:
        ValueError: if it is not a whole npz file of plain arrays, or the arrays are larger than `limit`.
        OSError: if the file cannot be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ARRAYS:
                raise ValueError(f"it holds {len(entries)} arrays, more than {MAX_ARRAYS}")
            if sum(entry.file_size for entry in entries) > limit:
                raise ValueError(f"it unpacks to more than {limit} bytes")
            return {entry.filename.removesuffix(".npy"): _member(archive, entry) for entry in entries}
    except OSError:
        raise
    except Exception as error:  # the errors of zip files, of their packing and of headers have no common base class
        _refuse(error, "npz")


def npy_array(file: BinaryIO, size: int) -> Array:
    """Return the array of an npy file of `size` bytes.

    Raises:
        ValueError: if it is not a whole npy file of a plain array.
        OSError: if the file cannot be read.
    """
    try:
        _check_header(file, size)
        file.seek(0)
        return np.asarray(npy.read_array(file, allow_pickle=False))
    except OSError:
        raise
    except Exception as error:  # a header is an expression of Python, which can be malformed in many ways
        _refuse(error, "npy")


def with_prefix(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return arrays under the names `prefix/NAME`.

    >>> arrays = with_prefix("late", {"ids": np.zeros(1)})
    >>> list(arrays), list(without_prefix("late", arrays)), without_prefix("lat", arrays)
    (['late/ids'], ['ids'], {})
    """
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def without_prefix(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays whose names begin with `prefix/`, under the names without it."""
    start = f"{prefix}/"
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    with archive.open(entry) as file:
        _check_header(file, entry.file_size)
    with archive.open(entry) as file:
        array = np.asarray(npy.read_array(file, allow_pickle=False))
        if file.read(1):  # at the end, this also checks the checksum
            raise ValueError(f"{entry.filename} holds more than one array")
        return array


def _check_header(file: Any, size: int) -> None:
    """Check that the array that the header describes fills the file, before it is allocated."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array has the unknown format {version}")
    shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects (pickles), which are never loaded")
    # An array without bytes can have any number of rows.
    too_long = max(shape, default=0) > max(size, 2**16)
    if too_long or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"an array of shape {list(shape)[:8]} does not have the size of its file")


def _refuse(error: Exception, kind: str) -> NoReturn:
    if isinstance(error, MemoryError):
        raise ValueError("it does not fit into the memory") from error
    reason = shown(error, 300) or type(error).__name__
    raise ValueError(
        reason if isinstance(error, ValueError) else f"it is not a whole {kind} file ({reason})"
    ) from error
