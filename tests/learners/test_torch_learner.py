"""`TorchLearner` against torch's own optimizers and loss, its state, and what it refuses."""

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


def lessons(n: int, shape: tuple[int, ...] = SHAPE) -> list[Batch]:
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
def test_trains_as_torch_does(name: str, optimizer: str) -> None:
    model = build_model(name, SHAPE, CLASSES, 0)
    plain = copy.deepcopy(model)
    parameters = list(plain.parameters())
    theirs = torch.optim.Adam(parameters, 0.003) if optimizer == "adam" else torch.optim.SGD(parameters, 0.003, 0.9)
    losses = []
    for batch in lessons(4):
        weights = torch.from_numpy(batch.weights)
        each = F.cross_entropy(plain(torch.from_numpy(batch.x)), torch.from_numpy(batch.targets), reduction="none")
        loss = (each * weights).sum() / weights.sum()
        theirs.zero_grad()
        loss.backward()
        theirs.step()
        losses.append(float(loss.detach()))
    learner = TorchLearner(model, optimizer)
    assert learner.train(lessons(4), 0.003) == pytest.approx(np.mean(losses), rel=1e-5)
    x = lessons(1)[0].x
    assert np.allclose(learner.predict_logits(x), plain(torch.from_numpy(x)).detach().numpy(), atol=2e-4)


def test_momentum_that_is_too_small_to_matter_becomes_zero() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot")
    torch.set_num_threads(1)  # as in runs
    learner = TorchLearner(build_model("mlp", SHAPE, CLASSES, 0), "adam")
    state = learner.state()
    learner.load_state({k: np.full_like(v, 1e-44) if "exp_avg/" in k else v for k, v in state.items()})
    silent = Batch(np.zeros((12, *SHAPE), np.float32), *(getattr(lessons(1)[0], k) for k in ("targets", "weights")))
    learner.train([silent], 0.003)
    first = next(v for k, v in learner.state().items() if k.startswith("optimizer/exp_avg/") and v.size > 1000)
    assert not first.any()  # the gradient of these weights is 0 where the input is
    assert torch.tensor([1e-44]).mul(1.0).item() > 0  # what else runs in this thread is left alone


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_continues_from_a_state(optimizer: str) -> None:
    first = TorchLearner(build_model("cnn", SHAPE, CLASSES, 0), optimizer)
    second = TorchLearner(build_model("cnn", SHAPE, CLASSES, 1), optimizer)
    first.train(lessons(2), 0.003)
    second.load_state(first.state())
    first.train(lessons(2), 0.003)
    second.train(lessons(2), 0.003)
    assert all(np.array_equal(a, second.state()[name]) for name, a in first.state().items())


def test_refuses_to_diverge_silently() -> None:
    learner = TorchLearner(build_model("mlp", SHAPE, CLASSES, 0), "sgd")
    with pytest.raises(RunError, match="not finite"):
        learner.train(lessons(6), 1e20)


def test_one_block_of_memory_holds_everything() -> None:
    asked: list[tuple[int, ...]] = []

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        asked.append(shape)
        return np.zeros(shape, np.float32)

    learner = TorchLearner(build_model("cnn", SHAPE, CLASSES, 0), "adam", allocate)
    assert len(asked) == 1
    (size,) = asked[0]
    assert size >= 3 * sum(p.numel() for p in learner.model.parameters())
