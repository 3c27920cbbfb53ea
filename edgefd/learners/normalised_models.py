"""Small published networks with batch normalisation: ResNets for CIFAR, a small MobileNetV2, and DS-CNN.

A device trains their graphs with `--trust-graph`: the catalogue of known graphs does not hold them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]


def _convolution(channels: int, width: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution without bias, and batch normalisation."""
    padding = size // 2
    convolution = nn.Conv2d(channels, width, size, stride, padding, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(width)]


class BasicBlock(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))). A shortcut that changes the width is a convolution.

    Its convolution is 3x3 and not 1x1, as in `edgefd.learners.models.ResidualBlock`.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_convolution(channels, width, 3, stride), nn.ReLU())
        self.second = nn.Sequential(*_convolution(width, width, 3))
        self.shortcut = nn.Sequential(*(_convolution(channels, width, 3, stride) if channels != width else ()))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor [n, width, H / stride, W / stride], with sizes rounded up."""
        return F.relu(self.shortcut(x) + self.second(self.first(x)))


class CifarResNet(nn.Module):
    """ResNet for small images: 6 n + 2 layers of 16, 32 and 64 channels (He et al., arXiv 1512.03385, section 4.2)."""

    def __init__(self, shape: Shape, n_classes: int, n: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for channels, width in ((16, 16), (16, 32), (32, 64)):
            stride = 1 if channels == width else 2
            blocks += [BasicBlock(channels, width, stride), *(BasicBlock(width, width, 1) for _ in range(n - 1))]
        self.stem = nn.Sequential(*_convolution(shape[0], 16, 3), nn.ReLU())
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(64, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of samples, [n, C]."""
        out: Tensor = self.fc(self.blocks(self.stem(x)).mean((2, 3)))
        return out


class InvertedResidual(nn.Module):
    """The block of MobileNetV2: a wide 1x1 convolution, a depthwise 3x3 convolution, and a narrow 1x1 convolution."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = channels * expansion
        self.layers = nn.Sequential(
            *(*_convolution(channels, hidden, 1), nn.ReLU6()),
            *(*_convolution(hidden, hidden, 3, stride, hidden), nn.ReLU6()),
            *_convolution(hidden, width, 1),
        )
        self.adds = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor [n, width, H / stride, W / stride], with sizes rounded up."""
        out: Tensor = self.layers(x)
        return x + out if self.adds else out


class MobileNetV2(nn.Module):
    """A small MobileNetV2 (Sandler et al., arXiv 1801.04381): six blocks of 8 to 48 channels, mean, linear layer."""

    def __init__(self, shape: Shape, n_classes: int) -> None:
        super().__init__()
        sizes = ((8, 16, 1), (16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 48, 2), (48, 48, 1))
        self.stem = nn.Sequential(*_convolution(shape[0], 8, 3, 2), nn.ReLU6())
        self.blocks = nn.Sequential(*(InvertedResidual(*size) for size in sizes))
        self.last = nn.Sequential(*_convolution(48, 128, 1), nn.ReLU6())
        self.fc = nn.Linear(128, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of samples, [n, C]."""
        out: Tensor = self.fc(self.last(self.blocks(self.stem(x))).mean((2, 3)))
        return out


class DSCNN(nn.Module):
    """DS-CNN-S for features of audio [1, time, frequencies], such as 49 x 10 MFCC (Zhang et al., arXiv 1711.07128).

    A 10x4 convolution of stride 2, four depthwise-separable convolutions of 64 channels, mean, one linear layer.
    """

    def __init__(self, shape: Shape, n_classes: int, width: int = 64) -> None:
        super().__init__()
        stem = nn.Conv2d(shape[0], width, (10, 4), 2, (5, 1), bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU()]
        for _ in range(4):
            layers += [*_convolution(width, width, 3, groups=width), nn.ReLU()]
            layers += [*_convolution(width, width, 1), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of samples, [n, C]."""
        out: Tensor = self.fc(self.layers(x).mean((2, 3)))
        return out


NORMALISED_MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "resnet8_bn": lambda shape, n_classes: CifarResNet(shape, n_classes, 1),
    "resnet20_bn": lambda shape, n_classes: CifarResNet(shape, n_classes, 3),
    "mobilenetv2_bn": MobileNetV2,
    "dscnn": DSCNN,
}
"""Models by name. They take images of 8 x 8 or more."""
