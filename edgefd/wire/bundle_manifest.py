"""What a bundle is: the files with which a device trains, and the manifest that vouches for them."""

from __future__ import annotations

from dataclasses import dataclass

from edgefd.federation.terms import FederationTerms

SCHEMA = 2
FILES = ("model.onnx", "train_step.onnx", "init.npz", "proxy.npz", "selftest.npz")
EXTRACTOR = "extractor.onnx"
"""A file that a bundle has where the model takes features: from raw samples to those."""
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileRecord:
    """Size and digest of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """manifest.json. `scale` is (mean, std): a model takes (raw sample or its features - mean) / std."""

    schema: int
    opset: int
    model: str
    optimizer: str
    batch: int
    shape: tuple[int, ...]
    scale: tuple[float, float]
    state: tuple[str, ...]
    constants: dict[str, float]
    files: dict[str, FileRecord]
    errors: dict[str, float]
    heldout: float
    """share of private rows kept from training where the data do not say which"""
    terms: FederationTerms
    """of the federation"""
    raw_shape: tuple[int, ...] | None = None
    """of one raw sample, where an extractor makes features of `shape` of it"""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample as a device has it."""
        return self.shape if self.raw_shape is None else self.raw_shape

    @property
    def n_classes(self) -> int:
        """C."""
        return self.terms.n_classes
