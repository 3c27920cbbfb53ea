"""The demos on data that come with packages: each runs from its files, and EdgeFD learns what no client knows alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgefd
from edgefd.config.load import load_config
from edgefd.core.yaml_files import read_yaml
from tests.support.commands import ROOT

FOLDER = ROOT / "simulations" / "demos"
DEMOS = {"table": 2, "digits": 10, "text": 5, "windows": 6, "patches": 4}
"""number of classes of each demo"""
ROUNDS = {"table": 5, "digits": 5, "windows": 5}
"""rounds that are enough here; the other demos run as they are"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with runs/demos/*.npz."""
    pytest.importorskip("PIL")
    folder = tmp_path_factory.mktemp("demos")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "make_data.py"), "runs/demos"], cwd=folder, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    return folder


def test_every_demo_has_a_header_a_public_proxy_set_and_the_control() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(DEMOS)
    for name in DEMOS:
        path = FOLDER / f"{name}.yaml"
        words = [line.split()[1] for line in path.read_text().splitlines() if line.startswith("# ") and line[2] != " "]
        assert words == ["What:", "Run:", "Needs:", "Takes:", "Expect:"]
        assert read_yaml(path)["proxy"]["source"] == "public"
        assert load_config(path).baselines == ("indlearn",)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_runs_and_beats_clients_that_exchange_nothing(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    short = {"train.rounds": ROUNDS[name]} if name in ROUNDS else {}
    run = edgefd.simulate(str(FOLDER / f"{name}.yaml"), {"run.workers": 0, **short}, out=tmp_path / "run")
    assert run.federation.n_classes == DEMOS[name]
    assert run.federation.raw_samples_disclosed == 0
    assert run.summary["accuracy_mean"] > run.baselines["indlearn"].summary["accuracy_mean"] + 0.1
    if name == "windows":
        assert [client.name for client in run.federation.clients] == [f"person {p}" for p in range(8)]


@pytest.mark.slow
def test_no_test_pixel_of_a_photograph_is_in_a_training_patch(folder: Path) -> None:
    with np.load(folder / "runs" / "demos" / "patches.npz") as patches:
        columns = {
            part: {x[:, :, c].tobytes() for x in patches[f"x_{part}"] for c in range(64)} for part in ("train", "test")
        }
    assert not columns["train"] & columns["test"]
