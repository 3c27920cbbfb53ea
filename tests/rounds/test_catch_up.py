"""Passes of a client that has missed rounds: how many it makes, and that it knows its last round by itself."""

import dataclasses
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.federation.training import Training
from edgefd.learners.batches import Batch
from edgefd.methods import get_method
from edgefd.rounds.client import client_round
from tests.support.linear_clients import ROWS, TRAINING, Linear, in_round, new_clients, play
from tests.support.small_runs import config, rounds

FEDMD = get_method("fedmd")
BATCHES = ROWS // TRAINING.proxy_rows_per_batch


class Counting(Linear):
    """A linear model that counts its steps of distillation."""

    steps = 0

    def distil(self, batches: Iterable[Batch], lr: float, n_private: int) -> float:
        kept = list(batches)
        self.steps += len(kept)
        return super().distil(kept, lr, n_private)


@pytest.mark.parametrize(
    ("round", "next_round", "catch_up", "passes"),
    [
        (1, 1, 9, 1),
        (1, 0, 9, 1),  # round 1 has the first teacher, so a new client has missed none
        (3, 3, 9, 1),
        (3, 1, 9, 3),
        (3, 0, 9, 3),
        (3, 1, 2, 2),
        (3, 1, 1, 1),
        (4, 4, 9, 2),  # the closing round
        (4, 2, 9, 4),
    ],
)
def test_a_client_makes_a_pass_for_each_teacher_that_it_missed_up_to_the_limit(
    round: int, next_round: int, catch_up: int, passes: int
) -> None:
    teacher, learner = play(FEDMD, 1)[1][0], Counting()
    client = in_round(new_clients(FEDMD)[0], round, catch_up=catch_up)
    client_round(FEDMD, dataclasses.replace(client, learner=learner, next_round=next_round), teacher)
    assert learner.steps == passes * BATCHES


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 8), st.integers(0, 3), st.integers(0, 3))
def test_catching_up_never_makes_more_passes_than_taking_part_in_every_round(
    present: list[bool], catch_up: int, distill: int, closing: int
) -> None:
    passes_of = {"distill_epochs": distill, "closing_epochs": closing, "catch_up": catch_up}
    training = Training(rounds=len(present), adjusted_steps=0, **passes_of)
    client, passes, most = new_clients(FEDMD)[0], 0, 0
    for r, takes_part in enumerate([*present, True]):
        closes = r == len(present)
        now = dataclasses.replace(in_round(client, r), terms=dataclasses.replace(client.terms, training=training))
        if takes_part:
            made = training.epochs(now.missed_teachers, closes)
            passes += made if r else 0
            most = max(most, made)
            client = dataclasses.replace(client, next_round=r + 1)
    assert passes <= (len(present) - 1) * distill + closing
    assert most <= training.most_steps(training.proxy_rows_per_batch, 0)


def test_workers_change_no_bit_if_clients_catch_up() -> None:
    def accuracies(workers: int, catch_up: int) -> list[object]:
        c = config(workers, coordinator={"fraction": 0.34}, train={"rounds": 4, "catch_up": catch_up})
        return [m.accuracy_per_client for m in rounds(c)]

    assert accuracies(0, 3) == accuracies(2, 3) != accuracies(0, 1)


def test_a_limit_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="catch_up must be at least 1"):
        Training(catch_up=0)
