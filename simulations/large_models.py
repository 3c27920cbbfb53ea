"""`cnn_edge` with a wider hidden layer: models of about 1 and 11 million parameters that are trained quickly on a CPU.

Almost all parameters are in the two linear layers, so a training step costs little more than with `cnn_edge`.
"""

from torch import nn

from edgefd.learners.models import EdgeCNN, Shape


def cnn_1m(shape: Shape, n_classes: int) -> nn.Module:
    """Return a network of 1,020,634 parameters on 28 x 28 pixels and ten classes."""
    return EdgeCNN(shape, n_classes, hidden=1296)


def cnn_11m(shape: Shape, n_classes: int) -> nn.Module:
    """Return a network of 10,994,950 parameters on 28 x 28 pixels and ten classes."""
    return EdgeCNN(shape, n_classes, hidden=14100)
