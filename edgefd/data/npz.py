"""Read npz files and check their samples and labels."""

from __future__ import annotations

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


def channels_first(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return images as [n, C, H, W]: grey images get a channel axis, a last channel axis moves to the front."""
    if x.ndim == 3 and x.dtype == np.uint8:
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x


def whole_labels(y: npt.NDArray[Any], n: int, source: str) -> Int64:
    """Return `y` as int64 [n]; a column [n, 1] and True and False are labels too.

    Raises:
        UserError: if `y` is not `n` whole numbers from 0; the message begins with `source`.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and len(y) == n:
        raise UserError(
            f"{source}: {n} samples need {n} labels, not an array of shape {list(y.shape)}: if each row has a single 1 "
            "at the place of its label, give y.argmax(1)"
        )
    if y.ndim != 1 or len(y) != n:
        raise UserError(f"{source}: {n} samples need {n} labels, not an array of shape {list(y.shape)}")
    if y.dtype.kind not in "biuf":
        raise UserError(f"{source}: labels must be whole numbers from 0, not {y.dtype}: number the classes 0, 1, ...")
    with np.errstate(invalid="ignore"):  # NaN, infinite and too large values differ from their integer
        whole = y.astype(np.int64)
    wrong = (whole != y) | (whole < 0)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(f"{source}: labels must be whole numbers from 0, but sample {row} (from 0) has {y[row]}")
    return whole


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
