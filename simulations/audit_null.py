"""Measure how often `edgefd audit` says that an adversary distinguishes members although it cannot.

    edgefd audit RUN && python simulations/audit_null.py RUN > null.md

The scores of the audit are kept, and memberships are drawn again: within each client, and for canary pairs by exchange.
Then nothing tells a member. For each draw and adversary, the verdict is made as the audit makes it. The Markdown table
shows the share of the draws with the sentence "distinguishes members from non-members", and beside it the share in
which the largest AUC of all attacks has a 95 % interval above 0.5, which was the rule before. The exit code is 1 if a
share of the sentence is above 2.5 %. It takes about ten minutes on one core for the quickstart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgefd.auditing.attacks.membership import FILTER_ATTACKS, Scores
from edgefd.auditing.measures.permutation_test import ScoreTable, drawn_again
from edgefd.auditing.measures.statistics import auc
from edgefd.auditing.report.evidence import LEVEL, evidence


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


def drawn(scores: Sequence[Scores], rng: np.random.Generator) -> list[Scores]:
    """Return the scores with memberships that were drawn again, the same ones for attacks on the same records."""
    members: dict[bytes, np.ndarray] = {}
    for attack in scores:
        key = attack.client.tobytes() + attack.member.tobytes()
        if key not in members:
            table = ScoreTable(attack.values[:, None], attack.client, attack.member, attack.paired)
            members[key] = drawn_again(table, rng, 1)[0]
    return [replace(a, member=members[a.client.tobytes() + a.member.tobytes()]) for a in scores]


def by_largest_auc(scores: Sequence[Scores]) -> bool:
    """Tell whether the interval of the largest AUC is above 0.5."""
    areas = [auc(a.values[a.member], a.values[~a.member], paired=a.paired) for a in scores]
    return max(areas, key=lambda area: area.value).low > 0.5


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
        said = before = 0
        for i in range(options.draws):
            again = drawn(of_adversary, np.random.default_rng([0, i]))
            found = evidence(again, np.random.default_rng([1, i]))
            said += found is not None and found["leak"]
            before += by_largest_auc(again)
        highest = max(highest, said / options.draws)
        shares = f"{said / options.draws:.1%} | {before / options.draws:.1%}"
        print(f"| {adversary} | {len(of_adversary)} | {shares} |", flush=True)
    return int(highest > LEVEL)


if __name__ == "__main__":
    sys.exit(main())
