"""A model as ONNX graphs, and the state that the graphs read and write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Graphs:
    """A model as ONNX graphs, and how to call them.

    `step`: (state, x, targets, weights, lr, constants) → (new state as `new/<name>`, loss), for exactly `batch` rows;
    `logits`: (the state's `model/...`, x) → logits, for any number of rows.
    """

    step: bytes
    logits: bytes
    state: tuple[str, ...]
    """names of the state tensors, in order"""
    constants: dict[str, float]
    batch: int
    n_classes: int
    shape: tuple[int, ...]
    """of one sample"""


State = dict[str, np.ndarray]
