"""Measure how often `edgefd audit` says that an adversary distinguishes members although it cannot.

    edgefd audit RUN && python simulations/audit_null.py RUN > null.md

The scores of the audit are kept, and memberships are drawn again: within each client, and for canary pairs by exchange.
Then nothing tells a member. The Markdown table shows for each adversary the share of the draws with the sentence
"distinguishes members from non-members", and beside it the share in which the attack with the largest AUC has a 95 %
interval above 0.5, which was the rule before. All draws are of the same scores, so that one distribution of the largest
statistic gives the p of all of them. The exit code is 1 if a share of the sentence is above 2.5 %. It takes about two
minutes on one core for the quickstart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgefd.auditing.attacks.membership import FILTER_ATTACKS, Scores
from edgefd.auditing.measures.permutation_test import drawn_again, largest_without_a_leak
from edgefd.auditing.measures.statistics import Interval, auc
from edgefd.auditing.report.evidence import LEVEL, same_records, score_table
from edgefd.core.arrays import Bool

_REFERENCE = 9999


def stored_scores(folder: Path) -> list[Scores]:
    """Return the scores of an audit from RUN/audit/scores.npz."""
    stored = np.load(folder / "audit" / "scores.npz")
    names = [name.split("/") for name in stored.files if name.endswith("/member")]
    return [
        Scores(
            attack,
            adversary,
            stored[f"{adversary}/{when}/{attack}"],
            stored[f"{adversary}/{when}/{attack}/client"],
            stored[f"{adversary}/{when}/{attack}/member"],
            None if when == "final" else int(when),
            paired=attack in FILTER_ATTACKS,
        )
        for adversary, when, attack, _ in names
    ]


def false_shares(scores: Sequence[Scores], draws: int) -> tuple[float, float]:
    """Return the share of draws with the sentence, and the share in which the largest AUC is above 0.5."""
    groups = same_records(scores)
    tables = [score_table(group) for group in groups]
    reference = np.sort(largest_without_a_leak(tables, np.random.default_rng(0), _REFERENCE))
    largest = largest_without_a_leak(tables, np.random.default_rng(1), draws)
    p = (1 + _REFERENCE - np.searchsorted(reference, largest - 1e-9)) / (1 + _REFERENCE)
    rng, before = np.random.default_rng(2), 0
    for _ in range(draws):
        areas = [
            auc_without_a_leak(attack, member)
            for group, table in zip(groups, tables, strict=True)
            for member in drawn_again(table, rng, 1)
            for attack in group
        ]
        before += max(areas, key=lambda area: area.value).low > 0.5
    return float((p <= LEVEL).mean()), before / draws


def auc_without_a_leak(attack: Scores, member: Bool) -> Interval:
    """Return the AUC of an attack for other memberships."""
    return auc(attack.values[member], attack.values[~member], paired=attack.paired)


def main() -> int:
    """Print the table; return 1 if a sentence is false too often."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    scores = stored_scores(options.run)
    print("| adversary | attacks | false sentences | largest AUC alone |\n| --- | --- | --- | --- |")
    highest = 0.0
    for adversary in sorted({attack.adversary for attack in scores}):
        of_adversary = [attack for attack in scores if attack.adversary == adversary]
        said, before = false_shares(of_adversary, options.draws)
        highest = max(highest, said)
        print(f"| {adversary} | {len(of_adversary)} | {said:.1%} | {before:.1%} |", flush=True)
    return int(highest > 0.025)


if __name__ == "__main__":
    sys.exit(main())
