"""Whole runs with stacked clients, on the CPU: they are those of clients that train one after another."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgefd
from edgefd.config.load import load_config, parse_config
from edgefd.config.schema import Config
from edgefd.core.errors import RunError, Stopped, UserError
from edgefd.federation.method import Method
from edgefd.learners import device as devices
from edgefd.learners.device import find_device, unused_gpu
from edgefd.learners.learner import Learner
from edgefd.methods import get_method
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import open_transport, simulate
from edgefd.simulation.run import simulate_config
from tests.learners.test_stacked_learner import Double

SMALL: dict[str, Any] = {
    "data": {"name": "mnist_mini", "limit": 200},
    "partition": {"name": "dirichlet", "n_clients": 5, "alpha": 0.5},
    "model": {"name": "mlp"},
    "train": {"rounds": 2, "batch_size": 32, "private_rows_per_batch": 8},
    "run": {"workers": 0},
}
METHODS = ("edgefd", "fedavg", "fedprox", "fedproto", "fkd", "indlearn")
LOSSES = ("kl", "kl at 3", "swing", "taid", "l1", "pld", "mixed")


def double_mlp(shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
    """A model in float64, see `test_stacked_learner`."""
    return Double(
        torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(784, 16), torch.nn.ReLU(), torch.nn.Linear(16, n_classes)
        )
    )


def dropout_mlp(shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
    """A model that cannot be stacked."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.2), torch.nn.Linear(784, n_classes))


def config_of(stack: int | str = "auto", **sections: dict[str, Any]) -> Config:
    merged = {name: {**SMALL.get(name, {}), **sections.get(name, {})} for name in {*SMALL, *sections}}
    merged["run"] = {**merged["run"], "stack": stack}
    return parse_config(merged)


def outcome(config: Config) -> tuple[list[Any], list[dict[str, np.ndarray]]]:
    transport = open_transport(config, prepare(config).federation)
    metrics = list(simulate(transport))
    return metrics, [client.learner.state() for client in transport.state.clients]


def check_same(stacked: Config, alone: Config, tolerance: float = 1e-5) -> None:
    (metrics, states), (expected_metrics, expected) = outcome(stacked), outcome(alone)
    for mine, other in zip(metrics, expected_metrics, strict=True):
        assert (mine.bytes_up, mine.bytes_down) == (other.bytes_up, other.bytes_down)
        assert mine.virtual_seconds == other.virtual_seconds
        accuracies = (np.array(m.accuracy_per_client or [], float) for m in (mine, other))  # nan: it dropped out
        np.testing.assert_allclose(*accuracies, atol=0.011)
    for state, wanted in zip(states, expected, strict=True):
        assert state.keys() == wanted.keys()
        for name, value in wanted.items():
            scale = max(float(np.abs(value).max(initial=0)), 1e-12)
            np.testing.assert_allclose(state[name] / scale, value / scale, rtol=0, atol=tolerance, err_msg=name)


def loss_section(loss: str) -> dict[str, Any]:
    if loss == "kl at 3":
        return {"loss": "kl", "temperature": 3}
    return {"loss": loss, **({"temperature": 2} if loss == "swing" else {})}


def slow_unless(first: bool, value: str) -> Any:
    return pytest.param(value, marks=[] if first else pytest.mark.slow)


OWN = {"name": "tests.simulation.test_stacked_runs:double_mlp"}
FLOAT32 = {"name": "float32"}


@pytest.mark.parametrize("method", [slow_unless(m in ("edgefd", "fedprox"), m) for m in METHODS])
def test_runs_of_every_kind_of_method_are_the_same(method: str) -> None:
    sections = {"method": {"name": method}, "model": OWN, "codec": FLOAT32, "train": {"local_steps": 2}}
    check_same(config_of(2, **sections), config_of(**sections))


@pytest.mark.parametrize("optimizer", [slow_unless(o == "adam", o) for o in ("adam", "sgd")])
@pytest.mark.parametrize("loss", [slow_unless(n in ("taid",), n) for n in LOSSES])
def test_runs_with_every_loss_are_the_same(loss: str, optimizer: str) -> None:
    sections = {"distillation": loss_section(loss), "model": OWN, "codec": FLOAT32, "train": {"optimizer": optimizer}}
    check_same(config_of(8, **sections), config_of(**sections))


@pytest.mark.parametrize(
    "sections",
    [
        {"coordinator": {"fraction": 0.6, "dropout": 0.3, "min_reports": 1}},
        {
            "train": {
                "schedule": "step",
                "step_rounds": 1,
                "augment_shift": 2,
                "local_epochs": 1,
                "reset_optimizer": True,
            }
        },
        {"devices": {"fleet": {"pi_4": 2, "phone": 1}}},
        {"model": {**OWN, "heads": 2}, "train": {"adjusted_steps": 0}},
        {"train": {"initial": "own", "optimizer": "sgd", "weight_decay": 0.01}},
    ],
    ids=["dropped out clients", "schedule", "virtual time", "two heads", "own initial parameters"],
)
def test_runs_with_other_settings_are_the_same(sections: dict[str, Any]) -> None:
    sections = {"model": OWN, "codec": FLOAT32, **sections}
    check_same(config_of(3, **sections), config_of(**sections))


def test_two_architectures_are_two_stacks_and_one_may_not_be_stacked(caplog: pytest.LogCaptureFixture) -> None:
    models: Any = [OWN, {"name": "tests.simulation.test_stacked_runs:dropout_mlp"}]
    mixed = [replace(config_of(stack), model=config_of(model=m).model) for stack in (8, "auto") for m in models[:1]]
    both = tuple(config_of(model=m).model[0] for m in models)
    stacked, alone = (replace(c, model=both, codec=replace(c.codec, name="float32")) for c in mixed)
    with caplog.at_level(logging.WARNING):
        check_same(stacked, alone)
    told = [r.getMessage() for r in caplog.records if "one after another" in r.getMessage()]
    assert len(told) == 1
    assert "dropout_mlp" in told[0]


