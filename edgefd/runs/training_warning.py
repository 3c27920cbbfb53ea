"""The warning that the clients of a run have hardly trained, so that its accuracies say nothing about its method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from edgefd.config.schema import Config
from edgefd.runs.facts import RunFacts
from edgefd.runs.round_metrics import RoundMetrics

FEWEST_STEPS = 100
"""with fewer training steps than this in a whole run, even a simple model is not trained"""
NEAR_GUESSING = 0.9
"""share of ln C, the loss of guessing among C classes, above which a loss says that hardly anything was learned"""


def last_loss(rounds: Sequence[RoundMetrics]) -> float | None:
    """Return the clients' mean training loss in the last round: on batches of private data, or else in distillation."""
    private = [m.train_loss for m in rounds if not m.closing][-1:]
    distilled = [m.distil_loss for m in rounds if m.distil_loss is not None][-1:]
    return next((loss for loss in (*private, *distilled) if loss is not None), None)


def training_warning(config: Config, facts: RunFacts, rounds: Sequence[RoundMetrics]) -> str | None:
    """Return a sentence if the clients of a completed run have hardly trained; None if they have."""
    steps = most_steps(config, facts)
    if steps is not None and steps < FEWEST_STEPS:
        return (
            f"the clients hardly trained: at most {steps} steps each in the whole run; set train.local_epochs, "
            "a larger train.distill_epochs or more train.rounds"
        )
    loss, guessing = last_loss(rounds), math.log(n) if (n := _n_classes(facts)) else 0.0
    if loss is None or config.distillation.stepwise or not guessing or loss < NEAR_GUESSING * guessing:
        return None
    return (
        f"the clients have hardly learned anything: the training loss of the last round is {loss:.2f}, and guessing "
        f"among {n} classes has {guessing:.2f}; train longer, or set another train.lr"
    )


def most_steps(config: Config, facts: RunFacts) -> int | None:
    """Return the largest number of training steps that a client can make in the run; None for a run of devices.

    It counts a distillation of all proxy rows in each round. A reference without exchange distils all rows of a client.
    """
    clients, training = facts.partition["clients"], config.train
    if not clients:
        return None
    n_private = max(client["train"] for client in clients)
    rows = facts.partition["proxy"] if config.method.exchanges else max(n_private, facts.partition["proxy"])
    of_a_round = replace(training, catch_up=1)  # catching up never makes more passes than taking part in every round
    distilled = of_a_round.most_steps(rows, n_private) - training.private_steps(0, n_private)
    least = getattr(config.method_config, "min_steps", 0)
    private = sum(training.private_steps(round, n_private) for round in range(training.rounds))
    return max(training.rounds * distilled + private, least)


def _n_classes(facts: RunFacts) -> int:
    """Return the number of classes; 0 for a run of devices, whose facts do not include it."""
    clients = facts.partition["clients"]
    return len(clients[0]["samples_by_class"]) if clients else 0
