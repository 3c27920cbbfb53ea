"""Insertion attack: a malicious server puts target records among the proxy samples and reads the filter's weights.

The controls are the client's held-out records. They set the threshold of the filter but no centroid, so what separates
the two is that the filter was fitted on the members. Only a few records are inserted at a time, because a filter with
`reference=proxy` uses all proxy samples: too many targets at once would hide each other.
"""

from __future__ import annotations

import numpy as np

from edgefd.auditing.attacks.membership import Control, Scores, outputs_of_client
from edgefd.auditing.attacks.model_outputs import acceptance_of
from edgefd.auditing.measures import membership_formulas as formulas
from edgefd.auditing.measures.membership_formulas import Floats
from edgefd.auditing.recording.candidates import Candidates
from edgefd.auditing.recording.read import Recording
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Float64
from edgefd.core.seeding import AuditStream, Purpose, make_rng

ATTACKS = ("inserted_weight", "insertion")
_SHARE = 0.05  # largest ratio of inserted records to proxy samples


def insertion_signals(recording: Recording, candidates: Candidates) -> Arrays:
    """Return the filters' acceptance weights of the inserted candidates.

    Returns:
        `inserted` float32 [n]: of each candidate's client; `inserted_null` float32 [n]: of the next client, whose
        filter was fitted on none of them.
    """
    clients = recording.federation.clients
    weights = {name: np.zeros(len(candidates.y), np.float32) for name in ("inserted", "inserted_null")}
    size = max(1, int(_SHARE * len(recording.federation.proxy)))  # of a group that is inserted together
    for data in clients:
        other = clients[(data.client + 1) % len(clients)]
        rng = make_rng(recording.config.seed, Purpose.AUDIT, AuditStream.INSERTION_GROUPS, data.client)
        mixed = rng.permutation(np.flatnonzero(candidates.client == data.client))  # members and controls
        for rows in np.array_split(mixed, -(-len(mixed) // size)) if len(mixed) else ():
            for name, queried in (("inserted", data), ("inserted_null", other)):
                weights[name][rows] = acceptance_of(recording.config, recording.federation, queried, candidates.x[rows])
    return weights


def insertion_scores(signals: Arrays, names: tuple[str, ...]) -> list[Scores]:
    """Score inserted records by the filter's weight alone, and by its product with the last round's soft label.

    Empty where every record is accepted with one weight: the score would then equal that of `loss`.
    """
    if np.ptp(signals["inserted"]) == 0:
        return []
    client, member = signals["client"], signals["member"]
    p = formulas.of_label(outputs_of_client(signals["sent"][-1], client), signals["y"])
    values = _values(signals["inserted"], p)
    rounds = {"inserted_weight": None, "insertion": int(signals["rounds"][-1])}
    return [Scores(name, "server", values[name], client, member, rounds[name]) for name in ATTACKS if name in names]


def _values(weight: Floats, p_label: Float64) -> dict[str, Float64]:
    """Return the scores by attack; where the filter rejects a record, its score is below all others."""
    weight = weight.astype(np.float64)
    product = np.log(np.where(weight > 0, weight, 1)) + np.log(p_label)
    return {"inserted_weight": weight, "insertion": np.where(weight > 0, product, product.min() - 1)}


def insertion_controls(signals: Arrays, filters: Arrays, tested: tuple[str, ...]) -> tuple[Control, Control]:
    """Return both controls of the tested attacks.

    Null: the next client's filter, and a model that saw no candidate. Positive: as for `weight`, and for `loss`.
    """
    null = _values(signals["inserted_null"], formulas.of_label(signals["null"], signals["y"]))
    noise = np.concatenate([filters["noise_inside"], filters["noise_outside"]])
    member = np.arange(len(noise)) < len(filters["noise_inside"])
    accepted = np.ones(len(signals["canary_y"]))
    memorised = _values(accepted, formulas.of_label(signals["canary"], signals["canary_y"]))["insertion"]
    positive = {
        "inserted_weight": (noise.astype(np.float64), member),
        "insertion": (memorised, signals["canary_member"]),
    }
    return {name: (null[name], signals["member"]) for name in tested}, {name: positive[name] for name in tested}
