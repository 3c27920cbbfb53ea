"""No internet at all: in a network of nothing but loopback, simulation and federation run to their end."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from edgefd_server.coordinator.checkpoint import CHECKPOINT, LOCK

ROOT = Path(__file__).parents[2]
SECONDS = 580.0


def alone(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command with loopback only, without data sets beside those of the package, in an empty home."""
    path = os.pathsep.join(str(ROOT / part) for part in ("", "proto", "server", "client"))
    environment = {name: value for name, value in os.environ.items() if name != "EDGEFD_DATA"}
    environment |= {"PYTHONPATH": path, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run(
        ["unshare", "--net", "sh", "-ec", 'ip link set lo up && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
        cwd=folder,
    )


def test_there_really_is_no_way_out(networks: None, tmp_path: Path) -> None:
    done = alone(["ip", "route", "get", "192.0.2.1"], tmp_path)
    assert done.returncode != 0
    assert "unreachable" in done.stderr


@pytest.mark.slow
def test_the_quickstart_is_simulated(networks: None, tmp_path: Path) -> None:
    settings = ["baselines=[]", "train.rounds=3"]
    command = [sys.executable, "-m", "edgefd", "simulate", str(ROOT / "simulations/quickstart.yaml"), *settings]
    done = alone([*command, "--out", "run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.slow
def test_a_federation_of_processes(networks: None, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "simulations/federation.py"), "--clients", "2", "--rounds", "2"]
    done = alone([*command, "--out", "run"], tmp_path)
    assert done.returncode == 0, done.stderr  # it fails if devices and simulation differ
    devices, simulation = re.findall(r"(?:devices|simulation)  +([\d.]+)  ", done.stdout)
    assert devices == simulation
    assert "torch not loaded" in done.stdout
    names = {file.name for file in (tmp_path / "run").iterdir()}
    records = {"config.yaml", "env.json", "partition.json", "metrics.jsonl", "evaluation.json", "summary.json"}
    assert names == records | {"link.jsonl", CHECKPOINT, LOCK}
