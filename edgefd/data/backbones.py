"""Frozen networks of a user, or of timm, as ONNX extractors of features."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError, require
from edgefd.core.objects import load_object, one_line
from edgefd.data.image_arrays import is_image
from edgefd.learners.library_models import library_of, timm_network

_OPSET = 17
_ROWS = 3


class _Pretrained(nn.Module):
    """Features of raw images 0..255, resized and scaled as the network was trained."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, settings: dict[str, Any], size: int) -> None:
        super().__init__()
        self.network, self.size = network, size
        for name in ("mean", "std"):
            self.register_buffer(name, 255 * torch.tensor(settings[name]).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return features [n, d]."""
        out: Tensor = self.network((colour_pixels(x, self.size) - self.mean) / self.std)
        return out


@dataclass(frozen=True, eq=False)
class ExportedBackbone:
    """The ONNX graph of a frozen network, and the features that torch computes for some samples."""

    graph: bytes
    x: Float32
    features: Float32


def export_backbone(name: str, shape: tuple[int, ...], size: int | None) -> ExportedBackbone:
    """Return a frozen network as the ONNX graph of an extractor.

    Args:
        name: "timm:NAME" for a network of timm with its pretrained weights, or "package.module:Factory", called with
            the shape of a raw sample; its module maps raw samples, float32 [n, *shape], to features [n, d].
        shape: shape of a raw sample.
        size: width and height in pixels for timm (None = as the network was trained).

    Raises:
        UserError: if there is no such network, it does not run, or it does not return features.
    """
    try:
        network = _network(name, shape, size).eval()
        x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (_ROWS, *shape)).astype(np.float32))
        with torch.inference_mode():
            features = network(x)
        graph = extractor_onnx(network, x)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise UserError(f"data.extractor {name!r} cannot be exported for samples of shape {list(shape)}: "
                        f"{one_line(error)[:300]}") from error  # fmt: skip
    if not isinstance(features, Tensor) or features.ndim != 2:
        kind = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(f"data.extractor {name!r} must return features [n, d], but it returned {kind}")
    return ExportedBackbone(graph, x.numpy(), features.numpy())


def _network(name: str, shape: tuple[int, ...], size: int | None) -> nn.Module:
    if library_of(name) is None:
        if size is not None:
            raise UserError("data.extractor_size is for EfficientNet and timm only: remove it")
        network = load_object(name, "data.extractor")(shape)
        if not isinstance(network, nn.Module):
            raise UserError(f"data.extractor {name!r} must return a torch.nn.Module, but it returned {network!r:.60}")
        return network
    if not name.startswith("timm:"):
        raise UserError(f"data.extractor {name!r}: only timm:NAME or package.module:Factory are possible")
    require("timm", "timm")
    from timm.data import resolve_model_data_config

    if not is_image(shape):
        raise UserError(f"{name} takes images of 1 or 3 channels, not samples of shape {list(shape)}")
    plain = timm_network(name.removeprefix("timm:"), (3, 224, 224), pretrained=True, num_classes=0)
    settings = resolve_model_data_config(plain)
    return _Pretrained(plain, settings, settings["input_size"][-1] if size is None else size)


def colour_pixels(x: Tensor, size: int) -> Tensor:
    """Return images [n, 1 or 3, H, W] in three channels, resized to `size` x `size` pixels."""
    if x.shape[1] == 1:
        x = x.repeat(1, 3, 1, 1)
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def extractor_onnx(network: nn.Module, x: Tensor) -> bytes:
    """Return the ONNX graph of a frozen network for any number of samples like those in x: `x` to `features`."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecation of this exporter: the newer one needs more packages
        path = Path(folder) / "extractor.onnx"
        torch.onnx.export(
            network,
            (x,),
            path,
            dynamo=False,
            opset_version=_OPSET,
            input_names=["x"],
            output_names=["features"],
            dynamic_axes={"x": {0: "n"}, "features": {0: "n"}},
        )
        return path.read_bytes()
