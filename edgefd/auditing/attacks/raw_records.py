"""Level 0: raw records that left their clients, and private records with a near copy in the proxy set."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgefd.auditing.measures.statistics import clopper_pearson
from edgefd.auditing.recording.read import Recording
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Bool
from edgefd.data.build_federation import UNKNOWN
from edgefd.federation.clients import ClientData


def ledger(recording: Recording, signals: Arrays) -> dict[str, Any]:
    """Count the raw records that left a client (to whom, and when), and the private records with a near copy.

    A private record has a near copy in the proxy set if its distance to the proxy set is less than half of that of the
    median fresh record of its class. The control is the share of fresh records that are equally near. They are more
    than chance if the intervals of both shares do not overlap. An exact copy is equal, bit for bit, to a proxy row that
    no client contributed.
    """
    sent = int((signals["owner"] != -1).sum())
    totals = {
        "raw_records_sent": sent,
        "of_unknown_clients": int((signals["owner"] == UNKNOWN).sum()),
        "to": "the server, which sends them to every client" if sent else None,
        "when": "once, before round 0" if sent else None,
    }
    if recording.deployed:
        rows = [
            {"client": c, "raw_records_sent": int((signals["owner"] == c).sum())}
            for c in range(len(signals["weights"]))
        ]
        return totals | {"share": None, "clients": sorted(rows, key=lambda r: -r["raw_records_sent"])}
    return totals | _near_copies(recording, signals)


def _near_copies(recording: Recording, s: Arrays) -> dict[str, Any]:
    """Return, by client, the share of its records that left, and how many of the others have a near copy."""
    federation = recording.federation
    by_class = [s["fresh_to_proxy"][s["fresh_y"] == c] for c in range(federation.n_classes)]
    half = np.array([float(np.median(d)) / 2 if len(d) else 0.0 for d in by_class])  # 0: no distance is below it
    near = s["private_to_proxy"] < half[s["private_y"]]
    rows = [_client_row(recording, s, data, near[s["private_client"] == data.client]) for data in federation.clients]
    fresh_near = s["fresh_to_proxy"] < half[s["fresh_y"]]
    chance = clopper_pearson(int(fresh_near.sum()), len(fresh_near))[1] if len(fresh_near) else 1.0
    return {
        "share": float((s["owner"] != -1).sum() / max(1, int(federation.table.sum()))),
        "private_with_near_copy": sum(r["private_with_near_copy"] for r in rows),
        "near_share": float(near.mean()) if len(near) else 0.0,
        "near_more_than_chance": bool(len(near)) and clopper_pearson(int(near.sum()), len(near))[0] > chance,
        "fresh_share_as_near": float(fresh_near.mean()) if len(fresh_near) else 0.0,
        "exact_copies": int((s["copy_of"] >= 0).sum()),
        "fresh_exact_copies": int(s["fresh_copies"].sum()),
        "proxy_ids": np.unique(s["copy_of"][s["copy_of"] >= 0]).tolist(),
        "clients": sorted(rows, key=lambda r: -r["raw_records_sent"]),
    }


def _client_row(recording: Recording, s: Arrays, data: ClientData, near: Bool) -> dict[str, Any]:
    federation = recording.federation
    contributed = s["owner"] == data.client
    sent, by_class = int(contributed.sum()), None
    if federation.proxy_labels is not None:
        by_class = np.bincount(federation.proxy_labels[contributed], minlength=federation.n_classes).tolist()
    return {
        "client": data.client,
        "raw_records_sent": sent,
        "share": sent / int(federation.table[data.client].sum()),
        "by_class": by_class,
        "private_with_near_copy": int(near.sum()),
        "private_records": len(near),
        "exact_copies": int((s["copy_of"][s["copy_client"] == data.client] >= 0).sum()),
    }
