"""Runs that start from given weights: `model.init`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

import edgefd
from edgefd.config.load import load_config
from edgefd.core.errors import UserError
from edgefd.learners.models import build_model
from edgefd.runs.export_bundle import export_config
from edgefd.runs.learners import make_learner, model_sessions
from edgefd.runs.model_files import model_path
from edgefd.runs.prepare import prepare
from edgefd.wire.bundle_reader import read_bundle
from tests.support.small_configs import SMALL


def first_weights(init: str, client: int, **changes: Any) -> dict[str, np.ndarray]:
    c = load_config(SMALL | {"model": {"name": "linear", "init": init}} | changes)
    federation = prepare(c).federation
    state = make_learner(c, federation.clients[client], 10, model_sessions(c, federation)).state()
    return {name.removeprefix("model/"): v for name, v in state.items() if name.startswith("model/")}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> edgefd.Run:
    return edgefd.simulate(SMALL, out=tmp_path_factory.mktemp("first") / "run")


def test_clients_start_from_a_file_or_from_their_own_models(first: edgefd.Run) -> None:
    for client in range(3):
        for init, source in ((first.folder, client), (model_path(first.folder, 2, 1), 1)):
            weights = first_weights(str(init), client, train={"rounds": 2, "initial": "own"})
            assert all(np.array_equal(weights[name], v) for name, v in first.weights[source].items())


def test_training_continues_from_the_weights(first: edgefd.Run, tmp_path: Path) -> None:
    later = edgefd.simulate(SMALL, {"model.init": str(first.folder)}, out=tmp_path / "later")
    started, trained = later.rounds[0].heldout_accuracy_mean, first.rounds[0].heldout_accuracy_mean
    assert started is not None
    assert trained is not None
    assert started > trained


def test_weights_of_another_program_are_taken_in_half_precision_too(tmp_path: Path) -> None:
    state = build_model("linear", (1, 28, 28), 10, 5).state_dict()
    save_tensors({name: tensor.to(torch.bfloat16) for name, tensor in state.items()}, tmp_path / "w.safetensors")
    weights = first_weights(str(tmp_path / "w.safetensors"), 2)
    assert all(np.array_equal(weights[n], t.to(torch.bfloat16).float().numpy()) for n, t in state.items())


def test_a_bundle_starts_from_the_file(first: edgefd.Run, tmp_path: Path) -> None:
    init = {"model.init": str(model_path(first.folder, 2, 2))}
    export_config(load_config(SMALL, init), None, tmp_path / "bundle")
    arrays = read_bundle(tmp_path / "bundle").init
    assert all(np.array_equal(arrays[f"model/{name}"], values) for name, values in first.weights[2].items())
    with pytest.raises(UserError, match="is a run folder with a model for each client"):
        export_config(load_config(SMALL, {"model.init": str(first.folder)}), None, tmp_path / "other")


def test_weights_of_another_model_are_refused_with_the_name(first: edgefd.Run, tmp_path: Path) -> None:
    weights = load_file(model_path(first.folder, 2, 0))
    name = next(name for name, values in weights.items() if values.ndim == 2)
    for changed, message in (
        ({name: weights[name][:, :5].copy()}, rf"{name} has the shape \[10, 5\], but the model needs \[10, 784\]"),
        ({name: np.full_like(weights[name], np.nan)}, f"{name} holds NaN"),
        ({name: weights[name].astype(np.int64)}, f"{name} is int64, but the model needs float32"),
        ({"extra": weights[name]}, "has extra, which the model does not have"),
    ):
        save_file(weights | changed, tmp_path / "w.safetensors")
        with pytest.raises(UserError, match=message):
            prepare(load_config(SMALL, {"model.init": str(tmp_path / "w.safetensors")}))
    save_file({name: weights[name]}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"has no .*, which the model has"):
        prepare(load_config(SMALL, {"model.init": str(tmp_path / "w.safetensors")}))
    (tmp_path / "w.safetensors").write_bytes(b"123")
    for init, message in (
        ("w.safetensors", "is not a whole safetensors file"),
        ("missing.safetensors", "there is no file"),
        (".", "is a folder without models of a run"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(load_config(SMALL, {"model.init": str(tmp_path / init)}))


def test_another_scale_is_a_warning(first: edgefd.Run) -> None:
    init = {"model.init": str(first.folder)}
    assert not any("model.init" in w for w in prepare(load_config(SMALL, init)).warnings)
    other = prepare(load_config(SMALL, init | {"data.scale": "unit"})).warnings
    assert [w for w in other if "was trained on samples scaled by" in w]
