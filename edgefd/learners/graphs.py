"""`Graphs`: a model as ONNX graphs, and the state arrays that the graphs read and write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROWS = "rows"
"""input of `step` that is 1 for the rows of a batch and 0 for padding, if a layer uses the statistics of a batch"""


@dataclass(frozen=True, eq=False)
class Graphs:
    """The ONNX graphs of a model and the description of their inputs and outputs.

    `step` maps (state, x, targets, weights, lr, constants) to (new state as `new/<name>`, loss), for exactly `batch`
    rows. It may have two kinds of further inputs: `ROWS`, and random numbers (`edgefd.learners.mask_noise`). `logits`
    maps (the arrays `model/...` of the state, x) to logits, for any number of rows.
    """

    step: bytes
    logits: bytes
    state: tuple[str, ...]
    """names of the state tensors, in the order of the graph's inputs"""
    constants: dict[str, float]
    """values of the additional scalar inputs of `step`, by name"""
    batch: int
    """number of rows that `step` takes"""
    n_classes: int
    shape: tuple[int, ...]
    """shape of one sample"""


State = dict[str, np.ndarray]
"""Arrays of parameters (`model/...`) and of the optimizer (`optimizer/...`), by name."""
