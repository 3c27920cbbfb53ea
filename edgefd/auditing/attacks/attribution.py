"""Level 0: who contributed a proxy sample, inferred from the filters' masks and weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgefd.auditing.measures.statistics import auc
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Int64
from edgefd.data.build_federation import UNKNOWN


def attribution(signals: Arrays, classes: Int64 | None) -> dict[str, Any]:
    """Infer who contributed a proxy row from the mask or the weights of one client's report, among rows of one class.

    The server knows the contributors; an eavesdropper who missed the contributions learns them here.
    """
    owner, weights = signals["owner"], signals["weights"]
    if (owner == UNKNOWN).any():
        return {"reason": "it is not recorded which client contributed which sample"}
    if not (owner >= 0).any():
        return {"reason": "nothing was contributed: the proxy set is public"}
    if classes is None:
        return {"reason": "the proxy set has no labels, so contributors and others cannot be matched by class"}
    areas: dict[str, Any] = {}
    for name, scores in (("mask", (weights > 0).astype(float)), ("weight", weights.astype(float))):
        inside, outside = [], []
        for client, row in enumerate(scores):
            contributed = owner == client
            for c in np.unique(classes[contributed]):
                others = ~contributed & (classes == c)
                if others.any():
                    inside.append(row[contributed & (classes == c)])
                    outside.append(row[others])
        if not inside:
            return {
                "reason": "no class is contributed by two clients: the class of a row alone reveals its contributor"
            }
        areas[name] = vars(auc(np.concatenate(inside), np.concatenate(outside)))
    return areas
