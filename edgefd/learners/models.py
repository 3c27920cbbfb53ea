"""Small named torch models that are fast on one CPU core and can be exported to a device.

Pooling comes before the rectifier: the result has the same bits, and the rectifier has a quarter of the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from edgefd.core.errors import UserError, hint
from edgefd.core.objects import load_object, one_line
from edgefd.learners.library_models import library_model, library_of
from edgefd.learners.max_pool_relu import pool_relu
from edgefd.learners.noise import seeded
from edgefd.learners.normalised_models import NORMALISED_MODELS
from edgefd.learners.own_models import check_own_model
from edgefd.learners.window_models import GRU, CNN1d, Transformer

Shape = tuple[int, ...]
"""Shape of one sample."""
Factory = Callable[[Shape, int], nn.Module]
"""Function from the shape of one sample and the number of classes C to a model with C logits."""


class Linear(nn.Module):
    """One linear layer on the flattened sample, for features or for the smallest devices."""

    def __init__(self, shape: Shape, n_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(math.prod(shape), n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of samples, [n, C]."""
        out: Tensor = self.fc(x.flatten(1))
        return out


class RandomFeatures(nn.Module):
    """One linear layer on features that are never trained: 7x7 convolutions of stride 2, max-pooling, a rectifier.

    Each filter is drawn once. Its mean is zero, so it responds to shapes and not to brightness. Its length is 1/2, so
    SGD is stable at usual learning rates. Responses below the threshold count as 0. Only the last layer has a backward
    pass.
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
        """Return the logits of samples, [n, C]."""
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
        """Return the logits of samples, [n, C]."""
        x = F.relu(self.fc1(x.flatten(1)))
        out: Tensor = self.fc3(F.relu(self.fc2(x)))
        return out


class CNN(nn.Module):
    """Two 5x5 convolutions with max-pooling, then two linear layers.

    With width 10, it is the network of the MNIST demo of Selective-FD (320-50-10 on 28x28), without its dropout.
    """

    def __init__(self, shape: Shape, n_classes: int, width: int = 10, hidden: int = 50) -> None:
        super().__init__()
        channels, height, pixels = shape
        self.conv1 = nn.Conv2d(channels, width, 5)
        self.conv2 = nn.Conv2d(width, 2 * width, 5)
        flat = 2 * width * _size_after_two_poolings(height) * _size_after_two_poolings(pixels)
        self.fc1 = nn.Linear(flat, hidden)
        self.fc2 = nn.Linear(hidden, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of samples, [n, C]."""
        x = pool_relu(self.conv1(x))
        x = pool_relu(self.conv2(x))
        out: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return out


class EdgeCNN(nn.Module):
    """A 5x5 convolution of stride 2, max-pooling, a 3x3 convolution, two linear layers: the cheap model for devices.

    The stride leaves a quarter of the pixels for all later layers. docs/guides/models.md explains the width.
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
        """Return the logits of samples, [n, C]."""
        x = F.relu(self.conv2(pool_relu(self.conv1(x))))
        out: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return out


class GroupNormCNN(nn.Module):
    """Two 3x3 convolutions, each with group normalisation and max-pooling, then one linear layer."""

    def __init__(self, shape: Shape, n_classes: int, width: int = 16, groups: int = 4) -> None:
        super().__init__()
        channels, height, pixels = shape
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, 2 * width)
        self.fc = nn.Linear(2 * width * (height // 4) * (pixels // 4), n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of samples, [n, C]."""
        x = pool_relu(self.norm1(self.conv1(x)))
        x = pool_relu(self.norm2(self.conv2(x)))
        out: Tensor = self.fc(x.flatten(1))
        return out


