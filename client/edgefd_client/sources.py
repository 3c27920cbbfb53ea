"""Where a device's private data comes from. Anything with `load()` will do: see `DataSource`."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgefd.bundle import Manifest
from edgefd.data.federation import Scale
from edgefd.errors import UserError
from edgefd.knowledge import Float32, Int64


class DataSource(Protocol):
    """Private labelled samples.

    To read a sensor of your own, write a class with this one method and pass an object of it to `private_data`.
    """

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """(x, y): raw samples [n, ...], uint8 or float, in the units of the federation's data; labels [n], whole."""
        ...


@dataclass(frozen=True)
class NpzSource:
    """An npz with x and y."""

    path: Path

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """See `DataSource`."""
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                return arrays["x"], arrays["y"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, AttributeError, TypeError) as error:
            raise UserError(f"{self.path} is no npz with x and y: {error}") from error


@dataclass(frozen=True)
class ImageFolder:
    """One folder a label, named 0, 1, ...; images become uint8 [channels, height, width]. Needs pillow."""

    path: Path
    shape: tuple[int, ...]

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """See `DataSource`."""
        try:
            from PIL import Image
        except ImportError:
            raise UserError("reading images needs pillow: pip install pillow") from None
        files = sorted(f for f in self.path.glob("*/*") if f.is_file() and f.parent.name.isdigit())
        if not files:
            raise UserError(f"{self.path} must hold folders 0, 1, ... of images")
        samples = []
        for file in files:
            try:
                with Image.open(file) as image:
                    pixels = np.asarray(image.convert("L" if self.shape[0] == 1 else "RGB"))
            except OSError as error:
                raise UserError(f"{file} is not an image: {error}") from error
            sample = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            if sample.shape != self.shape:
                raise UserError(f"{file} has shape {list(sample.shape)}, the model takes {list(self.shape)}")
            samples.append(sample)
        return np.stack(samples), np.array([int(f.parent.name) for f in files])


@dataclass(frozen=True)
class CsvWindows:
    """A CSV file without header, one window a line: label, then the numbers of one sample."""

    path: Path
    shape: tuple[int, ...]

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """See `DataSource`."""
        try:
            table = np.loadtxt(self.path, delimiter=",", ndmin=2, dtype=np.float32)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} is no table of numbers: {error}") from error
        wanted = 1 + int(np.prod(self.shape))
        if table.shape[1] != wanted:
            raise UserError(f"{self.path} has {table.shape[1]} columns, a label and a sample are {wanted}")
        return table[:, 1:].reshape(-1, *self.shape), table[:, 0]


def private_data(source: DataSource, manifest: Manifest) -> tuple[Float32, Int64]:
    """Scaled samples and labels for the bundle's model.

    Raises:
        UserError: for samples of another shape, numbers that are not finite, labels outside the model's classes.
    """
    x, y = source.load()
    if len(x) == 0 or x.shape[1:] != manifest.shape or len(x) != len(y) or y.ndim != 1:
        raise UserError(f"data must be samples of shape {list(manifest.shape)} with a label each, not {list(x.shape)}")
    if x.dtype.kind not in "uif" or not np.isfinite(x).all():
        raise UserError("the samples must be finite numbers")
    if y.dtype.kind not in "uif" or (y != np.floor(y)).any() or y.min() < 0 or y.max() >= manifest.n_classes:
        raise UserError(f"labels must be whole numbers from 0 to {manifest.n_classes - 1}")
    return Scale(*manifest.scale)(x), y.astype(np.int64)
