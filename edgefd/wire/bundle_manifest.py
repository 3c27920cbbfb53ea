"""The manifest of a bundle: names, sizes and digests of the files with which a device trains."""

from __future__ import annotations

from dataclasses import dataclass

from edgefd.federation.terms import FederationTerms
from edgefd.federation.units import Units

SCHEMA = 5
XZ = ".xz"
"""ending of the names of packed files; a packed graph has the name of the graph before it"""
INIT, PROXY, SELFTEST = "init.xz", "proxy.xz", "selftest.npz"
FILES = ("model.onnx.xz", "train_step.onnx.xz", INIT, PROXY, SELFTEST)
EXTRACTOR = "extractor.onnx"
"""graph from raw samples to features; a bundle has this file only if its model takes features"""
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileRecord:
    """Size and sha256 of one file of a bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class PackedSamples:
    """What `proxy.xz` holds after xz (`edgefd.wire.packing`)."""

    rows: int
    """number of samples"""
    dtype: str
    """uint8 = pixels before scaling; float32 = scaled samples"""
    differences: tuple[int, ...]
    """axes along which the neighbour before each pixel was subtracted, in this order; axis 0 is the sample"""
    planes: bool
    """whether the bytes of the numbers are in planes: float32 only"""


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    `scale` is (mean, std): the input of the model is (x - mean) / std, where x is a raw sample or its features. Both
    have one number, or one for each channel or column (axis 0 of `shape`).
    """

    schema: int
    opset: int
    model: str
    optimizer: str
    batch: int
    shape: tuple[int, ...]
    scale: tuple[tuple[float, ...], tuple[float, ...]]
    state: tuple[str, ...]
    constants: dict[str, float]
    files: dict[str, FileRecord]
    proxy: PackedSamples
    errors: dict[str, float]
    heldout: float
    """share of the private rows that is held out from training if the data do not name the held-out rows"""
    n_clients: int
    """number of clients of the federation"""
    terms: FederationTerms
    """terms of the federation"""
    units: Units
    """kind and range of the raw samples, and statistics of the scaled proxy set"""
    raw_shape: tuple[int, ...] | None = None
    """shape of one raw sample, from which the extractor computes features of shape `shape`; None = no extractor"""
    label_names: tuple[str, ...] | None = None
    """labels of the classes 0 to C - 1 in the data of the federation, by which devices map theirs; None = the labels
    are these numbers themselves"""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one raw sample of a device."""
        return self.shape if self.raw_shape is None else self.raw_shape

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return self.terms.n_classes
