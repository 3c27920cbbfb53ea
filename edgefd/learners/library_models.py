"""Models of the packages timm and torchvision by name, such as "timm:resnet18" and "torchvision:mobilenet_v2"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from edgefd.core.errors import require

Shape = tuple[int, ...]
LIBRARIES = ("timm", "torchvision")


def library_of(name: str) -> str | None:
    """Return the package of a name such as "timm:resnet18", or None for other names.

    >>> library_of("timm:resnet18"), library_of("my_package:Net")
    ('timm', None)
    """
    library = name.partition(":")[0]
    return library if library in LIBRARIES else None


def library_model(name: str) -> Callable[[Shape, int], nn.Module]:
    """Return a factory of a model of timm or torchvision, with new weights, for any number of channels and classes.

    Raises:
        UserError: if the package is not installed.
    """
    library, _, model = name.partition(":")
    require(library, library)
    return lambda shape, n_classes: (_timm if library == "timm" else _torchvision)(model, shape, n_classes)


def timm_network(name: str, shape: Shape, **settings: Any) -> nn.Module:
    """Return a model of timm for images of this shape. Networks for one size of images get the size."""
    import timm

    channels, *sides = shape
    try:
        network: nn.Module = timm.create_model(name, in_chans=channels, img_size=tuple(sides), **settings)
    except TypeError:  # networks for any size of images have no such argument
        network = timm.create_model(name, in_chans=channels, **settings)
    return network


def _timm(name: str, shape: Shape, n_classes: int) -> nn.Module:
    return timm_network(name, shape, num_classes=n_classes)


def _torchvision(name: str, shape: Shape, n_classes: int) -> nn.Module:
    from torchvision.models import get_model

    network: nn.Module = get_model(name, weights=None, num_classes=n_classes)
    set_channels(network, shape[0])
    return network


def set_channels(network: nn.Module, channels: int) -> None:
    """Replace the first convolution of a network for 3 channels by one for another number of channels."""
    for owner in network.modules():
        for name, layer in owner.named_children():
            if isinstance(layer, nn.Conv2d):
                if layer.in_channels != channels:
                    setattr(owner, name, _for_channels(layer, channels))
                return


def _for_channels(layer: nn.Conv2d, channels: int) -> nn.Conv2d:
    kernel, stride, dilation = ((a[0], a[1]) for a in (layer.kernel_size, layer.stride, layer.dilation))
    return nn.Conv2d(
        channels,
        layer.out_channels,
        kernel,
        stride,
        layer.padding,  # type: ignore[arg-type]
        dilation,
        bias=layer.bias is not None,
    )
