"""State of an exported step: statistics of batch normalisation, masks of dropout, frozen and shared parameters."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefd.core.errors import UserError
from edgefd.export.model_graphs import export_graphs, initial_arrays
from edgefd.export.verify import verify
from edgefd.learners.batches import Batch
from edgefd.learners.onnx_learner import OnnxLearner, Sessions
from edgefd.learners.torch_learner import TorchLearner

SHAPE, CLASSES, ROWS = (2, 8, 8), 3, 16
SAMPLES = np.random.default_rng(0).standard_normal((60, *SHAPE)).astype(np.float32)


def with_norm(norm2d: nn.Module, norm1d: nn.Module) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), norm2d, nn.ReLU(), nn.Flatten()),
        *(nn.Linear(216, 5), norm1d, nn.ReLU(), nn.Linear(5, CLASSES)),
    )


class Functional(nn.Module):
    """Dropout by functions, one of them on tensors whose rows are along the second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 4, 3), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout2d(F.relu(self.conv(x)), 0.3, self.training).flatten(2).transpose(0, 1)
        x = F.dropout(x, 0.4, self.training).transpose(0, 1)
        return self.fc(F.alpha_dropout(x.reshape(-1, 4, 6, 6).mean((1, 2)), 0.2, self.training))


class Frozen(nn.Module):
    """Batch normalisation whose statistics are frozen by `train`, as in detection networks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = with_norm(nn.BatchNorm2d(6), nn.BatchNorm1d(5))
        self.body[1].running_mean.uniform_(-1, 1)

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.body[1].eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Shared(nn.Module):
    """One weight in two layers, and one layer of batch normalisation used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(128, 128), nn.Linear(128, 128, bias=False), nn.BatchNorm1d(128)
        self.b.weight = self.a.weight
        self.out = nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.norm(self.b(torch.tanh(self.norm(self.a(x.flatten(1))))))))


def frozen_affine() -> nn.Module:
    model = with_norm(nn.BatchNorm2d(6), nn.BatchNorm1d(5))
    return model.requires_grad_(False)[4:].requires_grad_(True) and model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "batch normalisation": lambda: with_norm(nn.BatchNorm2d(6), nn.BatchNorm1d(5)),
    "cumulative": lambda: with_norm(nn.BatchNorm2d(6, momentum=None), nn.BatchNorm1d(5, momentum=None)),
    "not affine": lambda: with_norm(nn.BatchNorm2d(6, affine=False), nn.BatchNorm1d(5, affine=False, momentum=0.3)),
    "frozen statistics": Frozen,
    "frozen affine": frozen_affine,
    "shared": Shared,
    "dropout": lambda: with_norm(nn.Dropout2d(0.3), nn.Dropout(0.5)),
    "functional dropout": Functional,
}


def learners(name: str, optimizer: str = "sgd", **settings: float) -> tuple[TorchLearner, OnnxLearner]:
    torch.manual_seed(0)
    model = MODELS[name]()
    graphs = export_graphs(model, optimizer, ROWS, SHAPE, CLASSES)
    onnx = OnnxLearner(Sessions(graphs), initial_arrays(model, optimizer), **settings)
    return TorchLearner(copy.deepcopy(model), optimizer, **settings), onnx


def batch(rows: int) -> Batch:
    rng = np.random.default_rng(rows)
    targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, rows)]
    return Batch(SAMPLES[:rows], targets, rng.uniform(0.5, 1, rows).astype(np.float32))


def assert_same(torch_learner: TorchLearner, onnx: OnnxLearner, tolerance: float = 1e-5) -> None:
    expected = torch_learner.state()
    for name, value in onnx.state().items():
        reference = expected["model/" + name.removeprefix("counter/") if name.startswith("counter/") else name]
        assert np.allclose(value, reference, atol=tolerance * max(1, float(np.abs(reference).max()))), name


@pytest.mark.parametrize("name", MODELS)
def test_steps_on_full_short_and_single_row_batches_are_those_of_torch(name: str) -> None:
    pair = learners(name)
    check_steps(pair)
    assert np.allclose(pair[0].predict_logits(SAMPLES), pair[1].predict_logits(SAMPLES), atol=1e-5)


