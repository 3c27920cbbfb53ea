"""Optimizer settings and the proximal term, in torch and in ONNX Runtime, against `torch.optim` and autograd."""

import copy
import functools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgefd.export.model_graphs import export_graphs, initial_arrays
from edgefd.federation.training import Training
from edgefd.learners.batches import Batch, softmax
from edgefd.learners.learner import Learner, Proximal
from edgefd.learners.models import build_model
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.learners.optimizer import reset_optimizer
from edgefd.learners.torch_learner import RecordedSteps, TorchLearner, one_thread

NAME, SHAPE, CLASSES, ROWS, LR = "cnn", (1, 20, 20), 4, 12, 0.01
SETTINGS = [
    ("sgd", {"momentum": 0.0}),
    ("sgd", {"momentum": 0.5}),
    ("sgd", {"weight_decay": 0.1}),
    ("sgd", {"momentum": 0.0, "weight_decay": 0.1}),
    ("adam", {"weight_decay": 0.1}),
]
MODEL = build_model(NAME, SHAPE, CLASSES, 0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def batches_of_rows(seed: int, n: int = 5) -> list[Batch]:
    rng = np.random.default_rng(seed)
    rows = [
        (rng.standard_normal((ROWS, *SHAPE)), softmax(rng.standard_normal((ROWS, CLASSES))), rng.random(ROWS))
        for _ in range(n)
    ]
    return [Batch(*(part.astype(np.float32) for part in batch)) for batch in rows]


@functools.cache
def sessions(optimizer: str) -> Sessions:
    return Sessions(export_graphs(MODEL, optimizer, ROWS, SHAPE, CLASSES))


def new_learner(kind: str, optimizer: str, settings: dict[str, float]) -> Learner:
    if kind == "onnx":
        return OnnxLearner(sessions(optimizer), initial_arrays(MODEL, optimizer), **settings)
    steps: RecordedSteps | None = {} if kind == "recorded" else None
    return TorchLearner(copy.deepcopy(MODEL), optimizer, recorded_steps=steps, **settings)


def torch_parameters(
    optimizer: str, settings: dict[str, float], batches: list[Batch], mu: float = 0.0
) -> dict[str, np.ndarray]:
    """Return the parameters after steps of torch.optim on the loss plus (mu / 2) |theta - theta_0|^2, in float64."""
    model = copy.deepcopy(MODEL).double()
    start = [p.detach().clone() for p in model.parameters()]
    if optimizer == "adam":
        optim: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), LR, **settings)
    else:
        optim = torch.optim.SGD(model.parameters(), LR, **{"momentum": 0.9, **settings})
    for batch in batches:
        x, targets, weights = (torch.from_numpy(a).double() for a in (batch.x, batch.targets, batch.weights))
        loss = F.cross_entropy(model(x), targets, reduction="none").mul(weights).sum() / weights.sum()
        loss = loss + mu / 2 * sum(((p - s) ** 2).sum() for p, s in zip(model.parameters(), start, strict=True))
        optim.zero_grad()
        loss.backward()
        optim.step()
    return {f"model/{name}": p.detach().numpy() for name, p in model.named_parameters()}


def assert_close(learner: Learner, expected: dict[str, np.ndarray], lr_units: float = 0.01) -> None:
    """Compare parameters. Adam divides small gradients by themselves, so a difference is counted in learning rates."""
    state = learner.state()
    for name, value in expected.items():
        assert np.abs(state[name] - value).max() < lr_units * LR, name


@pytest.mark.parametrize("kind", ["eager", "recorded", "onnx"])
@pytest.mark.parametrize(("optimizer", "settings"), SETTINGS)
def test_momentum_and_weight_decay_are_those_of_torch(kind: str, optimizer: str, settings: dict[str, float]) -> None:
    batches = batches_of_rows(0)
    expected = torch_parameters(optimizer, settings, batches)
    default = torch_parameters(optimizer, {}, batches)
    assert max(np.abs(expected[n] - default[n]).max() for n in expected) > 1e-3  # the settings matter
    learner = new_learner(kind, optimizer, settings)
    learner.train(batches[:2], LR)
    learner.train(batches[2:], LR)  # the state of the optimizer remains between calls
    assert_close(learner, expected)


@pytest.mark.parametrize("kind", ["eager", "recorded", "onnx"])
@pytest.mark.parametrize(("optimizer", "settings"), [("sgd", {}), ("adam", {}), *SETTINGS[3:]])
def test_the_proximal_term_is_in_the_gradient(kind: str, optimizer: str, settings: dict[str, float]) -> None:
    batches = batches_of_rows(1)
    learner = new_learner(kind, optimizer, settings)
    learner.train(batches, LR, Proximal(3.0, learner.state()))
    assert_close(learner, torch_parameters(optimizer, settings, batches, mu=3.0))


@pytest.mark.parametrize("kind", ["recorded", "onnx"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_proximal_term_of_factor_zero_changes_nothing(kind: str, optimizer: str) -> None:
    with_term, without = (new_learner(kind, optimizer, {}) for _ in range(2))
    with_term.train(batches_of_rows(2), LR, Proximal(0.0, with_term.state()))
    without.train(batches_of_rows(2), LR)
    expected = {name: value for name, value in without.state().items() if name.startswith("model/")}
    assert_close(with_term, expected, 1e-3)


@pytest.mark.parametrize("kind", ["recorded", "onnx"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_reset_learner_trains_as_a_new_one_with_its_parameters(kind: str, optimizer: str) -> None:
    trained, fresh = (new_learner(kind, optimizer, {}) for _ in range(2))
    zeros = {name: value for name, value in fresh.state().items() if name.startswith("optimizer/")}
    trained.train(batches_of_rows(3), LR)
    parameters = {name: value for name, value in trained.state().items() if name.startswith("model/")}
    fresh.load_state({**zeros, **parameters})
    reset_optimizer(trained)
    for learner in (trained, fresh):
        learner.train(batches_of_rows(4), LR)
    assert all(np.array_equal(value, fresh.state()[name]) for name, value in trained.state().items())


def test_without_own_settings_the_graph_makes_the_whole_step() -> None:
    """So results of the default settings do not depend on the update in numpy."""
    learner = new_learner("onnx", "sgd", {})
    batch = batches_of_rows(5, 1)[0]
    step = sessions("sgd").step
    step.start(learner._block, LR)
    step.run(batch)
    expected = {name: array.copy() for name, array in step.arrays.items()}
    learner.train([batch], LR)
    assert all(np.array_equal(value, expected[name]) for name, value in learner.state().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.0, "optimizer": "sgd"}, "momentum must be at least 0 and below 1"),
        ({"momentum": -0.1, "optimizer": "sgd"}, "momentum must be at least 0 and below 1"),
        ({"weight_decay": -1e-5}, "weight_decay not negative"),
        ({"weight_decay": float("nan")}, "weight_decay not negative"),
        ({"momentum": 0.0, "optimizer": "adam"}, "momentum is a setting of optimizer sgd"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training(**settings)  # type: ignore[arg-type]
