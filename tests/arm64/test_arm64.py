"""The actual client as aarch64 code, under qemu, with Debian's Python and the real aarch64 wheels."""

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
from tests.support.federations import Dealt, agents, coordinate, dealt, small, undisturbed

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
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Dealt:
    return dealt(config("mlp"), tmp_path_factory.mktemp("mlp"))


@pytest.fixture(scope="module")
def cnn_edge(tmp_path_factory: pytest.TempPathFactory) -> Dealt:
    return dealt(config("cnn_edge"), tmp_path_factory.mktemp("cnn_edge"))


@pytest.mark.parametrize("model", ["mlp", "cnn_edge"])
def test_the_doctor_trusts_the_machine(debian: Roots, model: str, request: pytest.FixtureRequest) -> None:
    bundle = request.getfixturevalue(model).bundle
    said = emulated(debian, "-m", "edgefd_client", "doctor", "--bundle", str(bundle))
    assert "aarch64, 64-bit" in said
    assert "self-test" in said


def test_five_adam_steps_are_those_of_x86(debian: Roots, mlp: Dealt, tmp_path: Path) -> None:
    script = str(REPOSITORY / "tests" / "arm64" / "steps.py")
    there, here = str(tmp_path / "there.npz"), str(tmp_path / "here.npz")
    emulated(debian, script, str(mlp.bundle), "5", there)
    own = {"PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in ("", "client", "proto"))}
    subprocess.run([sys.executable, script, str(mlp.bundle), "5", here], env=own, check=True, timeout=SECONDS)
    with np.load(there) as a, np.load(here) as b:
        assert max(float(np.abs(a[name] - b[name]).max()) for name in a.files) <= 1e-5
        assert float(b["optimizer/step"]) == 5


def test_three_rounds_beside_two_other_devices(debian: Roots, cnn_edge: Dealt, tmp_path: Path) -> None:
    exchange, state = tmp_path / "exchange", tmp_path / "state0"
    transport = cnn_edge.open(exchange, SECONDS)
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
        with agents(cnn_edge, tmp_path, (1, 2)):
            teachers = coordinate(cnn_edge, transport)
        said, complaint = device.communicate(timeout=SECONDS)
    finally:
        device.kill()
    assert device.returncode == 0, complaint[-2000:]
    assert "round 3: held-out accuracy" in said
    plain = undisturbed(cnn_edge, tmp_path / "x86")
    for a, b in zip(teachers, plain, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert float(np.abs(a.values - b.values).max()) < 0.02
    assert_infers_alike(debian, cnn_edge, state, tmp_path)


def assert_infers_alike(debian: Roots, made: Dealt, state: Path, folder: Path) -> None:
    bundle = made.read()
    saved = load_state(state, bundle.digest)
    assert saved is not None
    assert saved.round == 3
    np.save(folder / "x.npy", np.load(made.data[0])["x"][:50])
    arguments = ["infer", "--bundle", str(made.bundle), "--state", str(state), "--input", str(folder / "x.npy")]
    there = emulated(debian, "-m", "edgefd_client", *arguments)
    own = {"PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in ("", "client", "proto"))}
    here = subprocess.run(
        [sys.executable, "-m", "edgefd_client", *arguments], env=own, capture_output=True, text=True, timeout=SECONDS
    )
    assert there == here.stdout
    assert len(there.split()) == 50
