"""Level 1: every membership attack of every adversary, as functions of the signals.

Scores of all clients are pooled: the scale of an attack is the same for all clients, and each client has as many
members as non-members.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefd.auditing.measures import membership_formulas as formulas
from edgefd.auditing.measures.membership_formulas import Floats, Outputs
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Bool, Float64, Int64

PLAIN = {
    "loss": formulas.loss,
    "entropy": formulas.entropy,
    "modified_entropy": formulas.modified_entropy,
    "label_only": formulas.label_only,
}
"""attacks that need nothing but the target's probabilities"""
MODEL_ATTACKS = (*PLAIN, "rmia", "lira", "coop_lira")
FILTER_ATTACKS = ("mask", "weight")

Control = dict[str, tuple[Float64, Bool]]
"""by attack: the scores, and which records are members"""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one attack by one adversary: float64 [n], with client int64 [n] and member bool [n]."""

    attack: str
    adversary: str
    values: Float64
    client: Int64
    member: Bool
    round: int | None = None
    """round of the attacked model; None = the final model"""
    paired: bool = False
    """whether records i and i + n / 2 are one canary, as a member and as a non-member"""


def model_scores(signals: Arrays, names: tuple[str, ...], adversaries: tuple[str, ...]) -> list[Scores]:
    """Score candidates by the outputs of the recorded models; `signals` holds candidates, outputs and references."""
    scores = []
    if "server" in adversaries:
        scores += server_scores(signals, names)
    client, last = signals["client"], int(signals["rounds"][-1])
    z_of_aggregate = np.broadcast_to(signals["aggregate_z"], signals["sent_z"].shape)
    targets = {
        "client": (signals["aggregate"][-1], z_of_aggregate, last),
        "holder": (outputs_of_client(signals["final"], client), signals["final_z"], None),
    }
    for adversary, (target, z, round) in targets.items():
        for name in names if adversary in adversaries else ():
            values = _values(name, signals, target, None, z)
            if values is not None:
                scores.append(Scores(name, adversary, values, client, signals["member"], round))
    return scores


def server_scores(signals: Arrays, names: tuple[str, ...]) -> list[Scores]:
    """Score candidates in each recorded round; a record that the filter rejects scores below all others."""
    client, scores = signals["client"], []
    rejected = outputs_of_client(signals["claims"], client) <= 0
    for t, round in enumerate(signals["rounds"].tolist()):
        last = t == len(signals["rounds"]) - 1
        target = outputs_of_client(signals["sent"][t], client)
        for name in names:
            if name == "rmia" and not last:  # the population is queried once, in the last round
                continue
            values = _values(name, signals, target, signals["sent"][t], signals["sent_z"])
            if values is not None:
                values = np.where(rejected, values.min() - 1, values)
                scores.append(Scores(name, "server", values, client, signals["member"], round))
    return scores


def outputs_of_client(by_client: Floats, client: Int64) -> Floats:
    """Select from [clients, n, ...] the output of each candidate's client, [n, ...]."""
    return by_client[client, np.arange(len(client))]


def _values(name: str, signals: Arrays, target: Floats, all_clients: Floats | None, z: Floats) -> Float64 | None:
    """Return the scores of one attack, or None where it lacks an input.

    `all_clients` [clients, n, C] and `z` [clients, m, C] are outputs on the candidates and on the population.
    """
    y = signals["y"]
    if name in PLAIN:
        return PLAIN[name](target, y)
    if name == "lira":
        return formulas.lira(target, y, signals["others"])
    if name == "rmia":
        values = np.zeros(len(y))
        for client in np.unique(signals["client"]):
            rows = signals["client"] == client
            records = Outputs(target[rows], y[rows], signals["others"][:, rows])
            values[rows] = formulas.rmia(records, Outputs(z[client], signals["y_z"], signals["others_z"]))
        return values
    if name == "coop_lira" and all_clients is not None and len(all_clients) > 2:
        return coop_lira(target, y, all_clients, signals["client"])
    return None


def coop_lira(target: Floats, y: Int64, all_clients: Floats, client: Int64) -> Float64:
    """Return LiRA scores whose null distribution is the other clients' outputs on a record: no model is trained for it.

    Each client's scores are taken against the others with one standard deviation for all its records (`formulas.lira`).
    """
    values = np.zeros(len(y))
    for c in np.unique(client):
        rows = client == c
        values[rows] = formulas.lira(target[rows], y[rows], np.delete(all_clients[:, rows], c, axis=0))
    return values


def filter_scores(filters: Arrays, names: tuple[str, ...]) -> list[Scores]:
    """Score canary pairs by mask and weight: the same records inside and outside of the filter's private data.

    Empty where every client accepts every record with one weight, because nothing then separates the two.
    """
    weights = np.concatenate([filters["inside"], filters["outside"]])
    client, member = np.concatenate([filters["client"]] * 2), np.arange(len(weights)) < len(filters["inside"])
    return [
        Scores(name, "server", values, client, member, paired=True)
        for name, values in _by_filter_attack(weights).items()
        if name in names and np.ptp(values) > 0
    ]


def _by_filter_attack(weights: Floats) -> dict[str, Float64]:
    return {"mask": (weights > 0).astype(np.float64), "weight": weights.astype(np.float64)}


def null_scores(signals: Arrays, filters: Arrays, names: tuple[str, ...]) -> Control:
    """Score the null control: the same attacks on a model that saw no candidate, and a filter that saw no canary."""
    control = {}
    for name in [n for n in names if n in MODEL_ATTACKS]:
        z = np.broadcast_to(signals["null_z"], signals["sent_z"].shape)
        values = _values(name, signals, signals["null"], signals["sent"][-1], z)
        if values is not None:
            control[name] = (values, signals["member"])
    by_attack = _by_filter_attack(filters["null"])
    return control | {name: (by_attack[name], filters["null_member"]) for name in names if name in by_attack}


def positive_scores(signals: Arrays, filters: Arrays, names: tuple[str, ...]) -> Control:
    """Score the positive control: the same attacks on memorised canaries, and on shuffled records in the filter.

    For `coop_lira`, the reference models are the null distribution, as for `lira`: there is only one memorising model.
    """
    y, p, control = signals["canary_y"], signals["canary"], {}
    for name in [n for n in names if n in MODEL_ATTACKS]:
        if name in PLAIN:
            values = PLAIN[name](p, y)
        elif name == "rmia":
            z = Outputs(signals["canary_z"], signals["y_z"], signals["others_z"])
            values = formulas.rmia(Outputs(p, y, signals["canary_others"]), z)
        else:
            values = formulas.lira(p, y, signals["canary_others"])
        control[name] = (values, signals["canary_member"])
    noise = np.concatenate([filters["noise_inside"], filters["noise_outside"]])
    member = np.arange(len(noise)) < len(filters["noise_inside"])
    by_attack = _by_filter_attack(noise)
    return control | {name: (by_attack[name], member) for name in names if name in by_attack}
