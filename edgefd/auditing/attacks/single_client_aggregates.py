"""Level 0: rows of the aggregate that disclose the soft label of a single client."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgefd.core.arrays import Bool

_FEW = 2  # clients whose aggregate discloses the soft label of one to the other


def single_client_aggregates(votes: Bool) -> dict[str, Any]:
    """Return, by round, the share of aggregated rows that come from one client, and from at most two.

    The aggregate of one client *is* that client's soft label; of two clients, each can subtract its own.
    """
    voters = votes.sum(1)
    rows = np.maximum((voters > 0).sum(1), 1)
    return {
        "one_voter": ((voters == 1).sum(1) / rows).tolist(),
        "at_most_two": (((voters > 0) & (voters <= _FEW)).sum(1) / rows).tolist(),
    }
