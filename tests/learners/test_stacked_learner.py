"""Stacked clients make the steps that they would make one after another.

Modules run in float64, because Adam divides by the size of a gradient: where a gradient is almost 0, rounding in
float32 changes an update by more than the tolerance, in every order of the same sums.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefd.core.errors import RunError
from edgefd.learners.batches import AnchoredBatch, Batch
from edgefd.learners.device import CPU
from edgefd.learners.learner import EmbeddingLearner, Proximal
from edgefd.learners.lock_step import lock_step
from edgefd.learners.models import NAMED, WINDOW_MODELS, build_model
from edgefd.learners.optimizer import reset_optimizer
from edgefd.learners.stacked_learner import StackedLearner, why_not_stacked
from edgefd.learners.stacked_model import StackedModel
from edgefd.learners.torch_learner import TorchLearner, one_thread

CLASSES, ROWS = 4, (6, 3, 5)
TOLERANCE = 1e-5
FAST = ("mlp", "cnn_small", "dscnn")
ONE_BY_ONE = ("gru",)  # torch.vmap does not know the operator of the layer
STACKED = [name for name in NAMED if name not in ONE_BY_ONE]
OPTIMIZERS = (("sgd", {"momentum": 0.9}), ("sgd", {"momentum": 0.0, "weight_decay": 0.01}), ("adam", {}))
Work = Callable[[EmbeddingLearner, int], object]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


class Double(nn.Module):
    """A module in float64, for samples in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x.double())
        return out


def shape_of(name: str) -> tuple[int, ...]:
    return (3, 16) if name in WINDOW_MODELS else (1, 16, 16)


def model_of(name: str, client: int) -> nn.Module:
    return Double(build_model(name, shape_of(name), CLASSES, 0, client))


def batch_of(shape: tuple[int, ...], client: int, rows: int = 0) -> Batch:
    rng = np.random.default_rng(client)
    n = rows or ROWS[client % len(ROWS)]
    targets = rng.random((n, CLASSES)).astype(np.float32)
    targets /= targets.sum(1, keepdims=True)
    return Batch(rng.standard_normal((n, *shape), np.float32), targets, rng.random(n).astype(np.float32) + 0.1)


def both(
    make: Callable[[int], nn.Module], n: int = 3, optimizer: str = "sgd", **settings: float
) -> tuple[list[StackedLearner], list[TorchLearner]]:
    """Clients of a stack, and learners of the same models that train one after another."""
    stack = StackedModel(make(0), n, optimizer, **settings)
    for i in range(n):
        stack.place(i, make(i))
    alone = [TorchLearner(make(i), optimizer, **settings) for i in range(n)]
    return [StackedLearner(stack, i) for i in range(n)], alone


def check(stacked: list[StackedLearner], alone: list[TorchLearner], work: Work, tolerance: float = TOLERANCE) -> None:
    """Do the work of each client in lock step, and one after another; states and results are the same."""
    together = lock_step([functools.partial(work, learner, i) for i, learner in enumerate(stacked)])
    in_turn = [work(learner, i) for i, learner in enumerate(alone)]
    for mine, other in zip(together, in_turn, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(other), rtol=tolerance, atol=tolerance)
    for mine, other in zip(stacked, alone, strict=True):
        state, expected = mine.state(), other.state()
        assert state.keys() == expected.keys()
        for key, value in expected.items():
            assert (state[key].shape, state[key].dtype) == (value.shape, value.dtype), key
            scale = max(float(np.abs(value).max(initial=0)), 1e-12)
            np.testing.assert_allclose(state[key] / scale, value / scale, rtol=0, atol=tolerance, err_msg=key)


def train_and_predict(learner: EmbeddingLearner, client: int, shape: tuple[int, ...]) -> np.ndarray:
    learner.set_noise(0)
    losses = [learner.train([batch_of(shape, client)] * (client + 1), lr) for lr in (0.01, 0.01 / (client + 1))]
    logits = learner.predict_logits(batch_of(shape, client).x)
    return np.concatenate([losses, logits.ravel()])


