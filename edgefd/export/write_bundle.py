"""Writing of a bundle: export the graphs, compare them with torch, and only then create the folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError
from edgefd.core.files import SHARED, new_folder, os_errors, put
from edgefd.export.model_graphs import LEARNING_RATE, SECOND_MOMENT, export_graphs, initial_arrays
from edgefd.export.verify import run_step, verify
from edgefd.federation.clients import Scale
from edgefd.federation.terms import FederationTerms
from edgefd.federation.units import Units
from edgefd.learners.batches import Batch, one_hot
from edgefd.learners.graphs import Graphs, State
from edgefd.wire.bundle_graphs import MODEL, STEP
from edgefd.wire.bundle_manifest import (
    EXTRACTOR,
    INIT,
    MANIFEST,
    PROXY,
    SCHEMA,
    SELFTEST,
    XZ,
    FileRecord,
    Manifest,
)
from edgefd.wire.onnx_reader import OPSET
from edgefd.wire.packing import pack, pack_arrays, pack_samples
from edgefd.wire.selftest import SelfTest, checksums, selftest_bytes


@dataclass(frozen=True)
class BundleSettings:
    """The properties of a bundle besides its model and its proxy set."""

    name: str
    """name of the model"""
    optimizer: str
    """sgd or adam"""
    batch: int
    """number of rows that the training graph takes"""
    scale: tuple[tuple[float, ...], tuple[float, ...]]
    """(mean, std) with which raw samples are scaled, see `edgefd.federation.clients.Scale`"""
    heldout: float
    """share of private rows held out from training, if the data do not name the rows"""
    n_clients: int
    """number of clients of the federation"""
    terms: FederationTerms
    """terms of the federation that the device joins"""
    units: Units
    """kind and range of the raw samples, and statistics of the scaled proxy set"""
    label_names: tuple[str, ...] | None = None
    """labels of the classes in the data of the federation; None = 0, 1, ..."""


def export_bundle(
    out: Path,
    model: nn.Module,
    proxy: Float32,
    settings: BundleSettings,
    extractor: tuple[bytes, tuple[int, ...]] | None = None,
) -> Manifest:
    """Write a bundle folder completely, or not at all.

    Args:
        out: the folder, which must not exist.
        model: the module, with the parameters that devices start from.
        proxy: float32 [P, ...], scaled.
        settings: the other properties of the bundle.
        extractor: graph that computes features and the shape of a raw sample; None if the model takes samples.

    Raises:
        UserError: if the model cannot be exported, its graphs disagree with torch, or `out` cannot be written.
    """
    if out.exists():
        raise UserError(f"{out} exists already: choose another folder, or remove it")
    graphs = export_graphs(model, settings.optimizer, settings.batch, proxy.shape[1:], settings.terms.n_classes)
    errors = verify(graphs, model, settings.optimizer, proxy)
    initial = initial_arrays(model, settings.optimizer)
    init = {name: initial[name] for name in graphs.state}
    packed, samples = pack_samples(proxy, Scale(*settings.scale))
    blobs = {
        MODEL + XZ: pack(graphs.logits),
        STEP + XZ: pack(graphs.step),
        INIT: pack_arrays(init),
        PROXY: samples,
        SELFTEST: selftest_bytes(_selftest(graphs, init, proxy)),
    }
    if extractor is not None:
        blobs[EXTRACTOR] = extractor[0]
    manifest = Manifest(
        schema=SCHEMA,
        opset=OPSET,
        model=settings.name,
        optimizer=settings.optimizer,
        batch=settings.batch,
        shape=graphs.shape,
        scale=settings.scale,
        state=graphs.state,
        constants=graphs.constants,
        files={file: FileRecord(len(blob), hashlib.sha256(blob).hexdigest()) for file, blob in blobs.items()},
        proxy=packed,
        errors=errors,
        heldout=settings.heldout,
        n_clients=settings.n_clients,
        terms=settings.terms,
        units=settings.units,
        raw_shape=None if extractor is None else extractor[1],
        label_names=settings.label_names,
    )
    text = json.dumps(dataclasses.asdict(manifest), indent=2) + "\n"
    _write(out, blobs | {MANIFEST: text.encode()})
    return manifest


def _selftest(graphs: Graphs, init: State, proxy: Float32) -> SelfTest:
    """Run one step on the first proxy rows, and return its inputs and the checksums of its results."""
    rows = proxy[: graphs.batch]
    targets = one_hot(np.arange(len(rows)) % graphs.n_classes, graphs.n_classes)
    batch = Batch(rows, targets, np.ones(len(rows), np.float32))
    start = SelfTest(targets, LEARNING_RATE, SECOND_MOMENT, 0.0, np.zeros(0, np.float32), np.zeros(0, np.float32))
    after, loss = run_step(graphs, start.start(init), batch, LEARNING_RATE)
    results = [after[name] for name in graphs.state]
    largest = np.array([np.abs(array).max(initial=0) for array in results], np.float32)
    sums = np.concatenate([checksums(array) for array in results]).astype(np.float32)
    return replace(start, loss=loss, largest=largest, sums=sums)


def _write(out: Path, blobs: dict[str, bytes]) -> None:
    """Write the folder completely or not at all. A bundle holds nothing private: other users may read it."""
    with os_errors(f"write bundle {out}"), new_folder(out, SHARED) as folder:
        for name, blob in blobs.items():
            put(folder / name, blob, SHARED)
