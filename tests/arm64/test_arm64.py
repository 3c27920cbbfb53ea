"""The client as aarch64 code under qemu, with Debian's Python and the real aarch64 wheels."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edgefd_client.state import load_state

from edgefd.config.load import parse_config
from edgefd.config.schema import Config
from tests.support.debian_roots import REPOSITORY, Roots
from tests.support.federations import ExportedFederation, agents, coordinate, export_federation, small, undisturbed

pytestmark = pytest.mark.slow
SECONDS = 300.0


def emulated(debian: Roots, *arguments: str) -> str:
    done = subprocess.run(
        debian.command(*arguments), env=debian.environment(), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def config(model: str) -> Config:
    sections = small(rounds=3).to_dict() | {"model": {"name": model}, "data": {"name": "mnist_mini", "limit": 4000}}
    return parse_config(sections)


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    return export_federation(config("mlp"), tmp_path_factory.mktemp("mlp"))


@pytest.fixture(scope="module")
def cnn_edge(tmp_path_factory: pytest.TempPathFactory) -> ExportedFederation:
    return export_federation(config("cnn_edge"), tmp_path_factory.mktemp("cnn_edge"))


@pytest.mark.parametrize("model", ["mlp", "cnn_edge"])
def test_the_doctor_accepts_an_aarch64_machine(debian: Roots, model: str, request: pytest.FixtureRequest) -> None:
    bundle = request.getfixturevalue(model).bundle
    output = emulated(debian, "-m", "edgefd_client", "doctor", "--bundle", str(bundle))
    assert "aarch64, 64-bit" in output
    assert "self-test" in output


def test_five_adam_steps_give_the_state_of_x86(debian: Roots, mlp: ExportedFederation, tmp_path: Path) -> None:
    script = str(REPOSITORY / "tests" / "arm64" / "steps.py")
    arm64, x86 = str(tmp_path / "arm64.npz"), str(tmp_path / "x86.npz")
    emulated(debian, script, str(mlp.bundle), "5", arm64)
    environment = {"PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in ("", "client", "proto"))}
    subprocess.run([sys.executable, script, str(mlp.bundle), "5", x86], env=environment, check=True, timeout=SECONDS)
    with np.load(arm64) as a, np.load(x86) as b:
        assert max(float(np.abs(a[name] - b[name]).max()) for name in a.files) <= 1e-5
        assert float(b["optimizer/step"]) == 5


def test_an_aarch64_device_and_two_x86_devices_complete_three_rounds(
    debian: Roots, cnn_edge: ExportedFederation, tmp_path: Path
) -> None:
    exchange, state = tmp_path / "exchange", tmp_path / "state0"
    options = {"bundle": cnn_edge.bundle, "data": cnn_edge.data[0], "state": state, "exchange": exchange, "client": 0}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    device = subprocess.Popen(
        debian.command("-m", "edgefd_client", "run", *arguments),
        env=debian.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with cnn_edge.open(exchange, SECONDS) as transport, agents(cnn_edge, tmp_path, (1, 2)):
            teachers = coordinate(cnn_edge, transport)
        output, errors = device.communicate(timeout=SECONDS)
    finally:
        device.kill()
    assert device.returncode == 0, errors[-2000:]
    assert "round 3: held-out accuracy" in output
    x86_teachers = undisturbed(cnn_edge, tmp_path / "x86")
    for a, b in zip(teachers, x86_teachers, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert float(np.abs(a.values - b.values).max()) < 0.02
    check_inference(debian, cnn_edge, state, tmp_path)


def check_inference(debian: Roots, federation: ExportedFederation, state: Path, folder: Path) -> None:
    """Check that the device's model gives the same results on aarch64 and on x86."""
    bundle = federation.read()
    saved = load_state(state, bundle.digest)
    assert saved is not None
    assert saved.round == 3
    np.save(folder / "x.npy", np.load(federation.data[0])["x"][:50])
    arguments = ["infer", "--bundle", str(federation.bundle), "--state", str(state), "--input", str(folder / "x.npy")]
    arm64_output = emulated(debian, "-m", "edgefd_client", *arguments)
    environment = {"PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in ("", "client", "proto"))}
    x86 = subprocess.run(
        [sys.executable, "-m", "edgefd_client", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert arm64_output == x86.stdout
    assert len(arm64_output.split()) == 50
