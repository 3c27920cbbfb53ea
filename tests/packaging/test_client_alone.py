"""The client extra alone, as on a device, for each Python version that edgefd supports."""

from pathlib import Path

import numpy as np
import pytest

from tests.packaging.environments import HERE, interpreter, make_environment, run

pytestmark = [pytest.mark.slow, pytest.mark.system]
HEAVY = ["torch", "flwr", "sklearn", "scipy", "numba", "pydantic", "typer", "rich"]
CONFIG = """
data:      {name: mnist_mini, limit: 600}
partition: {name: weak, n_clients: 3}
model:     {name: cnn_edge}
method:    {name: edgefd, n_clusters: 4}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that the environment of the tests has exported, and raw samples next to it."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "config.yaml").write_text(CONFIG)
    run(HERE / "edgefd", "export", "config.yaml", "--out", "bundle", cwd=folder)
    samples = np.random.default_rng(0).integers(0, 256, (50, 1, 28, 28), dtype=np.uint8)
    np.save(folder / "samples.npy", samples)
    run(HERE / "edgefd-client", *classify(folder / "bundle", folder / "logits.npy"), cwd=folder)
    return folder / "bundle"


def classify(bundle: Path, out: Path) -> list[str | Path]:
    return ["infer", "--bundle", bundle, "--input", bundle.parent / "samples.npy", "--out", out]


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_client_alone_checks_its_machine_and_infers(
    version: str, wheel: Path, bundle: Path, tmp_path: Path
) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    environment = make_environment(python, tmp_path / "venv")
    environment.install(f"{wheel}[client]")
    assert environment.has(*HEAVY, "onnxruntime", "grpc") == ["onnxruntime", "grpc"]
    assert environment.place("edgefd_client").is_relative_to(environment.folder)
    output = environment.run("edgefd-client", "doctor", "--bundle", bundle, cwd=tmp_path)
    assert "self-test" in output
    assert f"python {version}." in output
    environment.run("edgefd-client", *classify(bundle, tmp_path / "logits.npy"), cwd=tmp_path)
    logits = np.load(tmp_path / "logits.npy")
    assert logits.shape == (50, 10)
    np.testing.assert_allclose(logits, np.load(bundle.parent / "logits.npy"), rtol=1e-4, atol=1e-5)
