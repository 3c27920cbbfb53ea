"""Read npz and npy files, and check their samples and labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError
from edgefd.core.files import opened
from edgefd.core.host import memory
from edgefd.core.npz import npy_array, npz_arrays
from edgefd.federation.units import finite_values


def read_npz(path: Path, keys: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Return all arrays of an npz file that must hold `keys`; nothing is ever unpickled.

    Raises:
        UserError: if the file is not a whole npz file, lacks a key, holds Python objects, or unpacks to more than the
            memory of this machine.
    """
    try:
        with opened(path) as file:
            arrays = npz_arrays(file, memory())
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: it must hold {', '.join(keys)}")
    return arrays


def read_npy(path: Path) -> npt.NDArray[Any]:
    """Return the array of an npy file; nothing is ever unpickled.

    Raises:
        UserError: if it is not a whole npy file of a plain array.
    """
    try:
        with opened(path) as file:
            return npy_array(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}; save the samples with numpy.save") from error


def finite_samples(x: npt.NDArray[Any], source: str) -> npt.NDArray[Any]:
    """Return `x` as uint8 or float32.

    Raises:
        UserError: if `x` is not rows of finite numbers; the message begins with `source`.
    """
    if x.ndim < 2 or not x.size:
        raise UserError(f"{source}: x must be rows of samples, at least one, not of shape {list(x.shape)}")
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind in "biu":
        pixels = x.dtype.kind == "b" or (x.min() >= 0 and x.max() <= 255)
        raise UserError(
            f"{source}: samples must be uint8 or floating point, not {x.dtype} from {x.min()} to {x.max()}: save "
            + ("x.astype('uint8') for pixels, or x.astype('float32')" if pixels else "x.astype('float32')")
        )
    if x.dtype.kind != "f":
        raise UserError(f"{source}: samples must be uint8 or floating point, not {x.dtype}")
    with np.errstate(over="ignore"):  # too large values become infinite
        return finite_values(x.astype(np.float32), source)
