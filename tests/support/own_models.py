"""Models as users write them: some that work, and several with errors."""

import math
import random
import warnings

import numpy as np
import torch
from torch import Tensor, nn


class Noisy(nn.Module):
    """A model that the step recorder cannot record.

    It draws random numbers in training, reads values of tensors, and keeps statistics.
    """

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(shape[0])
        self.fc = nn.Linear(shape[0] * shape[1] * shape[2], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(self.norm(x), 0.3, self.training)
        out: Tensor = self.fc(x.flatten(1) if float(x.detach().sum()) > 0 else x.flatten(1).abs())
        return out


class Normalised(nn.Sequential):
    """A model with batch normalisation of both kinds of means, and two forms of dropout."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        channels, height, width = shape
        flat = 4 * (height // 2 - 1) * (width // 2 - 1)
        super().__init__(
            *(nn.Conv2d(channels, 4, 4, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.1), nn.Flatten()),
            *(nn.Linear(flat, 16), nn.BatchNorm1d(16, momentum=None), nn.ReLU(), nn.Dropout(0.3)),
            nn.Linear(16, n_classes),
        )


def wide(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(n_classes + 1))


def fixed(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(7, n_classes))


def untrained(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    return nn.Flatten()


def number(shape: tuple[int, ...], n_classes: int) -> int:
    return n_classes


def broken(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    raise RuntimeError("no weights\nfound")


class Two(nn.Module):
    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(int(torch.tensor(shape).prod()), n_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Linear(nn.Module):
    """Base of linear models."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(math.prod(shape), n_classes)


class Stateful(Linear):
    """A linear model whose logits depend on the number of training steps, which the subclasses count."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count(x)
        out: Tensor = self.fc(x.flatten(1)) * (1 + 0.1 * float(self.steps))
        return out

    def count(self, x: Tensor) -> None:
        self.steps = self.steps + 1


class CountsInBuffers(Stateful):
    """It has buffers of several types, which training changes in place or replaces."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__(shape, n_classes)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("even", torch.ones(3, dtype=torch.bool))
        self.register_buffer("exact", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(2))

    def count(self, x: Tensor) -> None:
        self.steps += 1
        self.even.logical_not_()
        self.exact += 0.1
        self.mean = 0.9 * self.mean + 0.1 * x.mean()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.mean[0] + self.exact.float() + self.even[0].float()


class CountsInPython(Stateful):
    """It has state that no other process sees."""

    steps = 0


class CountsUnsaved(Stateful):
    """Its state does not contain a buffer that changes."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__(shape, n_classes)
        self.register_buffer("steps", torch.zeros(()), persistent=False)


class HasExtraState(Stateful):
    """Its state has an object that is not a tensor."""

    steps = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": self.steps}


class OwnGenerator(Linear):
    """It draws from a generator of its own, whose state no other process sees."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__(shape, n_classes)
        self.rng = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.flatten(1)) * float(self.rng.random())
        return out


class DrawsEverywhere(Linear):
    """It draws from the generators of torch, numpy and Python, in evaluation mode too, and for its first weights."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__(shape, n_classes)
        self.fc.weight.data += 0.01 * torch.from_numpy(np.random.standard_normal(self.fc.weight.shape)).float()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(nn.functional.dropout(x.flatten(1), 0.3, True))
        return out * (1 + 0.1 * random.random()) * (1 + 0.1 * np.random.random())


def flat(shape: tuple[int, ...], *layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 8), *layers)


def cumulative(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    return flat(shape, nn.BatchNorm1d(8, momentum=None), nn.ReLU(), nn.Linear(8, n_classes))


def batch_norm(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    return flat(shape, nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, n_classes))


def dropout(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    return flat(shape, nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, n_classes))


def scripted(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(flat(shape, nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, n_classes)))


def compiled(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    return torch.compile(dropout(shape, n_classes))


def lazy(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(n_classes))


def frozen(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    model = flat(shape, nn.ReLU(), nn.Linear(8, n_classes))
    model[1].requires_grad_(False)
    return model


class Volume(nn.Module):
    """It has a parameter of five axes, which cannot be in the order channels_last."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv3d(1, 2, 3, padding=1), nn.Linear(2 * math.prod(shape), n_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.conv(x.unsqueeze(1)).flatten(1))
        return out


class Double(Linear):
    """It computes in float64, and returns float64 logits."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__(shape, n_classes)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.flatten(1).double())
        return out


def tied(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    model = flat(shape, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, n_classes))
    model[4].weight = model[2].weight
    return model


def sharing_memory(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    model = flat(shape, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, n_classes))
    model[4].weight = nn.Parameter(model[2].weight.data)
    return model


def bfloat16(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    return flat(shape, nn.Linear(8, n_classes)).bfloat16()


class Squeezing(Linear):
    """It drops the axis of a batch of one sample."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.flatten(1)).squeeze()
        return out


class OwnBatchNorm(Linear):
    """It normalises batches without a layer of torch, so one row ends its training."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.fc(x.flatten(1))
        size = out.shape[1]
        return nn.functional.batch_norm(out, torch.zeros(size), torch.ones(size), training=self.training)
