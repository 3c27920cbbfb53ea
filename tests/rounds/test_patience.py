"""Early stopping on the mean held-out accuracy, in the loop that all transports share."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

import edgefd
from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.changes import Exchanged
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import BestRound
from edgefd.federation.report import Exchange, Report
from edgefd.methods import get_method
from edgefd.rounds.loop import run_rounds
from tests.support.linear_clients import new_server
from tests.support.small_configs import SMALL

ACCURACIES = [[0.2, 0.4], [0.5, 0.3], [0.5, 0.3], [0.3, 0.3], [0.6, 0.6], [0.1, 0.1], [0.2, 0.2]]
"""held-out accuracies of two clients by round: their means are 0.3, 0.4, 0.4, 0.3, 0.6, 0.1, 0.2"""


class Measured:
    """A transport whose clients report given held-out accuracies in the rounds that are evaluated."""

    def exchange(
        self, plan: RoundPlan, sampled: Sequence[int], teacher: Knowledge | None, exchanged: Exchanged
    ) -> Exchange:
        evaluated = plan.evaluate or plan.closing
        values = ACCURACIES[plan.round] if evaluated else [None, None]
        metrics = [{} if v is None else {"heldout_accuracy": v} for v in values]
        reports = [Report(c, plan.round, empty(new_server(FEDMD).terms.n_classes), m) for c, m in enumerate(metrics)]
        return Exchange(reports[::-1], 0, 0)


FEDMD = get_method("fedmd")


@pytest.mark.parametrize(
    ("patience", "every", "closing", "best"),
    [
        (None, 1, 6, BestRound(4, 0.6, 2)),
        (1, 1, 3, BestRound(1, 0.4, 2)),  # an equal accuracy is no gain
        (2, 1, 4, BestRound(4, 0.6)),
        (3, 1, 6, BestRound(4, 0.6, 2)),
        (1, 2, 6, BestRound(4, 0.6, 1)),  # evaluated: 0.3, 0.4, 0.6, and the closing round
        (1, 3, 4, BestRound(4, 0.6)),  # evaluated: 0.3 and 0.3
    ],
)
def test_the_closing_round_follows_when_patience_ends(
    patience: int | None, every: int, closing: int, best: BestRound
) -> None:
    server = new_server(FEDMD)
    training = dataclasses.replace(server.terms.training, rounds=6)
    server = dataclasses.replace(
        server, terms=dataclasses.replace(server.terms, training=training), patience=patience, evaluate_every=every
    )
    results = list(run_rounds(server, Measured()))
    assert [r.plan.closing for r in results] == [False] * closing + [True]
    assert results[-1].progress.closed
    assert results[-1].progress.best == best


def test_a_simulation_says_why_it_stopped(tmp_path: Path) -> None:
    patient = {"train.rounds": 12, "run.patience": 1, "train.lr": 1e-6}  # it learns nothing
    run = edgefd.simulate(SMALL, patient, out=tmp_path / "run")
    assert run.summary["rounds"] == len(run.rounds) - 1 < 12
    heldout = run.rounds[0].heldout_accuracy_mean
    assert heldout is not None
    assert run.summary["stopped_early"].startswith(f"stopped after {run.summary['rounds']} of 12 rounds: 1 evaluations")
    whole = edgefd.simulate(SMALL, {"train.rounds": 2, "run.patience": 5}, out=tmp_path / "whole")
    assert whole.summary["stopped_early"] is None
    assert whole.summary["complete"]
