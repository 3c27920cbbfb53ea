"""Named models: the samples that they accept and refuse, their properties, and a small run of the sensor demo."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from edgefd.config.load import load_config
from edgefd.core.errors import UserError
from edgefd.data.datasets import find_dataset
from edgefd.learners.batches import Batch
from edgefd.learners.models import MODELS, WINDOW_MODELS, ResidualBlock, build_model, check_model
from edgefd.learners.torch_learner import TorchLearner
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import open_transport, simulate

WATCH = Path(__file__).parents[2] / "simulations/edge/watch.yaml"


@pytest.mark.parametrize(
    ("name", "shape"),
    [("cnn1d", (6, 100)), ("cnn1d", (1, 16)), ("cnn1d", (3, 17)), ("mlp", (6, 100))]
    + [(name, shape) for name in ("gru", "transformer") for shape in ((6, 100), (1, 16), (3, 17))],
)
def test_models_for_windows_accept_windows_of_sensors(name: str, shape: tuple[int, ...]) -> None:
    logits = build_model(name, shape, 7, 0)(torch.randn(5, *shape))
    assert logits.shape == (5, 7)


@pytest.mark.parametrize("name", [n for n in MODELS if n not in WINDOW_MODELS])
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 17, 30)])
def test_models_for_images_accept_images(name: str, shape: tuple[int, ...]) -> None:
    assert build_model(name, shape, 4, 0)(torch.randn(5, *shape)).shape == (5, 4)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_models_of_any_shape_accept_features(name: str) -> None:
    assert build_model(name, (1280,), 10, 0)(torch.randn(5, 1280)).shape == (5, 10)


def test_a_new_residual_block_returns_its_input() -> None:
    block, x = ResidualBlock(4, 4, 1), torch.rand(2, 4, 6, 6)
    assert torch.equal(block(x), x)


def test_a_depthwise_convolution_uses_only_its_own_channel() -> None:
    layer = build_model("dwnet", (1, 16, 16), 3, 0).depth1
    x = torch.randn(1, 16, 8, 8)
    changed = x.clone()
    changed[:, 3] += 1
    change = (layer(changed) - layer(x)).abs().amax((0, 2, 3))  # type: ignore[operator]
    assert (change > 1e-3).nonzero().flatten().tolist() == [3]


def test_random_features_are_never_trained_and_ignore_brightness() -> None:
    model = build_model("random_features", (1, 16, 16), 3, 0)
    before = model.filters.clone()  # type: ignore[operator]
    learner = TorchLearner(model, "adam")
    x = np.random.default_rng(0).standard_normal((8, 1, 16, 16)).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[np.arange(8) % 3]
    loss = [learner.train([Batch(x, labels, np.ones(8, np.float32))], 0.01) for _ in range(30)]
    assert loss[-1] < loss[0] / 2
    assert torch.equal(model.filters, before)
    assert [name for name, _ in model.named_parameters()] == ["fc.weight", "fc.bias"]
    assert np.allclose(learner.predict_logits(x), learner.predict_logits(x + 3), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnet", (1, 28, 28), "did you mean 'resnet8'"),
        ("cnn1d", (6, 15), r"needs windows \[channels, 16 steps or more\], not samples of shape \[6, 15\]: use mlp"),
        ("cnn1d", (600,), r"not samples of shape \[600\]: use mlp"),
        ("cnn1d", (1, 28, 28), r"not samples of shape \[1, 28, 28\]: use cnn"),
        ("cnn", (6, 100), r"needs images of 16 x 16 or more, not samples of shape \[6, 100\]: use cnn1d"),
        ("cnn_edge", (1, 8, 8), r"not samples of shape \[1, 8, 8\]: use mlp"),
        ("cnn1", (6, 100), "did you mean 'cnn1d'"),
    ],
)
def test_samples_of_the_wrong_shape_and_unknown_models_are_refused(
    name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_model(name, shape, 4)


def refusal(name: str, shape: tuple[int, ...]) -> str:
    try:
        check_model(name, shape, 4)
    except UserError as error:
        return str(error)
    return ""


def takes(name: str, shape: tuple[int, ...]) -> bool:
    return build_model(name, shape, 4, 0)(torch.zeros(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize("shape", [s for n in (1, 2, 3) for s in itertools.product((4, 15, 16), repeat=n)])
def test_the_advice_about_a_shape_names_a_model_and_an_order_of_axes_that_work(shape: tuple[int, ...]) -> None:
    for name in MODELS:
        if not (line := refusal(name, shape)):
            assert takes(name, shape)
            continue
        advice = re.fullmatch(r".*?: (?:give the channels first, as \[([\d, ]+)\], or )?use (\w+)", line)
        assert advice, line
        assert takes(advice[2], shape)
        if advice[1]:
            turned = tuple(map(int, advice[1].split(", ")))
            assert sorted(turned) == sorted(shape)
            assert takes(name, turned)


def test_images_with_their_channels_last_and_windows_with_their_steps_first_get_advice_to_turn_them() -> None:
    with pytest.raises(UserError, match=r"give the channels first, as \[4, 28, 28\], or use mlp"):
        check_model("cnn", (28, 28, 4), 10)
    with pytest.raises(UserError, match=r"give the channels first, as \[6, 128\], or use mlp"):
        check_model("cnn1d", (128, 6), 10)
    check_model("cnn", (4, 28, 28), 10)


def test_logits_of_cnn1d_do_not_depend_on_the_start_of_a_window() -> None:
    model = build_model("cnn1d", (2, 400), 3, 0)
    x = torch.zeros(1, 2, 400)
    x[0, :, 160:200] = torch.randn(2, 40)
    with torch.no_grad():
        assert torch.allclose(model(x), model(x.roll(64, 2)), atol=1e-5)
        assert not torch.allclose(model(x), model(-x), atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(find_dataset("watch") is None, reason="watch.npz is not in EDGEFD_DATA")
@pytest.mark.parametrize("learner", ["torch", "onnx"])
def test_the_sensor_demo_beats_chance_on_unseen_people(learner: str) -> None:
    small = ["train.rounds=8", "baselines=[]", "run.workers=0", "run.evaluate_every=100", f"run.learner={learner}"]
    config = load_config(WATCH, small)
    last = list(simulate(open_transport(config, prepare(config).federation)))[-1]
    assert last.accuracy_per_client is not None
    assert len(last.accuracy_per_client) == 8
    assert np.mean(last.accuracy_per_client) > 0.4  # chance is 1/7
    assert np.min(last.accuracy_per_client) > 0.25
