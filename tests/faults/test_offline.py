"""Without internet: simulation and federation complete in a network namespace that has only loopback."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgefd.runs.checkpoint import CHECKPOINT, LOCK
from tests.support.fork_server import environment

ROOT = Path(__file__).parents[2]
SECONDS = 580.0


def run_offline(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with loopback only, an empty home directory, and no data sets other than those of the package."""
    where = environment("proto", "server", "client") | {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    where.pop("EDGEFD_DATA", None)
    return subprocess.run(
        ["unshare", "--net", "sh", "-ec", 'ip link set lo up && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=where,
        cwd=folder,
    )


def test_the_namespace_cannot_reach_the_internet(networks: None, tmp_path: Path) -> None:
    done = run_offline(["ip", "route", "get", "192.0.2.1"], tmp_path)
    assert done.returncode != 0
    assert "unreachable" in done.stderr


@pytest.mark.slow
def test_the_quickstart_completes_offline(networks: None, tmp_path: Path) -> None:
    settings = ["baselines=[]", "train.rounds=3"]
    command = [sys.executable, "-m", "edgefd", "simulate", str(ROOT / "simulations/quickstart.yaml"), *settings]
    done = run_offline([*command, "--out", "run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.slow
def test_a_federation_of_processes_completes_offline(networks: None, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "simulations/federation.py"), "--clients", "2", "--rounds", "2"]
    done = run_offline([*command, "--out", "run"], tmp_path)
    assert done.returncode == 0, done.stderr  # the script fails if devices and simulation differ
    devices, simulation = re.findall(r"(?:devices|simulation)  +([\d.]+)  ", done.stdout)
    assert devices == simulation
    assert "torch not loaded" in done.stdout
    names = {file.name for file in (tmp_path / "run").iterdir()}
    records = {"config.yaml", "env.json", "partition.json", "metrics.jsonl", "evaluation.json", "summary.json"}
    assert names == records | {"link.jsonl", CHECKPOINT, LOCK}
