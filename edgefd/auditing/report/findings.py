"""From scores to findings: the result of an attack with its intervals, and the verdict on the controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from edgefd.auditing.attacks.membership import Scores
from edgefd.auditing.measures import statistics, true_positive_rate
from edgefd.auditing.measures.permutation_test import exact_p
from edgefd.auditing.recording.candidates import LEAST
from edgefd.core.arrays import Bool, Float64
from edgefd.core.seeding import AuditStream, Purpose, make_rng

DELTA = 1e-5
RATES = {"10%": 0.1, "1%": 0.01, "0.1%": 0.001}
_CURVE_POINTS = 100  # points of an ROC curve that are stored
_BOUNDS = {
    "clopper_pearson": statistics.epsilon_clopper_pearson,
    "one_run": statistics.epsilon_one_run,
    "one_run_fdp": statistics.epsilon_one_run_fdp,
}


def attack_result(scores: Scores, seed: int, claimed: float | None = None, n_clients: int = 0) -> dict[str, Any]:
    """Return all figures of one attack, pooled over clients, and those of each client, worst first.

    `claimed` is the epsilon that the run claims against this adversary, if any. Of `n_clients`, those without scores
    are listed too.
    """
    inside, outside = scores.values[scores.member], scores.values[~scores.member]
    rng = make_rng(seed, Purpose.AUDIT, AuditStream.INTERVALS)
    clients = [_client_row(scores, c) for c in sorted({*range(n_clients), *scores.client.tolist()})]
    return {
        "attack": scores.attack,
        "adversary": scores.adversary,
        "round": scores.round,
        "members": len(inside),
        "non_members": len(outside),
        "paired": scores.paired,
        "auc": asdict(statistics.auc(inside, outside, paired=scores.paired)),
        "tpr": {name: _rate(true_positive_rate.tpr_at(inside, outside, fpr, rng)) for name, fpr in RATES.items()},
        "advantage": statistics.advantage(inside, outside),
        "epsilon": {
            "delta": DELTA,
            "claimed": claimed,
            "largest_possible": statistics.largest_epsilon(len(inside) // 2, len(outside) // 2, DELTA),
            **{name: statistics.epsilon_split(bound, inside, outside, DELTA, rng) for name, bound in _BOUNDS.items()},
        },
        "roc": true_positive_rate.curve(inside, outside, _curve_rates(len(outside)), rng),
        "clients": sorted(clients, key=_worst_first),
    }


def _worst_first(row: Mapping[str, Any]) -> tuple[bool, float]:
    """Return the key that sorts clients by the lower end of their AUC's interval, because few records prove little."""
    return row["auc"] is None, -row["auc"]["low"] if row["auc"] else 0.0


def _client_row(scores: Scores, client: int) -> dict[str, Any]:
    of_client = scores.client == client
    inside, outside = scores.values[of_client & scores.member], scores.values[of_client & ~scores.member]
    row: dict[str, Any] = {"client": client, "members": len(inside), "non_members": len(outside), "auc": None}
    if not min(len(inside), len(outside)):
        return row | {"reason": "it has no members, or no non-members, that could be compared"}
    row["auc"] = asdict(statistics.auc(inside, outside, paired=scores.paired))
    if min(len(inside), len(outside)) >= LEAST:
        return row
    best = np.zeros(len(inside)) + 1, np.zeros(len(outside))
    return row | {"p": exact_p(inside, outside, scores.paired), "least_p": exact_p(*best, scores.paired)}


def _rate(rate: true_positive_rate.Rate) -> dict[str, Any]:
    return {name: value for name, value in asdict(rate).items() if name != "reason" or value}


def _curve_rates(n: int) -> Float64:
    """Return the false-positive rates of the stored ROC curve, evenly in their logarithm: low rates matter most."""
    return np.geomspace(min(1e-3, 1 / (n + 1)), 1, _CURVE_POINTS)


def controls(
    null: Mapping[str, tuple[Float64, Bool]], positive: Mapping[str, tuple[Float64, Bool]]
) -> tuple[dict[str, Any], list[str]]:
    """Evaluate both controls of each attack; return their AUCs, and a message for each control that failed.

    Null: the interval must cover 0.5. All null controls together are to fail by chance in 5 of 100 audits, so each
    interval is at 1 - 0.05 / number of attacks. Positive: the 95 % interval must be above 0.5.
    """
    failed = []
    areas: dict[str, Any] = {"null": {}, "positive": {}, "null_significance": 0.05 / max(1, len(null))}
    for name, (values, member) in null.items():
        area = statistics.auc(values[member], values[~member], areas["null_significance"])
        areas["null"][name] = asdict(area)
        if not area.low <= 0.5 <= area.high:
            failed.append(f"null control: {name} finds members where there are none (AUC {area.value:.3f})")
    for name, (values, member) in positive.items():
        area = statistics.auc(values[member], values[~member])
        areas["positive"][name] = asdict(area)
        if not area.low > 0.5:
            failed.append(f"positive control: {name} does not find what was planted (AUC {area.value:.3f})")
    return areas, failed
