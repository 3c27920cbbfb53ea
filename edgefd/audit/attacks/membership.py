"""Level 1: every membership attack on every view, as functions of the signals.

A view is what one adversary gets to see of the candidates. Scores of all clients are pooled: each attack's
scale is the same for all, and members and non-members of a client are as many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefd.audit.measures import attack_scores as attacks
from edgefd.audit.measures.attack_scores import Floats
from edgefd.audit.recording.signal_store import Arrays
from edgefd.core.arrays import Bool, Float64, Int64

PLAIN = {
    "loss": attacks.loss,
    "entropy": attacks.entropy,
    "modified_entropy": attacks.modified_entropy,
    "label_only": attacks.label_only,
}
MODEL_ATTACKS = (*PLAIN, "rmia", "lira", "coop_lira")
FILTER_ATTACKS = ("mask", "weight")

Control = dict[str, tuple[Float64, Bool]]
"""by attack: scores, and who is a member"""


@dataclass(frozen=True, eq=False)
class Scores:
    """Of one attack by one adversary: float64 [n], with client int64 [n] and member bool [n]."""

    attack: str
    adversary: str
    values: Float64
    client: Int64
    member: Bool
    round: int | None = None
    """None: the final model"""


def model_scores(s: Arrays, wanted: tuple[str, ...], adversaries: tuple[str, ...]) -> list[Scores]:
    """The attacks on what the recorded models say; `s` holds candidates, answers and references."""
    out = []
    if "server" in adversaries:
        for t, round in enumerate(s["rounds"].tolist()):
            last = t == len(s["rounds"]) - 1
            own, silent = own_answers(s["sent"][t], s["client"]), own_answers(s["claims"], s["client"]) <= 0
            for name in wanted:
                if name == "rmia" and not last:  # the population is asked once, in the last round
                    continue
                values = _values(name, s, own, s["sent"][t], s["sent_z"])
                if values is not None:
                    values = np.where(silent, values.min() - 1, values)  # no answer says: not one of mine
                    out.append(Scores(name, "server", values, s["client"], s["member"], round))
    if "client" in adversaries:
        for name in wanted:
            everyone = np.broadcast_to(s["aggregate_z"], s["sent_z"].shape)
            values = _values(name, s, s["aggregate"][-1], None, everyone)
            if values is not None:
                out.append(Scores(name, "client", values, s["client"], s["member"], int(s["rounds"][-1])))
    if "holder" in adversaries:
        for name in wanted:
            values = _values(name, s, own_answers(s["final"], s["client"]), None, s["final_z"])
            if values is not None:
                out.append(Scores(name, "holder", values, s["client"], s["member"]))
    return out


def own_answers(by_client: Floats, client: Int64) -> Floats:
    """From [clients, n, ...] what each candidate's own client says, [n, ...]."""
    return by_client[client, np.arange(len(client))]


def _values(name: str, s: Arrays, own: Floats, everybody: Floats | None, z: Floats) -> Float64 | None:
    """One attack's scores; None where it has nothing to go by. `everybody` [clients, n, C], `z` [clients, m, C]."""
    y = s["y"]
    if name in PLAIN:
        return PLAIN[name](own, y)
    if name == "lira":
        return attacks.lira(own, y, s["others"])
    if name == "rmia":
        out = np.zeros(len(y))
        for client in np.unique(s["client"]):
            rows = s["client"] == client
            out[rows] = attacks.rmia(own[rows], y[rows], s["others"][:, rows], z[client], s["y_z"], s["others_z"])
        return out
    if name == "coop_lira" and everybody is not None and len(everybody) > 2:
        return coop_lira(own, y, everybody, s["client"])
    return None


def coop_lira(own: Floats, y: Int64, everybody: Floats, client: Int64) -> Float64:
    """LiRA whose null are the other clients' answers on the same record: no model is trained for it.

    Each client's scores are taken against the others with one spread for all its records (`attacks.lira`).
    """
    out = np.zeros(len(y))
    for c in np.unique(client):
        rows = client == c
        out[rows] = attacks.lira(own[rows], y[rows], np.delete(everybody[:, rows], c, axis=0))
    return out


def filter_scores(s: Arrays, wanted: tuple[str, ...]) -> list[Scores]:
    """Canary pairs: the mask bit, and the weight, of records in and out of the filter's private data.

    Empty where every client answers for everything with one weight: there is nothing to tell by.
    """
    both = np.concatenate([s["inside"], s["outside"]]).astype(np.float64)
    client, member = np.concatenate([s["client"]] * 2), np.arange(len(both)) < len(s["inside"])
    return [
        Scores(name, "server", values, client, member)
        for name, values in (("mask", (both > 0).astype(np.float64)), ("weight", both))
        if name in wanted and np.ptp(values) > 0
    ]


def null_scores(s: Arrays, f: Arrays, wanted: tuple[str, ...]) -> Control:
    """The same attacks where there is nothing to find: a model that saw no candidate, a filter that saw no canary."""
    out = {}
    for name in [n for n in wanted if n in MODEL_ATTACKS]:
        z = np.broadcast_to(s["null_z"], s["sent_z"].shape)
        values = _values(name, s, s["null"], s["sent"][-1], z)
        if values is not None:
            out[name] = (values, s["member"])
    bits = {"mask": (f["null"] > 0).astype(np.float64), "weight": f["null"].astype(np.float64)}
    return out | {name: (bits[name], f["null_member"]) for name in wanted if name in bits}


def positive_scores(s: Arrays, f: Arrays, wanted: tuple[str, ...]) -> Control:
    """The same attacks where there is something: memorised canaries, and shuffled records in the filter.

    For `coop_lira` the null are the reference models, as for `lira`: of the memorising model there is but one.
    """
    y, p, out = s["canary_y"], s["canary"], {}
    for name in [n for n in wanted if n in MODEL_ATTACKS]:
        if name in PLAIN:
            values = PLAIN[name](p, y)
        elif name == "rmia":
            values = attacks.rmia(p, y, s["canary_others"], s["canary_z"], s["y_z"], s["others_z"])
        else:
            values = attacks.lira(p, y, s["canary_others"])
        out[name] = (values, s["canary_member"])
    noise = np.concatenate([f["noise_inside"], f["noise_outside"]]).astype(np.float64)
    member = np.arange(len(noise)) < len(f["noise_inside"])
    bits = {"mask": (noise > 0).astype(np.float64), "weight": noise}
    return out | {name: (bits[name], member) for name in wanted if name in bits}
