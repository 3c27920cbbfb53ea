"""Features of a frozen network in place of images: computed once by ONNX Runtime, kept in the cache.

For photographs, distances between pixels say little; distances between features of a network that has seen many
photographs say more. The extractor is an ONNX graph from raw images to features, so a device can run it as well.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError, require
from edgefd.core.host import cores
from edgefd.data.datasets import Dataset, cache_folder, digest

Show = Callable[[Sequence[npt.NDArray[Any]]], Iterator[npt.NDArray[Any]]]

EFFICIENTNETS = ("efficientnet_lite0", "efficientnet_lite2")
SIZE = 192  # pixels a side that images are enlarged to for them, unless told otherwise
_ROWS = 32  # images run at once: their activations stay small


def with_features(dataset: Dataset, extractor: str, size: int | None = None) -> Dataset:
    """The data set with an extractor's features, float32 [n, d], in place of its images.

    Args:
        dataset: of images [n, C, H, W] or whatever else the extractor takes.
        extractor: efficientnet_lite0 or efficientnet_lite2, or the path of an ONNX graph with one input, float32 raw
            samples [n, ...], and one output, [n, d].
        size: pixels a side for an EfficientNet (None = 192); a graph of one's own has its size in it.

    Raises:
        UserError: if there is no such extractor, it does not take these samples, or the cache cannot be written.
    """
    graph = extractor_graph(extractor, dataset.x_train.shape[1:], size)
    show = _progress(dataset.name)
    x_train, x_test = (cached_features(graph, x, show) for x in (dataset.x_train, dataset.x_test))
    what = f"features of {extractor if extractor in EFFICIENTNETS else Path(extractor).name}"
    out = replace(dataset, x_train=x_train, x_test=x_test, source=f"{dataset.source}, {what}")
    return replace(out, sha256=digest(out))


def extractor_graph(extractor: str, shape: tuple[int, ...], size: int | None = None) -> bytes:
    """The extractor as a serialised ONNX graph; an EfficientNet's is exported once and kept in the cache."""
    require("features", "onnxruntime")
    if extractor in EFFICIENTNETS:
        return _efficientnet(extractor, shape, SIZE if size is None else size)
    if not extractor.endswith(".onnx"):
        known = " and ".join(EFFICIENTNETS)
        raise UserError(f"data.extractor: unknown extractor {extractor!r}: there are {known}, or a path to .onnx")
    if size is not None:
        raise UserError("data.extractor_size goes with an EfficientNet: an .onnx has its size in it")
    try:
        return Path(extractor).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read data.extractor {extractor}: {error.strerror}") from error


def _efficientnet(name: str, shape: tuple[int, ...], size: int) -> bytes:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(f"{name} takes images of 1 or 3 channels, not samples of shape {list(shape)}")
    kept = cache_folder("extractors") / f"{name}-{'x'.join(map(str, shape))}-{size}.onnx"
    if not kept.exists():
        from edgefd.data.efficientnet import export_efficientnet

        _keep(kept, export_efficientnet(name, shape, size))
    return kept.read_bytes()


def extract(graph: bytes, x: npt.NDArray[Any], show: Show = iter) -> Float32:
    """Features, float32 [n, d], of raw samples x [n, ...], a block of rows at a time; `show` sees the blocks pass.

    Raises:
        UserError: if the graph cannot run, does not take such samples, or gives anything but a finite row for each.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        blocks = [x[i : i + _ROWS] for i in range(0, len(x), _ROWS)]
        parts = [np.asarray(session.run(None, {name: block.astype(np.float32)})[0]) for block in show(blocks)]
    except Exception as error:  # ONNX Runtime's own have no common class of their own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the extractor does not run on samples of shape {list(x.shape[1:])}: {reason}") from error
    if any(part.ndim != 2 or len(part) != len(block) for part, block in zip(parts, blocks, strict=True)):
        raise UserError(f"the extractor must give one row of features a sample, not {list(parts[0].shape)}")
    out: Float32 = np.concatenate(parts).astype(np.float32)
    if not np.isfinite(out).all():
        raise UserError("the extractor gave features that are not finite")
    return out


def cached_features(graph: bytes, x: npt.NDArray[Any], show: Show = iter) -> Float32:
    """`extract` from the cache, or computed and put there. The key is all that they depend on."""
    key = hashlib.sha256(f"{x.dtype.str} {x.shape} ".encode())
    key.update(np.ascontiguousarray(x).data)
    key.update(graph)
    kept = cache_folder("features") / f"{key.hexdigest()[:32]}.npy"
    if kept.exists():
        return _read(kept, len(x))
    features = extract(graph, x, show)
    _keep(kept, features)
    return features


def _progress(title: str) -> Show:
    """A bar on stderr: it may take minutes."""
    from rich.console import Console
    from rich.progress import track

    return lambda blocks: iter(track(blocks, f"features of {title}", console=Console(stderr=True)))


def _read(path: Path, n: int) -> Float32:
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: remove it, it will be made again ({error})") from error
    if features.dtype != np.float32 or features.ndim != 2 or len(features) != n:
        raise UserError(f"{path} does not hold the features of {n} samples: remove it, it will be made again")
    out: Float32 = features
    return out


def _keep(path: Path, content: bytes | Float32) -> None:
    """Write a file of the cache, whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                np.save(file, content, allow_pickle=False)
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot keep {path.name} in {path.parent}: {error.strerror}; set XDG_CACHE_HOME") from error
    finally:
        with suppress(OSError):
            part.unlink()