def slow_unless_fast(name: str) -> object:
    return pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: f"{o[0]}{o[1] or ''}")
@pytest.mark.parametrize("name", [slow_unless_fast(name) for name in STACKED])
def test_stacked_clients_train_as_alone(name: str, optimizer: tuple[str, dict[str, float]]) -> None:
    """The clients have batches of other lengths, other numbers of steps, and other learning rates."""
    stacked, alone = both(functools.partial(model_of, name), 3, optimizer[0], **optimizer[1])
    check(stacked, alone, lambda learner, i: train_and_predict(learner, i, shape_of(name)))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_in_float32_a_step_of_sgd_is_the_same_too(name: str) -> None:
    stacked, alone = both(lambda i: build_model(name, shape_of(name), CLASSES, 0, i))
    check(stacked, alone, lambda learner, i: train_and_predict(learner, i, shape_of(name)), 5e-5)


def test_the_proximal_term_and_a_fresh_optimizer_are_those_of_each_client() -> None:
    stacked, alone = both(functools.partial(model_of, "mlp"), optimizer="adam")
    shape = shape_of("mlp")

    def work(learner: EmbeddingLearner, client: int) -> float:
        learner.train([batch_of(shape, client)], 0.01)
        centre = learner.state()
        reset_optimizer(learner)
        proximal = Proximal(0.1 * (client + 1), centre) if client else None
        return learner.train([batch_of(shape, client)] * 3, 0.01, proximal)

    check(stacked, alone, work)


def test_embeddings_are_pulled_to_anchors() -> None:
    stacked, alone = both(functools.partial(model_of, "mlp"))
    shape = shape_of("mlp")

    def work(learner: EmbeddingLearner, client: int) -> np.ndarray:
        batch = batch_of(shape, client)
        pulled = (np.arange(len(batch)) % 2).astype(np.float32)
        width = learner.embed(batch.x).shape[1]
        anchored = AnchoredBatch(
            batch.x, batch.targets, batch.weights, np.ones((len(batch), width), np.float32), pulled, 0.5
        )
        return np.append(learner.embed(batch.x).ravel(), learner.train([anchored, anchored], 0.01))

    check(stacked, alone, work)


def test_embeddings_that_are_the_samples_are_not_pulled() -> None:
    stacked, alone = both(functools.partial(model_of, "linear"))
    shape = shape_of("linear")

    def work(learner: EmbeddingLearner, client: int) -> float:
        batch = batch_of(shape, client)
        anchors = np.zeros((len(batch), 256), np.float32)
        return learner.train([AnchoredBatch(batch.x, batch.targets, batch.weights, anchors, batch.weights, 0.5)], 0.01)

    check(stacked, alone, work)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_clients_outside_a_step_keep_their_bits(optimizer: str) -> None:
    stacked, _ = both(functools.partial(model_of, "dscnn"), 4, optimizer)
    shape = shape_of("dscnn")
    for i, learner in enumerate(stacked):
        learner.train([batch_of(shape, i)], 0.01)
    before = [learner.state() for learner in stacked]
    lock_step([lambda i=i: stacked[i].train([batch_of(shape, i)], 0.01) for i in (3, 0)])
    for i, learner in enumerate(stacked):
        same = all(np.array_equal(value, before[i][name]) for name, value in learner.state().items())
        assert same == (i in (1, 2))


def test_the_same_steps_have_the_same_bits() -> None:
    def final() -> list[bytes]:
        stacked, _ = both(functools.partial(model_of, "cnn_small"), optimizer="adam")
        lock_step([lambda i=i: train_and_predict(stacked[i], i, shape_of("cnn_small")) for i in range(3)])
        return [value.tobytes() for learner in stacked for value in learner.state().values()]

    assert final() == final()


