"""Models that a run keeps: they take raw samples, and have the accuracies that the run has recorded."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import nn

import edgefd
from edgefd.core.errors import UserError
from edgefd.data.datasets import load_dataset
from edgefd.runs.model_files import kept_rounds, model_path
from edgefd.runs.trained_model import TrainedModel
from tests.support.extractors import graph
from tests.support.small_configs import SMALL


class Net(nn.Sequential):
    """A module of a user, with buffers."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        width = int(np.prod(shape))
        super().__init__(nn.Flatten(), nn.BatchNorm1d(width), nn.Linear(width, n_classes))


def simulate(tmp_path: Path, **changes: Any) -> edgefd.Run:
    return edgefd.simulate(SMALL | changes, out=tmp_path / "run")


def accuracy(model: TrainedModel) -> float:
    data = load_dataset("mnist_mini")
    return float((model.logits(data.x_test).argmax(1) == data.y_test).mean())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"name": "linear", "heads": 2}, "train": {"rounds": 2, "adjusted_steps": 0}},
        {"model": [{"name": "cnn_edge", "learner": "onnx"}, {"name": "mlp"}]},
        {"model": "tests.runs.test_trained_model:Net", "train": {"rounds": 2, "initial": "own"}},
        {"data": {"name": "mnist_mini", "limit": 300, "scale": "unit", "mean": [0.1], "deviation": [0.3]}},
    ],
    ids=["plain", "two heads", "onnx", "own module", "unit scale"],
)
def test_a_loaded_model_has_the_recorded_accuracy_on_raw_pixels(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = simulate(tmp_path, **changes)
    for client, recorded in enumerate(run.summary["accuracy_per_client"]):
        model = edgefd.load_model(run.folder, client)
        assert accuracy(model) == recorded
        assert (model.info.client, model.info.round, model.info.method) == (client, 2, "edgefd")
    x = load_dataset("mnist_mini").x_test[:50]
    logits = model.logits(x)
    assert np.allclose(model.module(torch.from_numpy(x)).detach(), logits, atol=1e-4)
    assert np.allclose(model.logits(x[:, 0]), logits)  # [n, H, W]
    assert np.allclose(model.probabilities(x).sum(1), 1, atol=1e-6)
    assert (model.predict(x) == logits.argmax(1)).all()


def test_without_the_scale_the_accuracy_is_another(tmp_path: Path) -> None:
    """The control: raw pixels without the stored scale are other inputs."""
    run = simulate(tmp_path)
    data = load_dataset("mnist_mini")
    raw = run.models[0](torch.from_numpy(data.x_test).float()).argmax(1).numpy()
    assert (raw == data.y_test).mean() != run.summary["accuracy_per_client"][0]


@pytest.mark.parametrize("extractor", [False, True])
def test_the_onnx_graph_takes_raw_samples(tmp_path: Path, extractor: bool) -> None:
    data: dict[str, Any] = {"name": "mnist_mini", "limit": 300, "scale": "columns"}
    if extractor:
        (tmp_path / "e.onnx").write_bytes(graph())
        data["extractor"] = str(tmp_path / "e.onnx")
    run = simulate(tmp_path, data=data, model="mlp" if extractor else "cnn_edge")
    model = edgefd.load_model(run, 1)
    path = model.to_onnx(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(path)
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("x", "tensor(uint8)", ["n", 1, 28, 28])]
    x = load_dataset("mnist_mini").x_test[:40]
    assert np.allclose(session.run(["logits"], {"x": x})[0], model.logits(x), atol=1e-4)
    if extractor:
        (tmp_path / "e.onnx").write_bytes(graph() + b"\x7a\x00")
        with pytest.raises(UserError, match="is not the one of the run"):
            edgefd.load_model(run, 1)


def test_samples_in_other_units_are_refused(tmp_path: Path) -> None:
    model = edgefd.load_model(simulate(tmp_path), 0)
    x = load_dataset("mnist_mini").x_test[:20]
    with pytest.raises(UserError, match=r"uint8 from 0 to 255, but these are float from 0 to 1"):
        model.logits(x / 255)
    with pytest.raises(UserError, match=r"samples of shape \[1, 28, 28\], not of \[20, 1, 14, 28\]"):
        model.logits(x[:, :, ::2])


def test_run_keep_says_which_models_stay(tmp_path: Path) -> None:
    rounds = {}
    for keep in ("last", "best", "all", "none"):
        settings = {"run": {"workers": 0, "keep": keep, "evaluate_every": 2}, "train": {"rounds": 5}}
        run = edgefd.simulate(SMALL | settings, out=tmp_path / keep)
        rounds[keep] = kept_rounds(run.folder)
        heldout = {m.round: m.heldout_accuracy_mean for m in run.rounds if m.heldout_accuracy_mean is not None}
        for round in rounds[keep]:
            recorded = run.rounds[round].accuracy_per_client
            assert recorded is not None
            for client, value in enumerate(recorded):
                assert accuracy(edgefd.load_model(run, client, round=round)) == value
    best = max(heldout, key=lambda round: heldout[round])
    assert rounds == {"last": [5], "best": [best], "all": [0, 2, 4, 5], "none": []}


def test_models_of_absent_clients_are_kept_too(tmp_path: Path) -> None:
    run = simulate(tmp_path, coordinator={"fraction": 0.4}, run={"workers": 0, "keep": "all"})
    assert [len(list(model_path(run.folder, r, 0).parent.iterdir())) for r in kept_rounds(run.folder)] == [3, 3, 3]


def test_the_file_says_which_model_it_is(tmp_path: Path) -> None:
    run = simulate(tmp_path)
    with safe_open(model_path(run.folder, 2, 1), "numpy") as file:
        assert '"model": "linear"' in file.metadata()["edgefd"]
    for name, values in load_file(model_path(run.folder, 2, 1)).items():
        assert np.array_equal(values, run.weights[1][name])


def test_an_object_of_the_session_must_be_passed_again(tmp_path: Path) -> None:
    class Local(Net):
        pass

    run = edgefd.simulate(SMALL, model=Local, out=tmp_path / "run")
    assert accuracy(edgefd.load_model(run, 0)) == run.summary["accuracy_per_client"][0]
    with pytest.raises(UserError, match="an object of a Python session: pass model=FUNCTION"):
        edgefd.load_model(run.folder, 0)
    assert accuracy(edgefd.load_model(run.folder, 0, model=Local)) == run.summary["accuracy_per_client"][0]


def test_what_is_not_kept_is_refused(tmp_path: Path) -> None:
    run = simulate(tmp_path)
    for arguments, message in (
        ({"client": 7}, "has no client 7: its clients are 0 to 2"),
        ({"client": 0, "round": 1}, "keeps no models of round 1, only of 2"),
    ):
        with pytest.raises(UserError, match=message):
            edgefd.load_model(run, **arguments)
    with pytest.raises(UserError, match="keeps no models: it is no run folder"):
        edgefd.load_model(tmp_path, 0)
    path = model_path(run.folder, 2, 0)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        edgefd.load_model(run, 0)
    save_file({"a": np.zeros(2, np.float32)}, path)
    with pytest.raises(UserError, match="does not say which model it is"):
        edgefd.load_model(run, 0)
    path.write_bytes(b"x" * 30)
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        edgefd.load_model(run, 0)
