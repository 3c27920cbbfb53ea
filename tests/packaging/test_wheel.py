"""The wheel, installed where there is no checkout."""

import json
import sys
from pathlib import Path

import pytest

from tests.packaging.environments import make_environment

pytestmark = [pytest.mark.slow, pytest.mark.system]
SETTINGS = ["partition.n_clients=4", "train.rounds=2", "model.name=mlp", "method.n_clusters=3"]


def test_the_installed_wheel_simulates_two_rounds_of_mnist_mini(wheel: Path, tmp_path: Path) -> None:
    environment = make_environment(sys.executable, tmp_path / "venv")
    environment.install("torch")  # first: pip would prefer another build if another package asked for it
    environment.install(f"{wheel}[sim]")
    assert environment.place("edgefd").is_relative_to(environment.folder)
    work = tmp_path / "work"
    work.mkdir()
    (work / "config.yaml").write_text("{data: {name: mnist_mini, limit: 600}, method: {name: edgefd}}\n")
    output = environment.run("edgefd", "simulate", "config.yaml", *SETTINGS, "--out", "run", cwd=work)
    assert "final accuracy" in output
    summary = json.loads((work / "run" / "summary.json").read_text())
    assert summary["complete"] is True
    assert summary["data_source"] == "packaged with edgefd"
    assert [json.loads(line)["round"] for line in (work / "run" / "metrics.jsonl").open()] == [0, 1, 2]
