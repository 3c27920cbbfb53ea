"""Level 0: what the stored centroids of a client's filter disclose of single records."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgefd.auditing.attacks.label_inference import NO_PRIVATE_DATA
from edgefd.auditing.recording.signal_store import Arrays

_LEAST_CLUSTER = 5  # a centroid of fewer records is near to each of them


def centroid_exposure(signals: Arrays) -> dict[str, Any]:
    """Measure what a client's stored centroids disclose of single records, for example to the thief of a device.

    The centroids never leave the client. `nearest_is_fitted`: share of centroids whose nearest record is one that they
    were fitted on, not a held-out one; for exchangeable records it would be `expected`, the share of fitted records.
    `median_ratio`: distance to the nearest fitted record divided by that to the nearest held-out one.
    """
    if "table" not in signals:
        return {"reason": NO_PRIVATE_DATA}
    if "centroids" not in signals:
        return {"reason": "the filter of this run has no centroids"}
    client, size, to_fitted, to_held = signals["centroids"].T
    n_fitted, n_held = signals["records"][client.astype(int)].T
    return {
        "clusters": len(size),
        "smallest_cluster": int(size.min()),
        "clusters_below_5": int((size < _LEAST_CLUSTER).sum()),
        "centroids_that_are_records": int((to_fitted < 1e-3 * np.median(to_held)).sum()),
        "nearest_is_fitted": float((to_fitted < to_held).mean()),
        "expected": float((n_fitted / (n_fitted + n_held)).mean()),
        "median_ratio": float(np.median(to_fitted / np.maximum(to_held, 1e-9))),
        "per_client": [
            {"client": int(c), "smallest": int(size[client == c].min()), "below_5": int((size[client == c] < 5).sum())}
            for c in np.unique(client)
        ],
    }
