"""Features of a frozen network that replace images: computed once by ONNX Runtime, then cached.

For photographs, distances between pixels carry little information; distances between features of a network that was
trained on many photographs carry more. The extractor is an ONNX graph from raw images to features, so devices can run
it too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError, require
from edgefd.core.files import os_errors
from edgefd.core.host import cores
from edgefd.core.text import shown
from edgefd.data.cache import cached_arrays
from edgefd.data.datasets import Dataset, digest
from edgefd.data.image_arrays import is_image
from edgefd.wire.onnx_reader import read_extractor

ProgressHook = Callable[[Sequence[npt.NDArray[Any]]], Iterator[npt.NDArray[Any]]]
"""wrapper of the blocks of rows, which reports the progress; it passes all blocks on"""

EFFICIENTNETS = ("efficientnet_lite0", "efficientnet_lite2")
SIZE = 192  # default width and height in pixels that images are resized to for an EfficientNet
_TOLERANCE = 1e-3  # of features of a network in ONNX Runtime, relative to the largest
_ROWS = 4  # images in one call: EfficientNet-Lite0 then needs 100 MB; more are no faster, and 32 need 440 MB


def with_features(dataset: Dataset, extractor: str, size: int | None = None) -> Dataset:
    """Return the data set with an extractor's features, float32 [n, d], in place of its images.

    Args:
        dataset: data set of images [n, C, H, W], or of other samples that the extractor accepts.
        extractor: efficientnet_lite0 or efficientnet_lite2, or a frozen network (`edgefd.data.backbones`), or the path
            of an ONNX graph with one input, float32 raw samples [n, ...], and one output, [n, d].
        size: width and height in pixels for an EfficientNet (None = 192); an ONNX graph defines its own size.

    Raises:
        UserError: if there is no such extractor, it does not accept these samples, or the cache cannot be written.
    """
    graph = extractor_graph(extractor, dataset.x_train.shape[1:], size)
    progress = _progress_bar(dataset.name)
    x_train, x_test = (cached_features(graph, x, progress) for x in (dataset.x_train, dataset.x_test))
    proxy = dataset.proxy
    if proxy is not None:
        proxy = replace(proxy, x=cached_features(graph, proxy.x, progress))
    description = f"features of {Path(extractor).name if extractor.endswith('.onnx') else extractor}"
    source = f"{dataset.source}, {description}"
    result = replace(dataset, x_train=x_train, x_test=x_test, proxy=proxy, source=source)
    return replace(result, sha256=digest(result))


def extractor_graph(extractor: str, shape: tuple[int, ...], size: int | None = None) -> bytes:
    """Return the extractor as a serialised ONNX graph; the graph of an EfficientNet is exported once and cached.

    Raises:
        UserError: if there is no such extractor, or `size` is set for an ONNX graph, which defines its own size.
    """
    require("features", "onnxruntime")
    if extractor in EFFICIENTNETS:
        return _efficientnet(extractor, shape, SIZE if size is None else size)
    if not extractor.endswith(".onnx"):
        if ":" in extractor:
            return _backbone(extractor, shape, size)
        names = ", ".join(EFFICIENTNETS)
        raise UserError(
            f"data.extractor: unknown extractor {extractor!r}: use {names}, timm:NAME, package.module:Factory, or a "
            "path to .onnx"
        )
    if size is not None:
        raise UserError(
            "data.extractor_size is for EfficientNet and timm only, and an .onnx file defines its own size: remove it"
        )
    with os_errors(f"read data.extractor {extractor}"):
        return Path(extractor).read_bytes()


def _backbone(name: str, shape: tuple[int, ...], size: int | None) -> bytes:
    """Return the graph of a frozen network, if ONNX Runtime gives the features of torch."""
    from edgefd.data.backbones import export_backbone

    backbone = export_backbone(name, shape, size)
    largest = max(float(np.abs(backbone.features).max()), 1e-12)
    difference = float(np.abs(extract(backbone.graph, backbone.x) - backbone.features).max()) / largest
    if not difference <= _TOLERANCE:
        raise UserError(
            f"data.extractor {name!r} gives other features in ONNX Runtime than in torch (difference "
            f"{difference:.1e}): use operators of torch in its forward pass only"
        )
    return backbone.graph


def _efficientnet(name: str, shape: tuple[int, ...], size: int) -> bytes:
    if not is_image(shape):
        raise UserError(f"{name} takes images of 1 or 3 channels, not samples of shape {list(shape)}")

    def export() -> dict[str, npt.NDArray[Any]]:
        from edgefd.data.efficientnet import export_efficientnet

        return {"graph": np.frombuffer(export_efficientnet(name, shape, size), np.uint8)}

    return cached_arrays("extractors", f"{name}-{'x'.join(map(str, shape))}-{size}", export)["graph"].tobytes()


def extract(graph: bytes, x: npt.NDArray[Any], progress: ProgressHook = iter) -> Float32:
    """Return the features, float32 [n, d], of raw samples x [n, ...], computed in blocks of rows.

    Raises:
        UserError: if the graph cannot run, rejects such samples, or does not give one finite row for each sample.
    """
    from edgefd.learners.session import open_session, session_options

    read_extractor(graph, "the extractor")
    session = open_session(graph, session_options(cores()))
    try:
        name = session.get_inputs()[0].name
        blocks = [x[i : i + _ROWS] for i in range(0, len(x), _ROWS)]
        parts = [np.asarray(session.run(None, {name: block.astype(np.float32)})[0]) for block in progress(blocks)]
    except Exception as error:  # the errors of ONNX Runtime have no common base class
        shape = list(x.shape[1:])
        raise UserError(f"the extractor does not run on samples of shape {shape}: {shown(error, 200)}") from error
    if any(part.ndim != 2 or len(part) != len(block) for part, block in zip(parts, blocks, strict=True)):
        raise UserError(f"the extractor must give one row of features for each sample, not {list(parts[0].shape)}")
    out: Float32 = np.concatenate(parts).astype(np.float32)
    if not np.isfinite(out).all():
        raise UserError("the extractor gave features that are not finite")
    return out


def cached_features(graph: bytes, x: npt.NDArray[Any], progress: ProgressHook = iter) -> Float32:
    """Return features from the cache, or compute and cache them. The cache key covers all their inputs."""
    key = hashlib.sha256(f"{x.dtype.str} {x.shape} ".encode())
    key.update(np.ascontiguousarray(x).data)
    key.update(graph)
    arrays = cached_arrays("features", key.hexdigest(), lambda: {"features": extract(graph, x, progress)})
    out: Float32 = arrays["features"]
    return out


def _progress_bar(title: str) -> ProgressHook:
    """Return a progress bar on stderr: the computation can take minutes."""
    from rich.console import Console
    from rich.progress import track

    return lambda blocks: iter(track(blocks, f"features of {title}", console=Console(stderr=True)))
