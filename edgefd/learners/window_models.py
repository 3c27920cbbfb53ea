"""Named torch models for windows [channels, steps] of sensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCHES = 16
"""number of patches that the recurrent model and the transformer make of a window"""


class CNN1d(nn.Module):
    """Three convolutions along time, each of stride 2, the mean over time, one linear layer.

    The samples are windows [channels, steps] of sensors. Each convolution treats a window as an image with one row, so
    a device trains it with the same operators as it uses for images.
    """

    def __init__(self, shape: tuple[int, ...], n_classes: int, width: int = 16) -> None:
        super().__init__()
        channels, _ = shape
        self.conv1 = nn.Conv2d(channels, width, (1, 9), stride=(1, 2), padding=(0, 4))
        self.conv2 = nn.Conv2d(width, 2 * width, (1, 5), stride=(1, 2), padding=(0, 2))
        self.conv3 = nn.Conv2d(2 * width, 2 * width, (1, 5), stride=(1, 2), padding=(0, 2))
        self.fc = nn.Linear(2 * width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of samples, [n, C]."""
        x = F.relu(self.conv2(F.relu(self.conv1(x.unsqueeze(2)))))
        out: Tensor = self.fc(F.relu(self.conv3(x)).mean((2, 3)))
        return out


def patches(x: Tensor) -> Tensor:
    """Return windows [n, channels, steps] as patches of neighbouring steps, [n, 16, channels * steps per patch].

    The first steps are left out if 16 does not divide their number.
    """
    n, channels, steps = x.shape
    size = steps // PATCHES
    latest = x[:, :, steps - PATCHES * size :]
    return latest.reshape(n, channels, PATCHES, size).transpose(1, 2).reshape(n, PATCHES, channels * size)


class GRU(nn.Module):
    """A linear embedding of 16 patches of a window, a gated recurrent unit over the patches, one linear layer.

    The number of patches does not depend on the number of steps, so a device runs as many operators for a long window
    as for a short one.
    """

    def __init__(self, shape: tuple[int, ...], n_classes: int, width: int = 32) -> None:
        super().__init__()
        channels, steps = shape
        self.embed = nn.Linear(channels * (steps // PATCHES), width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.fc = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of samples, [n, C]."""
        states, _ = self.gru(F.relu(self.embed(patches(x))))
        out: Tensor = self.fc(states[:, -1])
        return out


class Transformer(nn.Module):
    """A linear embedding of 16 patches of a window with positions, two encoder layers, the mean, one linear layer.

    Each layer normalises before its attention and before its hidden layer, which makes training stable without a
    warm-up of the learning rate. There is no dropout.
    """

    def __init__(self, shape: tuple[int, ...], n_classes: int, width: int = 32, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        channels, steps = shape
        self.embed = nn.Linear(channels * (steps // PATCHES), width)
        self.positions = nn.Parameter(0.02 * torch.randn(PATCHES, width))
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of samples, [n, C]."""
        tokens = self.layers(self.embed(patches(x)) + self.positions)
        out: Tensor = self.fc(self.norm(tokens).mean(1))
        return out