def test_the_same_seed_has_the_same_bits_and_a_resumed_run_too(tmp_path: Path) -> None:
    def states(run: edgefd.Run) -> list[bytes]:
        return [value.tobytes() for weights in run.weights for value in weights.values()]

    config = config_of(2, run={"checkpoint_every": 1}, train={"rounds": 3})
    first = simulate_config(config, tmp_path / "first")
    again = simulate_config(config, tmp_path / "again")
    assert states(first) == states(again)
    assert json.loads((tmp_path / "first" / "env.json").read_text())["device"] == "cpu"

    class Stop(edgefd.Callback):
        def on_round(self, metrics: Any) -> None:
            if metrics.round == 1:
                raise KeyboardInterrupt

    with pytest.raises(Stopped):
        simulate_config(config, tmp_path / "stopped", callbacks=[Stop()])
    resumed = simulate_config(config, tmp_path / "stopped", resume=True)
    assert states(resumed) == states(first)


def test_an_error_of_one_client_names_it_and_ends_the_round() -> None:
    method = get_method("edgefd")

    def upload(ctx: Any) -> Any:
        if ctx.data.client == 3:
            raise ValueError("broken sensor")
        return method.upload(ctx)

    broken: Method = replace(method, upload=upload)
    config = load_config(SMALL, {"run.stack": 8, "method.name": "object:broken"}, {"object:broken": broken})
    transport = open_transport(config, prepare(config).federation)
    with pytest.raises(RunError, match="client 3 failed: ValueError: broken sensor"):
        list(simulate(transport))


def test_a_method_that_computes_with_samples_gets_arrays() -> None:
    method = get_method("fedmd")
    seen: list[Any] = []

    def upload(ctx: Any) -> Any:
        seen.append(float((ctx.proxy.x * 2 - ctx.proxy.x)[:3].sum() + ctx.data.x.mean()))
        return method.upload(ctx)

    own = replace(method, upload=upload)
    for stack in (8, "auto"):
        config = load_config(SMALL, {"run.stack": stack, "method.name": "object:own"}, {"object:own": own})
        list(simulate(open_transport(config, prepare(config).federation)))
    half = len(seen) // 2
    assert seen[:half] == seen[half:]


def test_bf16_changes_the_results_a_little() -> None:
    plain, short = (outcome(config_of(8, run={"precision": p}))[1][0]["model/fc1.weight"] for p in ("float32", "bf16"))
    assert 0 < np.abs(plain - short).max() < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "gpu"}, "run.device must be auto, cpu, cuda, cuda:N or mps, not gpu"),
        ({"device": "cuda:x"}, "run.device must be"),
        ({"stack": 0}, "run.stack must be auto, or a number"),
        ({"device": "cuda", "learner": "onnx"}, "learner onnx trains on the CPU"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse_config({"run": settings})
    assert "\n" not in str(error.value)


def test_dp_sgd_stays_on_the_cpu_one_after_another() -> None:
    for settings in ({"device": "cuda"}, {"stack": 4}):
        with pytest.raises(UserError, match="dp_sgd computes the gradients of single rows on the CPU"):
            parse_config({"run": settings, "defence": {"name": "dp_sgd"}, "train": {"local_steps": 1}})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_a_gpu_that_is_not_there_is_an_error_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run.device=cuda: .*set run.device=cpu") as error:
        simulate_config(config_of(run={"device": "cuda"}), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    assert find_device("cpu").name == "cpu"
    with pytest.raises(UserError, match="tf32 is for CUDA GPUs"):
        find_device("cpu", "tf32")


def test_ray_refuses_what_it_does_not_do(tmp_path: Path) -> None:
    for settings in ({"device": "cuda"}, {"stack": 4}, {"precision": "bf16"}):
        with pytest.raises(UserError, match="the Ray engine trains one client after another on CPU cores"):
            simulate_config(replace(config_of(), run=replace(config_of().run, **settings)), tmp_path / "run", "ray")


class FakeCuda:
    """A machine with two CUDA GPUs, as far as questions go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Test")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))


def test_devices_of_a_machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    assert [find_device(name).name for name in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:0",
        "cuda:0",
        "cuda:1",
        "cpu",
    ]
    assert find_device("cuda:1").label == "cuda:1 (NVIDIA Test)"
    with pytest.raises(UserError, match="torch finds 2 CUDA GPU"):
        find_device("cuda:2")
    with pytest.raises(UserError, match="tf32"):
        find_device("cuda", "tf32")
    assert unused_gpu(find_device("auto")) is None


def test_a_machine_that_does_not_use_its_gpu_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver = tmp_path / "version"
    monkeypatch.setattr(devices, "_DRIVER", driver)
    if not torch.cuda.is_available():
        assert unused_gpu(find_device("cpu")) is None
        driver.touch()
        assert "although this machine has an NVIDIA GPU" in (unused_gpu(find_device("cpu")) or "")
    FakeCuda(monkeypatch)
    assert unused_gpu(find_device("cpu")) == "training on the CPU, although this machine has a GPU (NVIDIA Test)"


def test_the_learner_of_a_stacked_client_is_a_learner() -> None:
    config = config_of(8)
    learner: Learner = open_transport(config, prepare(config).federation).state.clients[0].learner
    assert (
        learner.state().keys()
        == open_transport(config_of(), prepare(config).federation).state.clients[0].learner.state().keys()
    )
