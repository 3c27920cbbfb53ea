"""A malicious server puts target records among the proxy samples, a few at a time, and reads what the filter says.

The controls are the client's held-out records. They set the filter's threshold and no centroid, so what tells the two
apart is that the filter was fitted on the members. Records are inserted a few at a time because a filter with
`reference=proxy` looks at all proxy samples: too many targets at once would hide each other.
"""

from __future__ import annotations

import numpy as np

from edgefd.audit.attacks.membership import Control, Scores, own_answers
from edgefd.audit.attacks.model_outputs import claims_on
from edgefd.audit.measures import attack_scores as attacks
from edgefd.audit.measures.attack_scores import Floats
from edgefd.audit.recording.candidates import Candidates
from edgefd.audit.recording.read import Recording
from edgefd.audit.recording.signal_store import Arrays
from edgefd.core.arrays import Float64, Int64
from edgefd.core.seeding import AuditStream, Purpose, make_rng

ATTACKS = ("inserted_weight", "insertion")
_SHARE = 0.05  # inserted records to proxy samples, at most


def insertion_signals(recording: Recording, candidates: Candidates) -> Arrays:
    """How surely filters answer for the inserted candidates.

    Returns:
        `inserted` float32 [n]: each candidate's own client; `inserted_null` float32 [n]: the next client, whose filter
        was fitted on none of them.
    """
    clients = recording.federation.clients
    out = {name: np.zeros(len(candidates.y), np.float32) for name in ("inserted", "inserted_null")}
    for data in clients:
        other = clients[(data.client + 1) % len(clients)]
        for rows in _groups(recording, np.flatnonzero(candidates.client == data.client), data.client):
            for name, asked in (("inserted", data), ("inserted_null", other)):
                out[name][rows] = claims_on(recording.config, recording.federation, asked, candidates.x[rows])
    return out


def _groups(recording: Recording, rows: Int64, client: int) -> list[Int64]:
    """The client's candidates, members and controls mixed, as many at a time as are inserted."""
    size = max(1, int(_SHARE * len(recording.federation.proxy)))
    order = make_rng(recording.config.seed, Purpose.AUDIT, AuditStream.INSERTION_GROUPS, client).permutation(rows)
    return np.array_split(order, -(-len(order) // size))


def insertion_scores(s: Arrays, wanted: tuple[str, ...]) -> list[Scores]:
    """Target records among the proxy samples: the filter's answer alone, and together with the last round's soft label.

    Empty where every record is answered for with one weight: then it is what `loss` measures.
    """
    if np.ptp(s["inserted"]) == 0:
        return []
    p = attacks.of_label(own_answers(s["sent"][-1], s["client"]), s["y"])
    found = _insertion(s["inserted"], p)
    last = {"inserted_weight": None, "insertion": int(s["rounds"][-1])}
    return [Scores(n, "server", found[n], s["client"], s["member"], last[n]) for n in ATTACKS if n in wanted]


def _insertion(weight: Floats, p_label: Float64) -> dict[str, Float64]:
    """By attack; where the filter gives no answer, the score is below everything."""
    weight = weight.astype(np.float64)
    product = np.log(np.where(weight > 0, weight, 1)) + np.log(p_label)
    return {"inserted_weight": weight, "insertion": np.where(weight > 0, product, product.min() - 1)}


def insertion_controls(s: Arrays, f: Arrays, tested: tuple[str, ...]) -> tuple[Control, Control]:
    """Null: the next client's filter, and a model that saw no candidate. Positive: as for `weight`, and for `loss`."""
    null = _insertion(s["inserted_null"], attacks.of_label(s["null"], s["y"]))
    noise = np.concatenate([f["noise_inside"], f["noise_outside"]])
    member = np.arange(len(noise)) < len(f["noise_inside"])
    sure = np.ones(len(s["canary_y"]))
    positive = {
        "inserted_weight": (noise.astype(np.float64), member),
        "insertion": (_insertion(sure, attacks.of_label(s["canary"], s["canary_y"]))["insertion"], s["canary_member"]),
    }
    return {name: (null[name], s["member"]) for name in tested}, {name: positive[name] for name in tested}
