"""CFD: FedED with hard labels from clients, four bits each for ten classes (Sattler et al., arXiv 2012.00632).

What the paper says and what is chosen here: docs/methods/cfd.md.
"""

from dataclasses import replace
from typing import Any

from edgefd.core.arrays import Float32
from edgefd.learners.batches import one_hot
from edgefd.methods import feded


def extract(logits: Float32, config: Any) -> Float32:
    """Return the most likely class as a one-hot row.

    >>> import numpy as np
    >>> extract(np.array([[0.2, 3.0, -1.0]], np.float32), None)
    array([[0., 1., 0.]], dtype=float32)
    """
    return one_hot(logits.argmax(1), logits.shape[1])


METHOD = replace(
    feded.METHOD,
    name="cfd",
    summary="clients send 1-bit soft labels; a server model distils their mean and sends its own soft labels",
    extract=extract,
    local_training="warmup",
)