@pytest.mark.parametrize("name", ["cumulative", "dropout"])
def test_steps_with_weight_decay_change_the_state_as_in_torch(name: str) -> None:
    check_steps(learners(name, weight_decay=0.01))


def check_steps(pair: tuple[TorchLearner, OnnxLearner]) -> None:
    for i, rows in enumerate((ROWS, 10, 1, ROWS)):
        for learner in pair:
            learner.set_noise(7, i)
        losses = [learner.train([batch(rows), batch(rows)], 0.05) for learner in pair]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        assert_same(*pair)


@pytest.mark.parametrize("name", ["cumulative", "shared", "functional dropout"])
def test_the_gate_accepts_state_with_adam(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    errors = verify(export_graphs(model, "adam", ROWS, SHAPE, CLASSES), model, "adam", SAMPLES)
    assert errors["step"] <= max(1e-5, 3 * errors["torch"]), errors


def test_running_statistics_are_the_formula_of_batch_normalisation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(2, momentum=0.25), nn.Flatten(), nn.Linear(128, CLASSES))
    onnx = OnnxLearner(Sessions(export_graphs(model, "sgd", ROWS, SHAPE, CLASSES)), initial_arrays(model, "sgd"))
    onnx.train([batch(9)], 0.1)
    x = SAMPLES[:9].astype(np.float64)
    state = onnx.state()
    assert np.allclose(state["model/0.running_mean"], 0.25 * x.mean((0, 2, 3)), atol=1e-6)
    assert np.allclose(state["model/0.running_var"], 0.75 + 0.25 * x.var((0, 2, 3), ddof=1), atol=1e-6)
    onnx.train([batch(1)], 0.1)
    assert np.array_equal(onnx.state()["model/0.running_mean"], state["model/0.running_mean"])


def test_frozen_parameters_and_fixed_statistics_are_no_state_and_shared_ones_are_one_tensor() -> None:
    frozen, shared = learners("frozen statistics")[1].state(), learners("shared")[1].state()
    assert "model/body.1.running_mean" not in frozen
    assert "model/body.5.running_mean" in frozen
    assert not [n for n in learners("frozen affine")[1].state() if n.endswith(("1.weight", "0.bias"))]
    assert "model/b.weight" not in shared
    assert "model/a.weight" in shared


def test_masks_depend_on_the_keys_and_on_nothing_else() -> None:
    states = []
    for keys in ((1, 2), (1, 2), (1, 3)):
        _, onnx = learners("dropout")
        np.random.default_rng().random(7)
        onnx.set_noise(*keys)
        onnx.train([batch(ROWS)], 0.1)
        states.append(onnx.state()["model/0.weight"])
    assert np.array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])


class DropsWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), F.dropout(self.fc.weight, 0.5, self.training), self.fc.bias)


class MixesRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.fc(x - x.mean(0, keepdim=True))


def test_a_mask_that_is_not_for_rows_is_refused() -> None:
    with pytest.raises(UserError, match=r"a random mask of shape \[3, 128\] .* use nn.Dropout"):
        export_graphs(DropsWeights(), "sgd", ROWS, SHAPE, CLASSES)


def test_batch_normalisation_without_running_statistics_is_refused() -> None:
    model = with_norm(nn.BatchNorm2d(6, track_running_stats=False), nn.BatchNorm1d(5))
    with pytest.raises(UserError, match="set track_running_stats=True"):
        export_graphs(model, "sgd", ROWS, SHAPE, CLASSES)


def test_a_module_that_padding_changes_is_refused() -> None:
    model = MixesRows()
    with pytest.raises(UserError, match="must not depend on how many rows a batch has"):
        verify(export_graphs(model, "sgd", ROWS, SHAPE, CLASSES), model, "sgd", SAMPLES)


def test_a_graph_that_computes_something_else_is_refused() -> None:
    def model(slope: float) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(128, 6), nn.LeakyReLU(slope), nn.Linear(6, CLASSES))

    graphs = export_graphs(model(0.0101), "adam", ROWS, SHAPE, CLASSES)
    with pytest.raises(UserError, match=r"disagrees with torch"):
        verify(graphs, model(0.01), "adam", SAMPLES / 100)
