"""Small named torch models, written to be fast on a CPU core and exportable to a device.

Pooling comes before the rectifier: the result is the same to the bit and the rectifier has a quarter of the work.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefd.core.errors import UserError, hint
from edgefd.learners.max_pool_relu import pool_relu

Shape = tuple[int, ...]


class Linear(nn.Module):
    """One linear layer on the flattened sample: for features, or for the smallest device."""

    def __init__(self, shape: Shape, n_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(math.prod(shape), n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, C]."""
        out: Tensor = self.fc(x.flatten(1))
        return out


class RandomFeatures(nn.Module):
    """One linear layer on features that are never trained: 7x7 convolutions of stride 2, max-pooling, a rectifier.

    Each filter is drawn once, with mean zero, so that it answers to shapes and not to brightness, and length 1/2, with
    which SGD is stable at usual rates. What is below the threshold counts as nothing. Only the last layer has a
    backward pass.
    """

    filters: Tensor
    bias: Tensor

    def __init__(
        self, shape: Shape, n_classes: int, width: int = 64, size: int = 7, length: float = 0.5, threshold: float = 0.5
    ) -> None:
        super().__init__()
        channels, height, pixels = shape
        drawn = torch.randn(width, channels * size * size)
        drawn = length * F.normalize(drawn - drawn.mean(1, keepdim=True))
        self.register_buffer("filters", drawn.reshape(width, channels, size, size))
        self.register_buffer("bias", torch.full((width,), -threshold))
        rows, columns = (((side - size) // 2 + 1) // 2 for side in (height, pixels))
        self.fc = nn.Linear(width * rows * columns, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, C]."""
        x = pool_relu(F.conv2d(x, self.filters, self.bias, stride=2))
        out: Tensor = self.fc(x.flatten(1))
        return out


class MLP(nn.Module):
    """Two hidden layers on the flattened sample."""

    def __init__(self, shape: Shape, n_classes: int, hidden: int = 128) -> None:
        super().__init__()
        self.fc1 = nn.Linear(math.prod(shape), hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, C]."""
        x = F.relu(self.fc1(x.flatten(1)))
        out: Tensor = self.fc3(F.relu(self.fc2(x)))
        return out


class CNN(nn.Module):
    """Two 5x5 convolutions with max-pooling, two linear layers.

    With width 10: the network of Selective-FD's MNIST demo (320-50-10 on 28x28), without its dropout.
    """

    def __init__(self, shape: Shape, n_classes: int, width: int = 10, hidden: int = 50) -> None:
        super().__init__()
        channels, height, pixels = shape
        self.conv1 = nn.Conv2d(channels, width, 5)
        self.conv2 = nn.Conv2d(width, 2 * width, 5)
        flat = 2 * width * _after(height) * _after(pixels)
        self.fc1 = nn.Linear(flat, hidden)
        self.fc2 = nn.Linear(hidden, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, C]."""
        x = pool_relu(self.conv1(x))
        x = pool_relu(self.conv2(x))
        out: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return out


class EdgeCNN(nn.Module):
    """A 5x5 convolution of stride 2, max-pooling, a 3x3 convolution, two linear layers: the cheap one for a device.

    The stride leaves a quarter of the pixels to all that follows. Why this width: docs/guides/models.md.
    """

    def __init__(self, shape: Shape, n_classes: int, width: int = 24, hidden: int = 64) -> None:
        super().__init__()
        channels, height, pixels = shape
        self.conv1 = nn.Conv2d(channels, width, 5, stride=2)
        self.conv2 = nn.Conv2d(width, 2 * width, 3)
        rows, columns = ((((size - 3) // 2) // 2) - 2 for size in (height, pixels))
        self.fc1 = nn.Linear(2 * width * rows * columns, hidden)
        self.fc2 = nn.Linear(hidden, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, C]."""
        x = F.relu(self.conv2(pool_relu(self.conv1(x))))
        out: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return out


class GroupNormCNN(nn.Module):
    """Two 3x3 convolutions, each with group normalisation and max-pooling, and one linear layer."""

    def __init__(self, shape: Shape, n_classes: int, width: int = 16, groups: int = 4) -> None:
        super().__init__()
        channels, height, pixels = shape
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, 2 * width)
        self.fc = nn.Linear(2 * width * (height // 4) * (pixels // 4), n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, C]."""
        x = pool_relu(self.norm1(self.conv1(x)))
        x = pool_relu(self.norm2(self.conv2(x)))
        out: Tensor = self.fc(x.flatten(1))
        return out


class ResidualBlock(nn.Module):
    """relu(x + conv(relu(conv(x)))), with a convolution of x where size or width change.

    The second convolution starts at zero, so that a new block passes x on. That stands in for normalisation, which
    costs more than the convolutions here.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]  # it has one
        # 3x3, not 1x1: with two threads and an odd number of samples, the backward pass of torch 2.13 (oneDNN 3.12) for
        # a 1x1 convolution of stride 2 writes past its memory
        self.shortcut = nn.Conv2d(channels, width, 3, stride=stride, padding=1) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, H / stride, W / stride], rounded up."""
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet8(nn.Module):
    """A 3x3 convolution of stride 2, three residual blocks, one linear layer.

    No normalisation: statistics of a batch are those of one client, and mean little to the others. The linear layer
    sees every position: behind their mean a model learns many times more slowly, see docs/guides/models.md.
    """

    def __init__(self, shape: Shape, n_classes: int, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape[0], width, 3, stride=2, padding=1)
        self.block1 = ResidualBlock(width, width, 1)
        self.block2 = ResidualBlock(width, 2 * width, 2)
        self.block3 = ResidualBlock(2 * width, 4 * width, 2)
        rows, columns = (_eighth(side) for side in shape[1:])
        self.fc = nn.Linear(4 * width * rows * columns, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, C]."""
        x = self.block3(self.block2(self.block1(F.relu(self.conv(x)))))
        out: Tensor = self.fc(x.flatten(1))
        return out


class DepthwiseNet(nn.Module):
    """A 3x3 convolution of stride 2, three depthwise-separable ones, one linear layer.

    Depthwise-separable: 3x3 in each channel for itself, then 1x1 across channels. Few parameters, few operations.
    """

    def __init__(self, shape: Shape, n_classes: int, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape[0], width, 3, stride=2, padding=1)
        self.depth1 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.point1 = nn.Conv2d(width, 2 * width, 1)
        self.depth2 = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1, groups=2 * width)
        self.point2 = nn.Conv2d(2 * width, 4 * width, 1)
        self.depth3 = nn.Conv2d(4 * width, 4 * width, 3, stride=2, padding=1, groups=4 * width)
        self.point3 = nn.Conv2d(4 * width, 4 * width, 1)
        rows, columns = (_eighth(side) for side in shape[1:])
        self.fc = nn.Linear(4 * width * rows * columns, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, C]."""
        x = F.relu(self.conv(x))
        x = F.relu(self.point1(self.depth1(x)))
        x = F.relu(self.point2(self.depth2(x)))
        x = F.relu(self.point3(self.depth3(x)))
        out: Tensor = self.fc(x.flatten(1))
        return out


class CNN1d(nn.Module):
    """Three convolutions along time, each of stride 2, the mean of the last over time, one linear layer.

    For windows [channels, steps] of sensors. They are convolutions of an image one row high, so that they train on a
    device by the same graphs as those of images.
    """

    def __init__(self, shape: Shape, n_classes: int, width: int = 16) -> None:
        super().__init__()
        channels, _ = shape
        self.conv1 = nn.Conv2d(channels, width, (1, 9), stride=(1, 2), padding=(0, 4))
        self.conv2 = nn.Conv2d(width, 2 * width, (1, 5), stride=(1, 2), padding=(0, 2))
        self.conv3 = nn.Conv2d(2 * width, 2 * width, (1, 5), stride=(1, 2), padding=(0, 2))
        self.fc = nn.Linear(2 * width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, C]."""
        x = F.relu(self.conv2(F.relu(self.conv1(x.unsqueeze(2)))))
        out: Tensor = self.fc(F.relu(self.conv3(x)).mean((2, 3)))
        return out


def cnn_small(shape: Shape, n_classes: int) -> nn.Module:
    """A CNN of 4 and 8 channels: about 7,000 parameters on 28x28."""
    return CNN(shape, n_classes, width=4, hidden=32)


MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "linear": Linear,
    "random_features": RandomFeatures,
    "mlp": MLP,
    "cnn": CNN,
    "cnn_small": cnn_small,
    "cnn_edge": EdgeCNN,
    "cnn_gn": GroupNormCNN,
    "resnet8": ResNet8,
    "dwnet": DepthwiseNet,
    "cnn1d": CNN1d,
}


FLAT = ("linear", "mlp")
"""Models that take samples of any shape."""


def build_model(name: str, shape: Shape, n_classes: int, seed: int) -> nn.Module:
    """A model for samples of `shape`, its weights drawn from `seed`; the global random state is left alone.

    Args:
        name: of `MODELS`, or "package.module:Factory", called with (shape, n_classes).
        shape: of one sample.
        n_classes: C.
        seed: of the weights.

    Raises:
        UserError: as `check_model` does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_foreign(name):
            return _foreign(name, shape, n_classes)
        _check_named(name, shape)
        return MODELS[name](shape, n_classes)


def is_foreign(name: str) -> bool:
    """Whether the name is the path of somebody's own model."""
    return ":" in name


def check_model(name: str, shape: Shape, n_classes: int) -> None:
    """Whether there is such a model and it takes samples of that shape.

    Raises:
        UserError: if not.
    """
    if not is_foreign(name):
        _check_named(name, shape)
        return
    model = build_model(name, shape, n_classes, 0).eval()
    try:
        with torch.inference_mode():
            logits = model(torch.zeros(2, *shape))
    except Exception as error:  # whatever that module does
        raise UserError(f"model {name!r} fails on samples of shape {list(shape)}: {_line(error)}") from error
    if not isinstance(logits, Tensor) or logits.shape != (2, n_classes):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"model {name!r} must give logits [n, {n_classes}]; for 2 samples it gave {got}")


def _check_named(name: str, shape: Shape) -> None:
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}: {hint(name, MODELS)}")
    if name == "cnn1d":
        if len(shape) != 2 or shape[1] < 16:
            raise UserError(
                f"model 'cnn1d' needs windows of channels x 16 steps or more, not samples of shape {list(shape)}: use "
                + ("cnn" if len(shape) == 3 else "mlp")
            )
    elif name not in FLAT and (len(shape) != 3 or min(shape[1:]) < 16):
        raise UserError(
            f"model {name!r} needs images of 16 x 16 or more, not samples of shape {list(shape)}: use "
            + ("cnn1d" if len(shape) == 2 and shape[1] >= 16 else "mlp")
        )


def _foreign(path: str, shape: Shape, n_classes: int) -> nn.Module:
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise UserError(f"model {path!r} must look like package.module:Factory")
    try:
        made = getattr(importlib.import_module(module), attribute)(shape, n_classes)
    except (Exception, SystemExit) as error:  # whatever that module does
        raise UserError(f"cannot make model {path!r}: {_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"model {path!r} must be a torch.nn.Module or a function that makes one, not {made!r:.60}")
    if not any(p.requires_grad for p in made.parameters()):
        raise UserError(f"model {path!r} has no parameters to train")
    return made


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _after(pixels: int) -> int:
    """Pixels left along one axis after two 5-wide convolutions, each halved by pooling."""
    return ((pixels - 4) // 2 - 4) // 2


def _eighth(pixels: int) -> int:
    """Pixels left along one axis after three 3-wide convolutions of stride 2, padded by 1."""
    return -(-pixels // 8)
