"""Level 0: which client sent a report, and which class it has most of, inferred from the length of the report alone.

TLS hides the content of a message and not its length. A report has a row for each proxy sample that the client accepts,
so its length depends on the client's data. Lengths are those of the recorded messages; what TLS and gRPC add is nearly
the same for all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgefd.auditing.attacks.label_inference import NO_PRIVATE_DATA
from edgefd.auditing.recording.read import Recording
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Float64, Int64
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.runs.record import KNOWLEDGE
from edgefd.wire.exchange_folder import report_file

LEVEL = 0.01
"""largest p of a sentence that the sizes tell something; there are two of them"""
_DRAWS = 999


def report_sizes(recording: Recording) -> Int64:
    """Return the bytes of each report, int64 [rounds, clients]; 0 = no report."""
    sizes = np.zeros((len(recording.rounds), len(recording.federation.clients)), np.int64)
    for round in recording.rounds:
        for client in range(sizes.shape[1]):
            path = report_file(recording.folder / KNOWLEDGE, round, client)
            sizes[round, client] = path.stat().st_size if path.is_file() else 0
    return sizes


def message_sizes(signals: Arrays, seed: int) -> dict[str, Any]:
    """Measure how often the size of a report names its client, and the sizes of a client its most frequent class.

    `client`: a report of the second half of the rounds is said to come from the client whose mean size in the first
    half is nearest; clients without a report there are left out. `main_class`: a client is said to have most records of
    the class that the client with the nearest mean size has most of, among clients that share this class with another
    one. Of equally near ones, each counts in part. The size that a round's reports have in common is subtracted.
    `chance` and `p` are the mean, and the share of draws that reach as much, after the reports of each round, or the
    classes, were exchanged at random.
    """
    rng = make_rng(seed, Purpose.AUDIT, AuditStream.MESSAGE_SIZES)
    return {"level": LEVEL, "client": _clients(signals["sizes"], rng), "main_class": _main_classes(signals, rng)}


def _centred(sizes: Int64) -> Float64:
    """Return sizes minus the median of their round, float64 [rounds, clients]; NaN = no report."""
    known = np.where(sizes > 0, sizes.astype(np.float64), np.nan)
    reported = (sizes > 0).any(1)
    known[reported] -= np.nanmedian(known[reported], axis=1, keepdims=True)
    return known


def _clients(sizes: Int64, rng: np.random.Generator) -> dict[str, Any]:
    half = len(sizes) // 2
    seen = (sizes[:half] > 0).any(0)
    if seen.sum() < 2:
        return {"reason": "it needs two clients, each with reports in two rounds"}
    centred = _centred(sizes[:, seen])
    usual, hits, named, n = np.nanmean(centred[:half], axis=0), 0.0, np.zeros(_DRAWS), 0
    for row in centred[half:]:
        sent = np.flatnonzero(~np.isnan(row))
        credit = _credit(np.abs(row[sent, None] - usual))[:, sent]
        drawn = rng.permuted(np.tile(np.arange(len(sent)), (_DRAWS, 1)), axis=1)
        hits, n = hits + float(np.trace(credit)), n + len(sent)
        named += credit[np.arange(len(sent)), drawn].sum(1)
    return _result(hits, named, n) if n else {"reason": "no client sent a report in the second half of the rounds"}


def _main_classes(signals: Arrays, rng: np.random.Generator) -> dict[str, Any]:
    if "table" not in signals:
        return {"reason": NO_PRIVATE_DATA}
    sizes = _centred(signals["sizes"])
    seen = np.flatnonzero((~np.isnan(sizes)).any(0))
    classes = signals["table"].argmax(1)[seen]
    shared = np.bincount(classes)[classes] > 1
    seen, classes = seen[shared], classes[shared]
    if len(np.unique(classes)) < 2:
        return {"reason": "no two classes are each the most frequent one of two clients"}
    mean = np.nanmean(sizes[:, seen], axis=0)
    distance = np.abs(mean[:, None] - mean)
    np.fill_diagonal(distance, np.inf)
    credit = _credit(distance)
    one, other = np.nonzero(credit)
    weights = credit[one, other]
    drawn = np.array([weights @ (c[one] == c[other]) for c in (rng.permutation(classes) for _ in range(_DRAWS))])
    return _result(float(weights @ (classes[one] == classes[other])), drawn, len(seen))


def _credit(distance: Float64) -> Float64:
    """Return for each row the share of the guess that each column gets: the nearest one all, equal ones in parts."""
    nearest = distance <= distance.min(1, keepdims=True) + 1e-9
    credit: Float64 = nearest / nearest.sum(1, keepdims=True)
    return credit


def _result(hits: float, drawn: Float64, n: int) -> dict[str, Any]:
    return {
        "named": hits / n,
        "chance": float(drawn.mean()) / n,
        "of": n,
        "p": (1 + int((drawn >= hits - 1e-9).sum())) / (1 + _DRAWS),
    }
