"""AdaSPEC: a client distils the rows that a reference model, which distilled all rows, learns best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.learners.probabilities import divergence
from edgefd.selection._subset import Subset, best, rows_of


@dataclass(frozen=True)
class AdaSpec(Subset):
    """Choose the rows whose divergence from the teacher falls most if all rows are distilled."""

    name: Literal["adaspec"] = "adaspec"
    """rows that the client can learn, tried with a copy of its model"""

    def subset(
        self,
        teacher: Knowledge,
        client_probs: Callable[[], Float32],
        reference: Callable[[], Float32],
        rng: np.random.Generator,
    ) -> Knowledge:
        """See `Selection.subset`."""
        probs = teacher.values
        gain = divergence(probs, client_probs()) - divergence(probs, reference())
        return rows_of(teacher, best(gain, self.n_rows(len(teacher))))


RULE = AdaSpec
