"""Compare aggregators on the same poisoned soft labels: the teacher's accuracy on proxy rows after four rounds.

Run: python simulations/poisoned_teacher.py
Needs mnist. `without` leaves the attackers out, which is the best possible result. All rounds before the last use the
teacher of `distance`. The other aggregators are therefore judged by one round, and not by the teachers that they would
have produced in the earlier rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from edgefd.config.load import load_config
from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.poisoning.robust_aggregation import distance, geometric_median, median, one_vote, trimmed_mean
from edgefd.rounds.loop import run_rounds
from edgefd.runs.execute import make_server
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import open_transport

ATTACKERS = (0, 5)
AGGREGATORS: dict[str, Callable[[Sequence[Knowledge]], Knowledge]] = {
    "mean": weighted_mean,
    "median": median,
    "mean, one_vote": lambda uploads: weighted_mean(one_vote(uploads)),
    "median, one_vote": lambda uploads: median(one_vote(uploads)),
    "trimmed_mean, one_vote": lambda uploads: trimmed_mean(one_vote(uploads)),
    "geometric_median, one_vote": lambda uploads: geometric_median(one_vote(uploads)),
    "distance, one_vote": lambda uploads: distance(one_vote(uploads)),
    "without": lambda uploads: weighted_mean(u for i, u in enumerate(uploads) if i not in ATTACKERS),
}
SETTINGS = ["data.limit=10000", "train.rounds=4", "run.evaluate_every=9", "aggregator={name: distance, one_vote: true}"]


def last_uploads(attack: str) -> tuple[list[Knowledge], Callable[[Knowledge], float]]:
    """Return the uploads of the last round, and a function that measures the accuracy of a teacher."""
    base = Path(__file__).parent / "weak_non_iid.yaml"
    config = load_config(base, [*SETTINGS, f"attack={{name: {attack}, clients: {list(ATTACKERS)}}}"])
    federation = prepare(config).federation
    labels = federation.proxy_labels
    assert labels is not None
    transport = open_transport(config, federation)
    with closing(transport.pool):
        transport.start()
        *_, last = islice(run_rounds(make_server(config, federation), transport), config.train.rounds)
    uploads = [r.knowledge for r in sorted(last.exchange.reports, key=lambda r: r.client)]
    return uploads, lambda teacher: float((teacher.values.argmax(1) == labels[teacher.ids]).mean())


def main() -> None:
    """Print a Markdown table with a row for each aggregator and a column for each attack."""
    attacks = ("label_flip", "random", "constant", "colluding")
    uploads = {attack: last_uploads(attack) for attack in attacks}
    print(f"| aggregator | {' | '.join(attacks)} |\n|{' --- |' * 5}")
    for name, aggregate in AGGREGATORS.items():
        print(f"| {name} | {' | '.join(f'{accuracy(aggregate(sent)):.3f}' for sent, accuracy in uploads.values())} |")


if __name__ == "__main__":
    main()
