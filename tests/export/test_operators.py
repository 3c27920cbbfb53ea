"""Convolution, pooling and elementwise operators of an exported step agree with torch beyond the named models."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from edgefd.export.model_graphs import export_graphs
from edgefd.export.verify import verify

SHAPE = (6, 13, 16)
SAMPLES = np.random.default_rng(0).standard_normal((50, *SHAPE)).astype(np.float32)
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "stride, padding and dilation": lambda: nn.Conv2d(6, 5, 3, stride=(2, 1), padding=(1, 2), dilation=2),
    "few channels": lambda: nn.Sequential(nn.Conv2d(6, 3, 1), nn.Conv2d(3, 4, 3, stride=2, padding=1)),
    "depthwise, no bias": lambda: nn.Conv2d(6, 6, (3, 1), stride=2, padding=(0, 1), groups=6, bias=False),
    "max-pooling of 3 x 2": lambda: nn.Sequential(nn.Conv2d(6, 5, 3), nn.MaxPool2d((3, 2))),
    "average pooling on odd sizes": lambda: nn.Sequential(nn.Conv2d(6, 5, 3), nn.AvgPool2d(2)),
    "group normalisation": lambda: nn.Sequential(nn.Conv2d(6, 4, 3), nn.GroupNorm(2, 4), nn.SiLU()),
}


def with_linear_layer(layer: nn.Module) -> nn.Module:
    size = layer(torch.zeros(1, *SHAPE)).numel()
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(size, 3))


@pytest.mark.parametrize("name", LAYERS)
def test_a_step_through_a_layer_agrees_with_torch(name: str) -> None:
    torch.manual_seed(0)
    model = with_linear_layer(LAYERS[name]())
    errors = verify(export_graphs(model, "sgd", 16, SHAPE, 3), model, "sgd", SAMPLES)
    assert max(errors["step"], errors["logits"]) <= 1e-5, errors
