"""`TorchLearner` against the optimizers and the loss of torch, its state, and divergence."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgefd.core.errors import RunError
from edgefd.learners.batches import Batch, softmax
from edgefd.learners.models import build_model
from edgefd.learners.torch_learner import TorchLearner

SHAPE, CLASSES = (1, 20, 20), 4


def random_batches(n: int, shape: tuple[int, ...] = SHAPE) -> list[Batch]:
    rng = np.random.default_rng(3)
    return [
        Batch(
            rng.standard_normal((12, *shape), np.float32),
            softmax(rng.standard_normal((12, CLASSES), np.float32)),
            rng.uniform(0, 1, 12).astype(np.float32),
        )
        for _ in range(n)
    ]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn_gn"])
def test_training_agrees_with_the_optimizers_of_torch(name: str, optimizer: str) -> None:
    model = build_model(name, SHAPE, CLASSES, 0)
    reference = copy.deepcopy(model)
    parameters = list(reference.parameters())
    optim = torch.optim.Adam(parameters, 0.003) if optimizer == "adam" else torch.optim.SGD(parameters, 0.003, 0.9)
    losses = []
    for batch in random_batches(4):
        weights = torch.from_numpy(batch.weights)
        each = F.cross_entropy(reference(torch.from_numpy(batch.x)), torch.from_numpy(batch.targets), reduction="none")
        loss = (each * weights).sum() / weights.sum()
        optim.zero_grad()
        loss.backward()
        optim.step()
        losses.append(float(loss.detach()))
    learner = TorchLearner(model, optimizer)
    assert learner.train(random_batches(4), 0.003) == pytest.approx(np.mean(losses), rel=1e-5)
    x = random_batches(1)[0].x
    assert np.allclose(learner.predict_logits(x), reference(torch.from_numpy(x)).detach().numpy(), atol=2e-4)


def test_denormal_momentum_becomes_zero_in_a_step_and_denormals_remain_afterwards() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot flush denormal numbers")
    torch.set_num_threads(1)  # as in runs
    learner = TorchLearner(build_model("mlp", SHAPE, CLASSES, 0), "adam")
    state = learner.state()
    learner.load_state({k: np.full_like(v, 1e-44) if "exp_avg/" in k else v for k, v in state.items()})
    inactive = Batch(
        np.zeros((12, *SHAPE), np.float32), *(getattr(random_batches(1)[0], k) for k in ("targets", "weights"))
    )
    learner.train([inactive], 0.003)
    first = next(v for k, v in learner.state().items() if k.startswith("optimizer/exp_avg/") and v.size > 1000)
    assert not first.any()  # the gradient of these weights is 0 where the input is
    assert torch.tensor([1e-44]).mul(1.0).item() > 0  # other work in this thread is not affected


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_learner_continues_from_the_state_of_another(optimizer: str) -> None:
    first = TorchLearner(build_model("cnn", SHAPE, CLASSES, 0), optimizer)
    second = TorchLearner(build_model("cnn", SHAPE, CLASSES, 1), optimizer)
    first.train(random_batches(2), 0.003)
    second.load_state(first.state())
    first.train(random_batches(2), 0.003)
    second.train(random_batches(2), 0.003)
    assert all(np.array_equal(a, second.state()[name]) for name, a in first.state().items())


def test_divergence_is_an_error() -> None:
    learner = TorchLearner(build_model("mlp", SHAPE, CLASSES, 0), "sgd")
    with pytest.raises(RunError, match="not finite"):
        learner.train(random_batches(6), 1e20)


def test_parameters_and_optimizer_state_are_in_one_block_of_memory() -> None:
    allocated: list[tuple[int, ...]] = []

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        allocated.append(shape)
        return np.zeros(shape, np.float32)

    learner = TorchLearner(build_model("cnn", SHAPE, CLASSES, 0), "adam", allocate)
    assert len(allocated) == 1
    (size,) = allocated[0]
    assert size >= 3 * sum(p.numel() for p in learner.model.parameters())
