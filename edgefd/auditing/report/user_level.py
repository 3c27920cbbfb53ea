"""Membership of a person instead of a record: the mean score of several records that are all members, or all not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from edgefd.auditing.attacks.membership import Scores
from edgefd.auditing.measures import statistics
from edgefd.auditing.recording.candidates import LEAST
from edgefd.auditing.report.verdict import PLANTED
from edgefd.core.arrays import Float64, Int64

RECORDS = (5, 20)
"""records of a person whose scores are averaged"""


def user_level(scores: Sequence[Scores], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the AUC of the mean score of 5 and of 20 records, for the best attack of each adversary.

    The best attack has the AUC on single records that is farthest from 0.5. Within each client, members are divided at
    random into groups, and non-members likewise; records left over are not used. Canary pairs are left out, because
    one record is on both sides.
    """
    rows = []
    for adversary in dict.fromkeys(attack.adversary for attack in scores):
        single = [s for s in scores if s.adversary == adversary and not s.paired and s.attack != PLANTED]
        areas = [statistics.auc(s.values[s.member], s.values[~s.member]) for s in single]
        if not areas:
            continue
        best = max(range(len(areas)), key=lambda i: abs(areas[i].value - 0.5))
        attack = single[best]
        rows += [_row(attack, records, rng) | {"auc_of_records": asdict(areas[best])} for records in RECORDS]
    return rows


def _row(attack: Scores, records: int, rng: np.random.Generator) -> dict[str, Any]:
    inside, outside = (
        group_means(attack.values[side], attack.client[side], records, rng) for side in (attack.member, ~attack.member)
    )
    row = {"adversary": attack.adversary, "attack": attack.attack, "round": attack.round, "records": records}
    row |= {"member_groups": len(inside), "non_member_groups": len(outside), "auc": None}
    if min(len(inside), len(outside)) < LEAST:
        return row | {"reason": f"{min(len(inside), len(outside))} groups of {records} records, {LEAST} are needed"}
    return row | {"auc": asdict(statistics.auc(inside, outside))}


def group_means(values: Float64, client: Int64, records: int, rng: np.random.Generator) -> Float64:
    """Return the mean of each group of so many values of one client, float64 [groups]; the groups are disjoint.

    >>> values, client = np.array([1.0, 3.0, 5.0, 10.0, 20.0]), np.array([0, 0, 0, 1, 1])
    >>> group_means(values, client, 2, np.random.default_rng(0)).tolist()[1]
    15.0
    """
    means = []
    for c in np.unique(client):
        mixed = rng.permutation(values[client == c])
        groups = len(mixed) // records
        means.append(mixed[: groups * records].reshape(groups, records).mean(1))
    return np.concatenate(means) if means else np.empty(0)
