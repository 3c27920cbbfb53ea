"""The evidence against an adversary: one permutation test of all its membership attacks, and claims of epsilon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgefd.auditing.attacks.membership import Scores
from edgefd.auditing.measures import statistics
from edgefd.auditing.measures.permutation_test import ScoreTable, Statistic, permutation_test
from edgefd.auditing.report.findings import DELTA
from edgefd.auditing.report.verdict import PLANTED

LEVEL = 0.015
"""largest probability that an adversary without a leak is said to tell members (see `simulations/audit_null.py`)"""
_SHOWN = 10  # findings of an adversary that are stored


def evidence(scores: Sequence[Scores], rng: np.random.Generator) -> dict[str, Any] | None:
    """Test whether one adversary's attacks tell members of ordinary records; None if it has no such attack.

    Returns:
        `attacks`, `statistics`: how many were tested together; `p`: the smallest adjusted p; `leak`: p <= `level`;
        `epsilon`: the largest lower bound of k attacks, each at 1 - 0.05 / k, so that the largest one holds at 95 %;
        `found`: the most significant findings below the level; `worst_client`: the finding of the client with the most
        significant one, even if its p is above the level; None with one client.
    """
    groups = same_records(scores)
    statistics = permutation_test([score_table(group) for group in groups], rng)
    if not statistics:
        return None
    attacks = [attack for group in groups for attack in group]
    rows = [_row(groups[s.table][s.attack], s) for s in statistics]
    of_clients = [row for row in rows if row["client"] is not None]
    return {
        "attacks": len(attacks),
        "statistics": len(rows),
        "level": LEVEL,
        "p": rows[0]["p"],
        "leak": rows[0]["p"] <= LEVEL,
        "epsilon": max(_bound(attack, DELTA, 0.05 / len(attacks), rng) for attack in attacks),
        "found": [row for row in rows if row["p"] <= LEVEL][:_SHOWN],
        "worst_client": of_clients[0] if of_clients else None,
    }


def same_records(scores: Sequence[Scores]) -> list[list[Scores]]:
    """Group the attacks that score the same ordinary records."""
    groups: dict[tuple[bytes, bytes, bool], list[Scores]] = {}
    for attack in [attack for attack in scores if attack.attack != PLANTED]:
        groups.setdefault((attack.client.tobytes(), attack.member.tobytes(), attack.paired), []).append(attack)
    return list(groups.values())


def score_table(group: Sequence[Scores]) -> ScoreTable:
    """Return the scores of several attacks on the same records."""
    values = np.stack([attack.values for attack in group], axis=1).astype(np.float64)
    return ScoreTable(values, group[0].client, group[0].member, group[0].paired)


def _row(attack: Scores, found: Statistic) -> dict[str, Any]:
    chosen = slice(None) if found.client is None else attack.client == found.client
    values, member = attack.values[chosen], attack.member[chosen]
    row: dict[str, Any] = {"attack": attack.attack, "round": attack.round, "client": found.client, "kind": found.kind}
    row |= {"size": found.size, "members": found.members, "p": found.p}
    if found.kind == "auc":
        row["auc"] = vars(statistics.auc(values[member], values[~member], paired=attack.paired))
    return row


def refuted_claims(
    scores: Sequence[Scores], claims: Mapping[str, tuple[float, float]], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Compare the claimed epsilon against each adversary with the largest lower bound of its attacks.

    Each of k bounds holds at 1 - 0.05 / k, so the largest of them holds at 95 %. They are one-run bounds, for the delta
    of the claim.

    Args:
        scores: of all attacks, also of planted canaries.
        claims: by adversary, the claimed epsilon and delta.
        rng: divides the scores into halves, see `statistics.epsilon_split`.
    """
    results = []
    for adversary, (epsilon, delta) in claims.items():
        attacks = [attack for attack in scores if attack.adversary == adversary]
        if not attacks:
            continue
        significance = 0.05 / len(attacks)
        bounds = [_bound(attack, delta, significance, rng) for attack in attacks]
        best = int(np.argmax(bounds))
        results.append(
            {
                "adversary": adversary,
                "claimed": epsilon,
                "delta": delta,
                "measured": bounds[best],
                "attack": attacks[best].attack,
                "round": attacks[best].round,
                "attacks": len(attacks),
                "significance": significance,
                "refuted": bounds[best] > epsilon,
            }
        )
    return results


def _bound(attack: Scores, delta: float, significance: float, rng: np.random.Generator) -> float:
    inside, outside = attack.values[attack.member], attack.values[~attack.member]
    return statistics.epsilon_split(statistics.epsilon_one_run, inside, outside, delta, rng, significance)
