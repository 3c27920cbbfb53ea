"""Reader of a bundle: every file is checked against the size and digest in the manifest before it is used."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError
from edgefd.core.files import read
from edgefd.core.json_files import parse_json
from edgefd.federation.clients import Scale
from edgefd.federation.units import Units, n_channels
from edgefd.learners.graphs import Graphs, State
from edgefd.wire.bundle_graphs import MODEL, STEP, BundleGraphs, read_graphs
from edgefd.wire.bundle_manifest import (
    EXTRACTOR,
    FILES,
    INIT,
    MANIFEST,
    PROXY,
    SCHEMA,
    SELFTEST,
    XZ,
    FileRecord,
    Manifest,
    PackedSamples,
)
from edgefd.wire.packing import unpack, unpack_arrays, unpack_samples
from edgefd.wire.selftest import SelfTest, read_selftest
from edgefd.wire.terms import received_terms

MAX_FILE = 512 * 2**20
"""largest size in bytes of a file, and of what it unpacks to"""
MAX_MANIFEST = 2**20
"""largest size in bytes of manifest.json"""
_AGAIN = "copy or export the bundle again"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle in memory: exactly the bytes that were hashed."""

    manifest: Manifest
    digest: str
    """sha256 of manifest.json, which contains the digests of all other files"""
    graphs: Graphs
    init: State
    proxy: Float32
    selftest: SelfTest
    parsed: BundleGraphs
    """what the graphs are, and whether the catalogue knows them"""
    extractor: bytes | None = None
    """graph from raw samples to features; None if the model takes raw samples"""


def read_bundle(folder: Path) -> Bundle:
    """Read and verify the bundle in a folder.

    Raises:
        UserError: if a file differs from its manifest, or the manifest requires more than this client supports.
    """
    raw = read(folder / MANIFEST, MAX_MANIFEST, _AGAIN)
    manifest = parse_manifest(raw)
    blobs = {name: _read_verified(folder, name, manifest.files[name]) for name in manifest.files}
    for name in (MODEL, STEP):
        with _malformed(name + XZ, "does not hold a graph"):
            blobs[name] = unpack(blobs.pop(name + XZ), MAX_FILE)
    parsed = read_graphs(manifest, blobs)
    shapes = {p.name: tuple(int(size) for size in p.shape) for p in parsed.step.inputs if p.name in manifest.state}
    with _malformed(INIT, "does not hold the arrays that the graph takes"):
        init = unpack_arrays(blobs[INIT], {name: shapes[name] for name in manifest.state}, MAX_FILE)
    with _malformed(PROXY, "does not hold the proxy samples"):
        proxy = unpack_samples(blobs[PROXY], manifest.proxy, manifest.shape, Scale(*manifest.scale), MAX_FILE)
    if not all(np.isfinite(array).all() for array in (*init.values(), proxy)):
        raise UserError(f"{INIT} and {PROXY} must hold finite numbers: export the bundle again")
    with _malformed(SELFTEST, "does not hold one training step of this model"):
        selftest = read_selftest(blobs[SELFTEST], init.values(), manifest.batch, manifest.n_classes)
    if hashlib.sha256(np.ascontiguousarray(proxy).data).hexdigest() != manifest.terms.proxy_sha256:
        raise UserError("the proxy samples differ from the sha256 in the manifest: export the bundle again")
    graphs = Graphs(
        blobs[STEP],
        blobs[MODEL],
        manifest.state,
        manifest.constants,
        manifest.batch,
        manifest.n_classes,
        manifest.shape,
    )
    digest = hashlib.sha256(raw).hexdigest()
    return Bundle(manifest, digest, graphs, init, proxy, selftest, parsed, blobs.get(EXTRACTOR))


