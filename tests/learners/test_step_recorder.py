"""The step recorder: a replayed step has the bits of the eager step."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefd.learners.batches import Batch, softmax
from edgefd.learners.models import MODELS, WINDOW_MODELS, build_model
from edgefd.learners.step_recorder import record
from edgefd.learners.torch_learner import RecordedSteps, TorchLearner

SHAPES = {name: (3, 32) if name in WINDOW_MODELS else (1, 28, 28) for name in MODELS}


def random_batches(shape: tuple[int, ...], sizes: list[int]) -> list[Batch]:
    rng = np.random.default_rng(1)
    return [
        Batch(
            rng.standard_normal((n, *shape)).astype(np.float32),
            softmax(rng.standard_normal((n, 5)).astype(np.float32)),
            rng.random(n, np.float32),
        )
        for n in sizes
    ]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", MODELS)
def test_learners_with_recorded_steps_have_the_bits_of_a_learner_without_them(name: str, optimizer: str) -> None:
    batches = random_batches(SHAPES[name], [16, 16, 7, 16, 1, 7])
    recorded_steps: RecordedSteps = {}
    losses, states = [], []
    for steps in (None, recorded_steps, recorded_steps):  # the second records, the third only replays
        learner = TorchLearner(build_model(name, SHAPES[name], 5, seed=3), optimizer, recorded_steps=steps)
        losses.append(learner.train(batches, 0.01))
        states.append(learner.state())
    assert len(recorded_steps) == 3
    assert losses[0] == losses[1] == losses[2]
    for state in states[1:]:
        assert all(np.array_equal(state[key], value) for key, value in states[0].items())


def test_a_recording_has_no_operators_without_effect() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    parameters = list(layer.parameters())
    _, replay = record(lambda: torch.autograd.grad(layer(x).sum(), parameters), [*parameters, x])
    code = replay.__self__.code  # type: ignore[attr-defined]
    assert "detach" not in code
    assert "aten.mm" not in code  # bound directly


def test_a_step_that_reads_the_value_of_a_tensor_is_refused() -> None:
    x = torch.ones(3)
    with pytest.raises(LookupError, match="reads the value of a tensor"):
        record(lambda: [x * 2 if x.sum() > 0 else x], [x])


def test_a_step_with_a_tensor_that_is_not_computed_from_the_inputs_is_refused() -> None:
    x, other = torch.ones(3), torch.ones(3)
    with pytest.raises(LookupError, match=r"shape \[3\] is not computed from the inputs"):
        record(lambda: [x * other], [x])


def test_operators_that_change_a_tensor_in_place_are_kept() -> None:
    def step() -> list[Tensor]:
        y = x * 2
        y.add_(1)
        return [y]

    x = torch.ones(3)
    (eager,), replay = record(step, [x])
    assert torch.equal(eager, torch.full((3,), 3.0))
    assert torch.equal(replay(torch.zeros(3))[0], torch.ones(3))