@pytest.mark.parametrize("name", ["mlp", "dscnn"])
def test_states_move_between_stacked_and_other_learners(name: str) -> None:
    stacked, alone = both(functools.partial(model_of, name), optimizer="adam")
    x = batch_of(shape_of(name), 0).x
    alone[1].train([batch_of(shape_of(name), 7)] * 2, 0.01)
    stacked[2].load_state(alone[1].state())
    for key, value in alone[1].state().items():
        np.testing.assert_array_equal(stacked[2].state()[key], value)
    np.testing.assert_allclose(stacked[2].predict_logits(x), alone[1].predict_logits(x), rtol=1e-5, atol=1e-6)
    alone[0].load_state(stacked[2].state())
    assert float(alone[0].state()["optimizer/step"]) == 2


def test_no_batch_is_no_step_and_no_row_has_no_logits() -> None:
    stacked, _ = both(functools.partial(model_of, "mlp"))
    assert stacked[0].train([], 0.1) == 0.0
    assert stacked[0].predict_logits(np.empty((0, *shape_of("mlp")), np.float32)).shape == (0, CLASSES)


def test_a_loss_that_is_not_finite_stops_its_client() -> None:
    stacked, _ = both(functools.partial(model_of, "mlp"))
    bad = batch_of(shape_of("mlp"), 0)
    bad = Batch(bad.x * np.float32("inf"), bad.targets, bad.weights)

    def work(client: int) -> float:
        return stacked[client].train([bad if client == 1 else batch_of(shape_of("mlp"), client)], 0.01)

    with pytest.raises(RunError, match="not finite"):
        lock_step([functools.partial(work, i) for i in range(3)])
    assert all(np.isfinite(value).all() for value in stacked[0].state().values())


class Branching(nn.Module):
    """Its forward pass reads the value of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out if out.sum() > 0 else 2 * out


class Assigning(Branching):
    """It assigns a new tensor to a buffer in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.steps = self.steps + self.training
        out: Tensor = self.fc(x)
        return out


class RowMean(Branching):
    """It mixes rows, in a layer that is no batch normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x - x.mean(0, keepdim=True) if self.training else x)
        return out


class Tied(nn.Module):
    """Two layers share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)
        self.second.weight = self.first.weight
        self.last.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.second(torch.relu(self.first(x)))))
        return out


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Branching, "data-dependent control flow"),
        (Assigning, "differ"),
        (RowMean, "differ"),
        (lambda: nn.Sequential(nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES)), "random"),
    ],
    ids=["branching", "assigning", "row mean", "dropout"],
)
def test_modules_that_cannot_be_stacked_are_found(module: Callable[[], nn.Module], reason: str) -> None:
    assert reason in (why_not_stacked(module(), (16,), CLASSES, CPU) or "")


@pytest.mark.parametrize("name", ["mlp", "dscnn", "transformer"])
def test_models_of_edgefd_can_be_stacked(name: str) -> None:
    assert why_not_stacked(build_model(name, shape_of(name), CLASSES, 0), shape_of(name), CLASSES, CPU) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_all_models_of_edgefd_but_one_can_be_stacked(name: str) -> None:
    reason = why_not_stacked(build_model(name, shape_of(name), CLASSES, 0), shape_of(name), CLASSES, CPU)
    assert (reason is None) == (name not in ONE_BY_ONE)


def test_tied_and_frozen_parameters_are_stacked() -> None:
    assert why_not_stacked(Tied(), (16,), CLASSES, CPU) is None
    torch.manual_seed(0)
    models = [Tied() for _ in range(3)]
    stacked, alone = both(lambda i: Double(models[i]))
    check(stacked, alone, lambda learner, i: learner.train([batch_of((16,), i)] * 2, 0.01))


def test_memory_grows_with_the_batch() -> None:
    stack = StackedModel(build_model("cnn_small", (1, 16, 16), CLASSES, 0), 2)
    small, large = (stack.bytes_per_client(np.zeros((n, 1, 16, 16), np.float32)) for n in (8, 64))
    assert 3 * small < large < 9 * small
