"""Read npz files and check their samples and labels."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError
from edgefd.core.files import opened
from edgefd.core.host import memory
from edgefd.core.npz import npz_arrays


def read_npz(path: Path, keys: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Return all arrays of an npz file that must hold `keys`; nothing is ever unpickled.

    Raises:
        UserError: if the file is not a whole npz file, lacks a key, holds Python objects, or unpacks to more than the
            memory of this machine.
    """
    try:
        with opened(path) as file:
            if not zipfile.is_zipfile(file):
                raise UserError(f"cannot read {path}: it is not a whole npz file")
            arrays = npz_arrays(file, memory())
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: it must hold {', '.join(keys)}")
    return arrays


def channels_first(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return images as [n, C, H, W]: grey images get a channel axis, a last channel axis moves to the front."""
    if x.ndim == 3 and x.dtype == np.uint8:
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x


def whole_labels(y: npt.NDArray[Any], n: int, source: str) -> Int64:
    """Return `y` as int64 [n].

    Raises:
        UserError: if `y` is not `n` whole numbers from 0; the message begins with `source`.
    """
    if y.ndim != 1 or len(y) != n:
        raise UserError(f"{source}: {n} samples need {n} labels, not an array of shape {list(y.shape)}")
    if y.dtype.kind not in "iuf":
        raise UserError(f"{source}: labels must be whole numbers from 0, not {y.dtype}")
    with np.errstate(invalid="ignore"):  # NaN, infinite and too large values differ from their integer
        whole = y.astype(np.int64)
    if (whole != y).any() or whole.min() < 0:
        raise UserError(f"{source}: labels must be whole numbers from 0")
    return whole


def finite_samples(x: npt.NDArray[Any], source: str) -> npt.NDArray[Any]:
    """Return `x` as uint8 or float32.

    Raises:
        UserError: if `x` is not rows of finite numbers; the message begins with `source`.
    """
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise UserError(f"{source}: samples must be uint8 or floating point, not {x.dtype}")
    if x.ndim < 2 or not x.size:
        raise UserError(f"{source}: x must be rows of samples, at least one, not of shape {list(x.shape)}")
    if x.dtype == np.uint8:
        return x
    with np.errstate(over="ignore"):  # too large values become infinite
        x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise UserError(f"{source}: the samples hold NaN or infinite values, or values too large for float32")
    return x
