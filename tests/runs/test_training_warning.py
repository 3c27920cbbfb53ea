"""The summary of a run: its best accuracy beside the final one, its training loss, and whether clients have trained."""

import math
from typing import Any

import pytest

from edgefd.config.load import parse_config
from edgefd.runs.facts import RunFacts
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.runs.summary import summarise
from edgefd.runs.training_warning import last_loss

CLASSES, PROXY, PRIVATE = 10, 480, 300


def facts(**changes: Any) -> RunFacts:
    client = {"client": 0, "samples_by_class": [30] * CLASSES, "train": PRIVATE, "heldout": 0, "contributed": 0}
    return RunFacts(1, {"clients": [client], "proxy": PROXY} | changes, 0, "digits")


def rounds(*metrics: dict[str, Any]) -> list[RoundMetrics]:
    """Return a round with each of these metrics; the last one is the closing round."""
    unmeasured = {"accuracy_worst": None, "accuracy_per_client": None, "heldout_accuracy_mean": None}
    empty = {"kept_fraction": 0.0, "kept_per_client": [0.0], "wrong_claims": None, "teacher_coverage": 0.0}
    no_loss = {"accuracy_mean": None, "teacher_accuracy": None, "distil_loss": None, "train_loss": None}
    always = {"seconds": 1.0, "bytes_up": 0, "bytes_down": 0, **unmeasured, **empty, **no_loss}
    return [
        RoundMetrics(round=i, closing=i == len(metrics) - 1, **{**always, **given}) for i, given in enumerate(metrics)
    ]


def summary(done: list[RoundMetrics], method: str = "edgefd", run: RunFacts | None = None, **train: Any) -> Any:
    config = parse_config({"method": {"name": method}, "train": {"rounds": 20, "adjusted_steps": 0, **train}})
    return summarise(config, run or facts(), done, 1.0)


def test_the_best_accuracy_is_that_of_the_first_best_round_and_the_final_one_stays_the_last() -> None:
    accuracies = [0.1, None, 0.8, 0.8, 0.7]
    s = summary(rounds(*({"accuracy_mean": a} for a in accuracies)))
    assert (s["accuracy_best"], s["accuracy_best_round"], s["accuracy_mean"]) == (0.8, 2, 0.7)


def test_without_measured_accuracies_there_is_no_best_one() -> None:
    s = summary(rounds({}, {}))
    assert (s["accuracy_best"], s["accuracy_best_round"]) == (None, None)


def test_the_training_loss_is_that_of_private_batches_or_else_of_the_distillation() -> None:
    distilled = rounds({"train_loss": 9.0}, {"distil_loss": 2.0}, {"distil_loss": 1.0})
    assert last_loss(distilled) == 1.0
    local = rounds({"train_loss": 9.0}, {"train_loss": 3.0, "distil_loss": 2.0}, {"distil_loss": 1.0})
    assert last_loss(local) == 3.0
    assert last_loss(rounds({}, {})) is None


LEARNED, GUESSING = {"distil_loss": 0.5}, {"distil_loss": 0.95 * math.log(CLASSES)}


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"rounds": 9}, None),  # a distillation of 480 rows is 10 steps of 48, or 20 in the closing round
        ({"rounds": 4}, 80),
        ({"rounds": 4, "local_epochs": 1, "closing_epochs": 1}, 60),
        ({"rounds": 4, "local_steps": 15, "closing_epochs": 1}, None),
        ({"rounds": 4, "warmup_steps": 70, "closing_epochs": 1}, None),
    ],
    ids=str,
)
def test_a_run_of_few_steps_warns_with_their_number(settings: dict[str, Any], steps: int | None) -> None:
    warning = summary(rounds({}, LEARNED), **settings)["training_warning"]
    assert warning is None if steps is None else f"at most {steps} steps each in the whole run" in warning


def test_a_loss_near_that_of_guessing_warns() -> None:
    assert summary(rounds({}, LEARNED))["training_warning"] is None
    warning = summary(rounds({}, GUESSING))["training_warning"]
    assert "the training loss of the last round is 2.19, and guessing among 10 classes has 2.30" in warning


def test_the_loss_of_another_kind_of_distillation_is_not_compared_with_guessing() -> None:
    config = parse_config({"distillation": {"loss": "l1"}, "train": {"rounds": 20}})
    assert summarise(config, facts(), rounds({}, GUESSING), 1.0)["training_warning"] is None


def test_bounds_train_enough_by_themselves_and_devices_are_not_judged() -> None:
    assert summary(rounds({}, LEARNED), "centralised", rounds=2)["training_warning"] is None
    assert summary(rounds({}, GUESSING), run=facts(clients=None), rounds=2)["training_warning"] is None


def test_a_run_that_was_stopped_is_not_judged() -> None:
    stopped = rounds({}, {}, {})[:-1]
    assert summary(stopped, rounds=2)["training_warning"] is None
