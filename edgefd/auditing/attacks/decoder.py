"""A small network that learns to reconstruct images from soft labels."""

from __future__ import annotations

import numpy as np

from edgefd.core.arrays import Float32

_HIDDEN = 256
_STEPS = 600
_BATCH = 32
_LR = 0.002


def decode(inputs: Float32, images: Float32, queried: Float32, rng: np.random.Generator) -> Float32:
    """Train a decoder on pairs of inputs [n, d] and images, and return its images [k, C, H, W] for `queried` [k, d].

    The decoder has two hidden layers and a sigmoid at the end; the loss is least squares, the optimizer Adam. Queried
    inputs are standardised like those of the training.
    """
    import torch
    from torch import nn

    mean, std = inputs.mean(0), inputs.std(0) + 1e-3
    x, y = torch.from_numpy((inputs - mean) / std), torch.from_numpy(images.reshape(len(images), -1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        layers = [nn.Linear(x.shape[1], _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU()]
        decoder = nn.Sequential(*layers, nn.Linear(_HIDDEN, y.shape[1]), nn.Sigmoid())
    optimizer = torch.optim.Adam(decoder.parameters(), lr=_LR)
    for _ in range(_STEPS):
        rows = torch.from_numpy(rng.integers(len(inputs), size=_BATCH))
        optimizer.zero_grad()
        nn.functional.mse_loss(decoder(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        decoded: Float32 = decoder(torch.from_numpy((queried - mean) / std)).numpy()
    return decoded.reshape(-1, *images.shape[1:])
