"""The network of niid_bench for images of one channel, a module that `model.name` can name."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """Two 5x5 convolutions of 6 and 16 channels with max-pooling, then linear layers of 120, 84 and C numbers."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        flat = 16 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(flat, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images, [n, C]."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))  # as published, but with a quarter of the work for the rectifier
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        out: Tensor = self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))
        return out
