"""`ValueRange`: the range of the values in the messages of a method, which every receiver checks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ValueRange:
    """The values that the rows of a message may have. A receiver refuses a message with any other value."""

    name: str
    """what the values are, in words, as errors name them"""
    least: float
    """smallest value"""
    most: float
    """largest value"""
    sums_to_one: bool = False
    """whether each row must sum to 1, up to the rounding error of the codec"""

    def __post_init__(self) -> None:
        if not -_LARGEST <= self.least < self.most <= _LARGEST:
            raise ValueError(f"the range of values must be finite and not empty, not {self.least} to {self.most}")


SOFT_LABELS = ValueRange("soft labels", 0.0, 1.0, sums_to_one=True)
"""probabilities"""
LOGITS = ValueRange("logits", -10_000.0, 10_000.0)
"""outputs of a model before the softmax; float16 can hold them, and sums of them"""
EMBEDDINGS = ValueRange("embeddings", -10_000.0, 10_000.0)
"""inputs of the last layer of a model; float16 can hold them"""
PARAMETERS = ValueRange("parameters", -1e30, 1e30)
"""parameters of a model; the sum of those of all clients is finite"""