def parse_manifest(raw: bytes) -> Manifest:
    """Return the manifest in the bytes of manifest.json.

    Raises:
        UserError: if the bytes are not a manifest, or its version is not supported.
    """
    try:
        fields: dict[str, Any] = parse_json(raw)
        schema = int(fields["schema"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{MANIFEST} is not the manifest of a bundle: {error}") from error
    if schema > SCHEMA:
        raise UserError(f"the bundle has schema {schema}, but this client supports schema {SCHEMA}: update edgefd")
    if schema < SCHEMA:
        raise UserError(
            f"the bundle has schema {schema}, but this client needs schema {SCHEMA}: export the bundle again"
        )
    try:
        files = {str(name): FileRecord(int(r["bytes"]), str(r["sha256"])) for name, r in fields["files"].items()}
        manifest = Manifest(
            schema=schema,
            opset=int(fields["opset"]),
            model=str(fields["model"]),
            optimizer=str(fields["optimizer"]),
            batch=int(fields["batch"]),
            shape=tuple(int(d) for d in fields["shape"]),
            scale=(_numbers(fields["scale"][0]), _numbers(fields["scale"][1])),
            state=tuple(str(s) for s in fields["state"]),
            constants={str(k): float(v) for k, v in fields["constants"].items()},
            files=files,
            proxy=_packed(fields["proxy"], len(fields["shape"])),
            errors={str(k): float(v) for k, v in fields["errors"].items()},
            heldout=float(fields["heldout"]),
            n_clients=int(fields["n_clients"]),
            terms=received_terms(fields["terms"]),
            units=_units(fields["units"]),
            raw_shape=None if fields.get("raw_shape") is None else tuple(int(d) for d in fields["raw_shape"]),
            label_names=None if fields.get("label_names") is None else tuple(str(n) for n in fields["label_names"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise UserError(f"{MANIFEST} is incomplete: {type(error).__name__}: {error}") from error
    if not 0 < manifest.heldout < 1 or not 0 < manifest.n_clients < 2**31 or manifest.batch < 1:
        raise UserError(
            f"{MANIFEST} is out of range: heldout must be in (0, 1), n_clients from 1 to 2**31 - 1, batch at least 1"
        )
    _check_channels(manifest)
    names = manifest.label_names
    if names is not None and not len(names) == len(set(names)) == manifest.n_classes:
        raise UserError(
            f"{MANIFEST}: label_names must be {manifest.n_classes} different names: export the bundle again"
        )
    required = FILES if manifest.raw_shape is None else (*FILES, EXTRACTOR)
    if set(files) != set(required):
        raise UserError(f"{MANIFEST} must name exactly {', '.join(required)}, not {', '.join(sorted(files))}")
    return manifest


def _numbers(values: list[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _units(u: dict[str, Any]) -> Units:
    statistics = (_numbers(u[name]) for name in ("mean", "std", "step"))
    return Units(str(u["dtype"]), float(u["low"]), float(u["high"]), *statistics)


def _packed(fields: dict[str, Any], n_axes: int) -> PackedSamples:
    packed = PackedSamples(
        int(fields["rows"]),
        str(fields["dtype"]),
        tuple(int(axis) for axis in fields["differences"]),
        bool(fields["planes"]),
    )
    along, pixels = packed.differences, packed.dtype == "uint8"
    distinct = len(set(along)) == len(along) and set(along) <= {*range(1, n_axes + 1)}
    fits = not (packed.planes if pixels else along)
    if packed.rows < 1 or packed.dtype not in ("uint8", "float32") or not (distinct and fits):
        raise ValueError("proxy must be uint8 with differences along axes of a sample, or float32, perhaps in planes")
    return packed


def _check_channels(manifest: Manifest) -> None:
    """Check that the scale and the statistics of the proxy set have one number, or one for each channel."""
    shape, (mean, std) = manifest.shape, manifest.scale
    if not shape or min(shape) < 1 or len(manifest.units.mean) != n_channels(shape):
        raise UserError(f"{MANIFEST}: units must have mean and std for each channel of samples of shape {list(shape)}")
    finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) not in (1, shape[0]) or len(mean) != len(std) or not finite or min(std) <= 0:
        raise UserError(
            f"{MANIFEST}: scale must be finite numbers (mean, std), one or one for each channel, std above 0"
        )


def _read_verified(folder: Path, name: str, record: FileRecord) -> bytes:
    blob = read(folder / name, min(record.bytes, MAX_FILE), _AGAIN)
    if len(blob) != record.bytes or hashlib.sha256(blob).hexdigest() != record.sha256:
        raise UserError(f"{name} differs from the size or sha256 in {MANIFEST}: copy or export the bundle again")
    return blob


@contextmanager
def _malformed(name: str, what: str) -> Iterator[None]:
    """Convert an error of a file's content into one line for the user."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{name} {what}: {error}: export the bundle again") from error
