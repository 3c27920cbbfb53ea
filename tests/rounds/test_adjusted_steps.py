"""Private labels within the distillation: taking part must not cost a client what it would learn alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.context import ClientContext
from edgefd.federation.distillation import spread
from edgefd.federation.method import Method
from edgefd.methods import get_method
from edgefd.rounds.client import accuracy, client_round
from tests.support.linear_clients import CLASSES, METHODS, TRAINING, in_round, new_clients, play, with_methods
from tests.support.small_runs import config, rounds

FEDMD = get_method("fedmd")


def after_round(client: ClientContext, round: int, teacher: Knowledge | None, **training: object) -> np.ndarray:
    """Return the weights of a client's model after a round."""
    client = in_round(client, round, local_steps=0, **training)
    client_round(FEDMD, client, teacher)
    return client.learner.state()["model/w"]


def one_class(client: ClientContext) -> ClientContext:
    data = client.data
    mine = data.y == data.y[0]
    return dataclasses.replace(client, data=dataclasses.replace(data, x=data.x[mine], y=data.y[mine]))


@given(st.integers(0, 40), st.integers(0, 40))
def test_private_batches_are_spread_evenly_between_those_of_the_teacher(n: int, k: int) -> None:
    order = list(spread(n, k))
    assert (order.count(False), order.count(True)) == (n, k)
    for i in range(1, len(order)):
        assert abs(sum(order[:i]) - i * k / len(order)) < 1


@pytest.mark.parametrize("round", [0, 2, TRAINING.rounds])
def test_without_rows_of_a_teacher_a_client_learns_its_own_labels(round: int) -> None:
    client = new_clients(FEDMD)[0]
    for r in (0, 1, 2, round):
        after_round(client, r, empty(CLASSES) if r else None, adjusted_steps=20)
    assert accuracy(client.learner, client.data.x_heldout, client.data.y_heldout) == 1


def test_the_number_of_private_batches_does_not_depend_on_the_teacher() -> None:
    training = dataclasses.replace(TRAINING, adjusted_steps="auto")  # 12 teacher rows and 16 private rows a batch
    assert (
        training.adjusted_batches(n_proxy=60, n_private=30, epochs=1) == 5
    )  # the distillation of 60 rows has 5 batches
    assert training.adjusted_batches(n_proxy=6, n_private=30, epochs=1) == 2  # a pass over 30 private rows
    assert training.adjusted_batches(n_proxy=60, n_private=30, epochs=2) == 10
    assert dataclasses.replace(training, adjusted_steps=3).adjusted_batches(60, 30, epochs=2) == 3


def test_a_client_of_one_class_trains_as_without_private_batches() -> None:
    teacher = play(FEDMD, 1)[1][-1]
    with_batches, without = (
        after_round(one_class(new_clients(FEDMD)[0]), 1, teacher, adjusted_steps=steps) for steps in ("auto", 0)
    )
    assert np.array_equal(with_batches, without)


def test_both_losses_of_a_round_are_reported() -> None:
    teacher = play(FEDMD, 1)[1][-1]
    client = in_round(new_clients(FEDMD)[0], 1, local_steps=0, adjusted_steps=2)
    metrics = client_round(FEDMD, client, teacher).metrics
    assert metrics["train_loss"] > 0
    assert metrics["distil_loss"] > 0
    assert metrics["train_loss"] != metrics["distil_loss"]


@with_methods(m for m in METHODS if not m.message.of_proxy_rows)
def test_methods_without_labels_of_proxy_rows_have_none(method: Method) -> None:
    assert method.adjusted_steps(in_round(new_clients(method)[0], 1, adjusted_steps=5)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("partition", [{"name": "iid"}, {"name": "dirichlet", "alpha": 0.1}], ids=str)
def test_with_an_unrelated_proxy_set_a_client_is_not_worse_off_than_alone(partition: dict, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 1, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", x=noise)

    def accuracy_of(method: str) -> float:
        run = config(
            data={"name": "mnist_mini", "limit": 2000},
            partition={**partition, "n_clients": 4},
            proxy={"source": "public", "path": str(tmp_path / "noise.npz")},
            method={"name": method},
            train={"rounds": 8},
        )
        return rounds(run)[-1].accuracy_mean or 0.0

    assert accuracy_of("edgefd") > accuracy_of("indlearn") - 0.01
