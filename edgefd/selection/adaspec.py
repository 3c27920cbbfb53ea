"""AdaSPEC: a client distils the rows that a reference model, which distilled all rows, learns best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgefd.core.knowledge import Knowledge
from edgefd.learners.probabilities import divergence
from edgefd.selection._rule import Candidates
from edgefd.selection._subset import Subset, best, rows_of


@dataclass(frozen=True)
class AdaSpec(Subset):
    """Choose the rows whose divergence from the teacher falls most if all rows are distilled."""

    name: Literal["adaspec"] = "adaspec"
    """rows that the client can learn, tried with a copy of its model"""

    def subset(self, candidates: Candidates) -> Knowledge:
        """See `Selection.subset`."""
        teacher, before, after = candidates.teacher, candidates.client_probs(), candidates.reference()
        gain = divergence(teacher.values, before) - divergence(teacher.values, after)
        return rows_of(teacher, best(gain, self.n_rows(len(teacher))))


RULE = AdaSpec
