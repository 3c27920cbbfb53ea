"""`Training`: how many steps its settings ask for, at which learning rates, and which settings it refuses."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.errors import UserError
from edgefd.federation.training import Training


def test_local_epochs_count_the_batches_of_whole_passes_and_warmup_steps_come_on_top_in_round_0() -> None:
    training = Training(local_epochs=2, warmup_steps=5, local_batch_size=10)
    assert training.private_steps(0, 41) == 2 * 5 + 5
    assert training.private_steps(1, 41) == 2 * 5
    assert training.private_steps(1, 40) == 2 * 4


def test_local_steps_do_not_depend_on_the_rows_of_the_client() -> None:
    training = Training(local_steps=3, warmup_steps=1)
    assert [training.private_steps(0, n) for n in (1, 1000)] == [4, 4]
    assert [training.private_steps(7, n) for n in (1, 1000)] == [3, 3]


def test_private_batches_have_the_size_of_all_batches_unless_they_have_their_own() -> None:
    assert Training(batch_size=32).private_batch_size == 32
    assert Training(batch_size=32, local_batch_size=8).private_batch_size == 8
    assert Training(batch_size=32, local_batch_size=8).largest_batch == 32
    assert Training(batch_size=32, local_batch_size=99).largest_batch == 99


@given(rounds=st.integers(1, 50), round=st.integers(0, 50))
def test_a_constant_learning_rate_is_that_of_the_first_round(rounds: int, round: int) -> None:
    assert Training(rounds=rounds, lr=0.1, final_lr=0.0, schedule="constant").lr_at(round) == 0.1


def test_a_step_schedule_multiplies_the_rate_after_every_so_many_rounds() -> None:
    training = Training(rounds=9, lr=0.8, schedule="step", step_rounds=3, step_factor=0.5)
    assert [training.lr_at(r) for r in range(9)] == [0.8] * 3 + [0.4] * 3 + [0.2] * 3


def test_a_cosine_ends_at_the_final_rate() -> None:
    training = Training(rounds=4, lr=1.0, final_lr=0.5)
    assert [training.lr_at(r) for r in (0, 2, 4, 5)] == pytest.approx([1.0, 0.75, 0.5, 0.5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"local_steps": 1, "local_epochs": 1}, "exclude each other"),
        ({"local_epochs": -1}, "local_epochs must not be negative"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative"),
        ({"local_batch_size": 0}, "local_batch_size must be at least 1"),
        ({"step_rounds": 0}, "step_rounds must be at least 1"),
        ({"step_factor": 0.0}, "step_factor in"),
        ({"step_factor": 1.5}, "step_factor in"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training(**settings)


def test_rotations_are_for_images_and_at_most_half_a_turn() -> None:
    Training(augment_rotation=30.0).check_shift((1, 8, 8))
    with pytest.raises(UserError, match=r"train.augment_rotation rotates images, but samples have shape \[6\]"):
        Training(augment_rotation=30.0).check_shift((6,))
    for degrees in (-1.0, 181.0):
        with pytest.raises(ValueError, match="augment_rotation must be from 0 to 180"):
            Training(augment_rotation=degrees)
