"""A device whose model takes features: the extractor of the bundle computes them from raw samples, once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.cli import infer
from edgefd_client.sources import NpzSource, model_input, read_samples

from edgefd.config.load import parse_config
from edgefd.core.errors import UserError
from edgefd.data.cache import cache_folder
from edgefd.wire.bundle_reader import read_bundle
from tests.support.bundles import replace_file
from tests.support.extractors import graph
from tests.support.federations import ExportedFederation, export_federation


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExportedFederation:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "own.onnx").write_bytes(graph())
    return export_federation(
        parse_config(
            {
                "data": {"name": "mnist_mini", "limit": 600, "extractor": str(tmp_path / "own.onnx")},
                "partition": {"name": "weak", "n_clients": 3},
                "model": {"name": "linear"},
                "method": {"name": "edgefd", "n_clusters": 4},
                "train": {"rounds": 2},
            }
        ),
        tmp_path / "f",
    )


def test_a_device_computes_the_same_features_as_the_simulation(federation: ExportedFederation) -> None:
    bundle = federation.read()
    assert (bundle.manifest.shape, bundle.manifest.sample_shape) == ((12,), (1, 28, 28))
    for i, simulated in enumerate(federation.prepared.federation.clients):
        with np.load(federation.data[i]) as arrays:
            assert arrays["x"].dtype == np.uint8
            assert arrays["x"].shape[1:] == (1, 28, 28)
        data = federation.client(i)
        np.testing.assert_allclose(data.x, simulated.x, atol=1e-4)
        np.testing.assert_allclose(data.x_heldout, simulated.x_heldout, atol=1e-4)
        assert np.array_equal(data.y, simulated.y)


def test_features_are_computed_once(federation: ExportedFederation, monkeypatch: pytest.MonkeyPatch) -> None:
    first = federation.client(0)
    monkeypatch.setattr("edgefd.data.features.extract", None)
    assert np.array_equal(federation.client(0).x, first.x)


def test_inference_takes_raw_samples(
    federation: ExportedFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 28, 28), np.uint8))
    infer(federation.read(), None, tmp_path / "x.npy", None)
    assert len(capsys.readouterr().out.split()) == 3


def test_inference_keeps_nothing_of_its_samples(federation: ExportedFederation, tmp_path: Path) -> None:
    before = {path.name for path in cache_folder("features").iterdir()}
    for i in range(3):
        np.save(tmp_path / "x.npy", np.random.default_rng(i).integers(0, 256, (3, 1, 28, 28), np.uint8))
        infer(federation.read(), None, tmp_path / "x.npy", tmp_path / "logits.npy")
    assert {path.name for path in cache_folder("features").iterdir()} == before
    assert np.load(tmp_path / "logits.npy").shape == (3, 10)
    assert (tmp_path / "logits.npy").stat().st_mode & 0o077 == 0


def test_features_instead_of_raw_samples_are_refused(federation: ExportedFederation, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((5, 12), np.float32), y=np.zeros(5, np.int64))
    with pytest.raises(UserError, match=r"of samples of shape \[1, 28, 28\]"):
        read_samples(NpzSource(tmp_path / "d.npz"), federation.read())


def test_an_extractor_that_does_not_fit_the_bundle_is_refused(federation: ExportedFederation) -> None:
    bundle = replace(federation.read(), extractor=graph(np.ones((784, 5), np.float32)))
    with pytest.raises(UserError, match=r"gives \[5\] features, but the model takes \[12\]"):
        model_input(np.zeros((2, 1, 28, 28), np.uint8), bundle)
    (federation.bundle / "extractor.onnx").write_bytes(graph(np.ones((784, 12), np.float32)))
    with pytest.raises(UserError, match=r"extractor\.onnx differs from the size or sha256 in manifest\.json"):
        read_bundle(federation.bundle)
    replace_file(federation.bundle, "other.onnx", b"")
    with pytest.raises(UserError, match=r"must name exactly .*extractor\.onnx"):
        read_bundle(federation.bundle)
