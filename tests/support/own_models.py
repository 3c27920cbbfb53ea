"""Models as users write them: one that works, and several with errors."""

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