class ResidualBlock(nn.Module):
    """relu(x + conv(relu(conv(x)))), with a convolution of x if the size or the width changes.

    The second convolution starts at zero, so a new block returns relu(x). This replaces normalisation, which would cost
    more than the convolutions here.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]  # this convolution has a bias
        # 3x3, not 1x1: with two threads and an odd number of samples, the backward pass of torch 2.13 (oneDNN 3.12) of
        # a 1x1 convolution of stride 2 writes outside its memory
        self.shortcut = nn.Conv2d(channels, width, 3, stride=stride, padding=1) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor [n, width, H / stride, W / stride], with sizes rounded up."""
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet8(nn.Module):
    """A 3x3 convolution of stride 2, three residual blocks, one linear layer.

    There is no normalisation: the statistics of a batch are those of one client, and mean little to other clients. The
    linear layer takes every position: if it took the mean of all positions, the model would learn many times more
    slowly (docs/guides/models.md).
    """

    def __init__(self, shape: Shape, n_classes: int, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape[0], width, 3, stride=2, padding=1)
        self.block1 = ResidualBlock(width, width, 1)
        self.block2 = ResidualBlock(width, 2 * width, 2)
        self.block3 = ResidualBlock(2 * width, 4 * width, 2)
        rows, columns = (_size_after_three_strides(side) for side in shape[1:])
        self.fc = nn.Linear(4 * width * rows * columns, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of samples, [n, C]."""
        x = self.block3(self.block2(self.block1(F.relu(self.conv(x)))))
        out: Tensor = self.fc(x.flatten(1))
        return out


class DepthwiseNet(nn.Module):
    """A 3x3 convolution of stride 2, three depthwise-separable convolutions, one linear layer.

    A depthwise-separable convolution is a 3x3 convolution in each channel, followed by a 1x1 convolution across
    channels. It has few parameters and few operations.
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
        rows, columns = (_size_after_three_strides(side) for side in shape[1:])
        self.fc = nn.Linear(4 * width * rows * columns, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of samples, [n, C]."""
        x = F.relu(self.conv(x))
        x = F.relu(self.point1(self.depth1(x)))
        x = F.relu(self.point2(self.depth2(x)))
        x = F.relu(self.point3(self.depth3(x)))
        out: Tensor = self.fc(x.flatten(1))
        return out


def cnn_small(shape: Shape, n_classes: int) -> nn.Module:
    """Return a CNN of 4 and 8 channels, with about 7,000 parameters on 28x28."""
    return CNN(shape, n_classes, width=4, hidden=32)


MODELS: dict[str, Factory] = {
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
    "gru": GRU,
    "transformer": Transformer,
}
"""Models by name, whose graphs devices know."""
NAMED = MODELS | NORMALISED_MODELS
"""All models by name."""

WINDOW_MODELS = ("cnn1d", "gru", "transformer")
"""Names of the models that take windows only."""
ADVISED = ("cnn", "cnn1d", "mlp")
"""Names of the models that an error about the shape of samples advises: the first that takes them."""
SIDE = 16
"""smallest height and width of images, and smallest number of steps of a window"""


def build_model(model: str | Factory, shape: Shape, n_classes: int, seed: int, *keys: int) -> nn.Module:
    """Build a model for samples of `shape`. The global random state does not change.

    Args:
        model: a name in `NAMED`, a factory, the path of a factory, such as "package.module:Factory", or a model of
            another package, such as "timm:resnet18" or "torchvision:resnet18".
        shape: shape of one sample.
        n_classes: C.
        seed: seed of the initial weights.
        *keys: further keys of the seed, such as the number of a client.

    Raises:
        UserError: for an unknown model, or a model that does not take samples of this shape.
    """
    with seeded(seed, *keys):
        if not isinstance(model, str):
            return _build_user_model(model, shape, n_classes)
        if is_foreign(model):
            factory = library_model(model) if library_of(model) else load_object(model, "model")
            return _build_user_model(factory, shape, n_classes, repr(model))
        _check_named(model, shape)
        return NAMED[model](shape, n_classes)


def is_foreign(name: str) -> bool:
    """Return whether the name is that of a user's own model, or of a model of another package."""
    return ":" in name


def check_model(model: str | Factory, shape: Shape, n_classes: int, optimizer: str = "adam") -> None:
    """Check that the model exists and takes samples of this shape. A user's own model is built and trained for a step.

    Raises:
        UserError: if it does not.
    """
    if isinstance(model, str) and not is_foreign(model):
        _check_named(model, shape)
    else:
        check_own_model(lambda: build_model(model, shape, n_classes, 0), _label(model), shape, n_classes, optimizer)


def _check_named(name: str, shape: Shape) -> None:
    if name not in NAMED:
        if name.endswith(".py"):
            raise UserError(f"model {name!r} is a file: name the class or the function in it, such as {name}:Net")
        raise UserError(f"unknown model {name!r}: {hint(name, NAMED)}")
    if not _takes(name, shape):
        side = _side(name)
        windows, images = f"windows [channels, {side} steps or more]", f"images of {side} x {side} or more"
        needed, first = windows if name in WINDOW_MODELS else images, (shape[-1], *shape[:-1])
        advice = f"use {next(other for other in ADVISED if _takes(other, shape))}"
        if shape[-1] < SIDE and _takes(name, first):
            advice = f"give the channels first, as {list(first)}, or {advice}"
        raise UserError(f"model {name!r} needs {needed}, not samples of shape {list(shape)}: {advice}")


def _takes(name: str, shape: Shape) -> bool:
    """Return whether a model of edgefd takes samples of this shape."""
    if name in ("linear", "mlp"):
        return True
    if name in WINDOW_MODELS:
        return len(shape) == 2 and shape[1] >= _side(name)
    return len(shape) == 3 and min(shape[1:]) >= _side(name)


def _side(name: str) -> int:
    """Return the least height and width of images, or number of steps of windows, that a model takes."""
    return SIDE // 2 if name in NORMALISED_MODELS else SIDE


def _build_user_model(factory: Factory, shape: Shape, n_classes: int, label: str = "") -> nn.Module:
    label = label or _label(factory)
    try:
        model = factory(shape, n_classes)
        if isinstance(model, nn.Module) and any(map(is_lazy, [*model.parameters(), *model.buffers()])):
            with torch.no_grad():
                model.eval()(torch.zeros(2, *shape))  # lazy layers get their sizes from a batch
    except (Exception, SystemExit) as error:  # a user's factory may raise anything
        raise UserError(f"cannot build model {label}: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model {label} must return a torch.nn.Module, but it returned {model!r:.60}")
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"model {label} has no parameters to train: set requires_grad of at least one parameter")
    return model


def _label(model: str | Factory) -> str:
    return repr(model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__))


def _size_after_two_poolings(pixels: int) -> int:
    """Return the size along one axis after two 5-wide convolutions, each followed by 2-wide pooling."""
    return ((pixels - 4) // 2 - 4) // 2


def _size_after_three_strides(pixels: int) -> int:
    """Return the size along one axis after three 3-wide convolutions of stride 2 with padding 1."""
    return -(-pixels // 8)
