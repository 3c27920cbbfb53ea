"""Exported graphs agree with torch, refuse what a device cannot run, and train in runs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgefd.config.load import parse_config
from edgefd.core.errors import UserError
from edgefd.export.known_graphs import read_graphs
from edgefd.export.model_graphs import export_graphs, initial_arrays
from edgefd.export.verify import run_step, verify
from edgefd.export.write_bundle import BundleSettings, export_bundle
from edgefd.federation.terms import FederationTerms
from edgefd.federation.units import units_of
from edgefd.learners.batches import Batch, one_hot
from edgefd.learners.models import MODELS, WINDOW_MODELS, build_model
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import make_simulation_state, open_transport, simulate
from edgefd.wire.known_graphs import known_model

TERMS = FederationTerms("fedmd", {}, "float16", 0, 3, "")
X = np.zeros((40, 1, 28, 28), np.float32)  # `verify` replaces samples of this shape by real images
WINDOWS = np.random.default_rng(0).integers(-2, 3, (40, 6, 100)).astype(np.float32)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", MODELS)
def test_one_exported_step_agrees_with_torch_and_is_known_to_devices(name: str, optimizer: str) -> None:
    x = WINDOWS if name in WINDOW_MODELS else X
    model = build_model(name, x.shape[1:], 10, 0)
    graphs = export_graphs(model, optimizer, 64, x.shape[1:], 10)
    assert known_model(read_graphs(graphs), graphs.constants, 64, 10, x.shape[1:]) == f"{name} with {optimizer}", (
        "the exporter writes other graphs than before: python -m edgefd.export.known_graphs --write"
    )
    errors = verify(graphs, model, optimizer, x)
    assert errors["step"] <= max(1e-5, 3 * errors["torch"]), errors
    assert errors["logits"] <= 1e-5, errors


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 30, 27)])
def test_an_exported_step_on_colour_images_and_odd_sizes_agrees_with_torch(shape: tuple[int, ...]) -> None:
    model = build_model("cnn", shape, 4, 0)
    samples = np.random.default_rng(0).integers(0, 3, (50, *shape)).astype(np.float32)  # many equal numbers
    assert verify(export_graphs(model, "sgd", 16, shape, 4), model, "sgd", samples)["step"] <= 1e-5


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_parameters_that_need_no_gradient_are_constants_of_an_exported_step(optimizer: str) -> None:
    model = build_model("mlp", (1, 28, 28), 10, 0)
    model.fc1.requires_grad_(False)
    graphs = export_graphs(model, optimizer, 64, (1, 28, 28), 10)
    assert not [name for name in graphs.state if "fc1" in name]
    errors = verify(graphs, model, optimizer, X)
    assert max(errors["step"], errors["logits"]) <= 1e-5, errors


def test_rows_of_weight_zero_do_not_change_an_exported_step() -> None:
    model = build_model("cnn", (1, 28, 28), 10, 0)
    graphs = export_graphs(model, "sgd", 32, (1, 28, 28), 10)
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((20, 1, 28, 28)).astype(np.float32), one_hot(np.arange(20) % 10, 10)
    padded = Batch(
        np.concatenate([x, rng.standard_normal((12, 1, 28, 28)).astype(np.float32)]),
        np.concatenate([targets, targets[:12]]),
        np.concatenate([np.ones(20, np.float32), np.zeros(12, np.float32)]),
    )
    init = initial_arrays(model, "sgd")
    a, _ = run_step(graphs, init, Batch(x, targets, np.ones(20, np.float32)), 0.1)
    b, _ = run_step(graphs, init, padded, 0.1)
    assert all(np.array_equal(a[n], b[n]) for n in a)


class LinearThen(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.fc, self.last = nn.Linear(6, 3), last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.fc(x))
        return out


class Sort(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(x, 1).values


@pytest.mark.parametrize(("layer", "word"), [(Sort(), "aten.sort")])
def test_an_operator_or_layer_that_a_device_cannot_run_is_refused_by_name(layer: nn.Module, word: str) -> None:
    with pytest.raises(UserError, match=word):
        export_graphs(LinearThen(layer), "sgd", 4, (6,), 3)


def test_a_failed_export_leaves_no_files(tmp_path: Path) -> None:
    proxy = np.zeros((9, 6), np.float32)
    settings = BundleSettings("s", "sgd", 4, ((0.0,), (1.0,)), 0.1, 1, TERMS, units_of(proxy, proxy))
    with pytest.raises(UserError):
        export_bundle(tmp_path / "b", LinearThen(Sort()), proxy, settings)
    assert list(tmp_path.iterdir()) == []


def config(learner: str, workers: int):  # type: ignore[no-untyped-def]
    return parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 600},
            "partition": {"name": "weak", "n_clients": 4},
            "model": [{"name": "cnn_small"}, {"name": "mlp", "learner": "torch"}],
            "method": {"name": "edgefd", "n_clusters": 4},
            "train": {"rounds": 2, "local_steps": 2},
            "run": {"workers": workers, "learner": learner},
        }
    )


def accuracies(learner: str, workers: int) -> list[float]:
    c = config(learner, workers)
    result = list(simulate(open_transport(c, prepare(c).federation)))[-1].accuracy_per_client
    assert result is not None
    return list(result)


def test_a_run_with_onnx_and_torch_learners_has_the_same_results_in_workers_and_is_close_to_torch() -> None:
    onnx = accuracies("onnx", 0)
    assert onnx == accuracies("onnx", 2)
    assert np.allclose(onnx, accuracies("torch", 0), atol=0.02)


def test_onnx_and_torch_learners_start_from_the_same_parameters() -> None:
    a, b = (
        make_simulation_state(c, prepare(c).federation).clients[0].learner.state()
        for c in (config("onnx", 0), config("torch", 0))
    )
    assert all(np.array_equal(a[n], b[n]) for n in a if n.startswith("model/"))
