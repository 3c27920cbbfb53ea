"""A small recorded run that the tests of the audit share."""

import shutil
from pathlib import Path

import pytest

from tests.support.commands import QUICKSTART, edgefd

SMALL = [
    "data.limit=1000",
    "proxy.source=contributed",
    "data.heldout=0.4",
    "train.rounds=2",
    "model.name=cnn_small",
    "baselines=[]",
]
SETTINGS = [*SMALL, "method.n_clusters=10", "run.record_knowledge=true", "run.workers=0", "partition.n_clients=10"]


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with recorded knowledge, which tests only read."""
    folder = tmp_path_factory.mktemp("audit")
    done = edgefd("simulate", QUICKSTART, *SETTINGS, "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the recorded run, which a test may change."""
    shutil.copytree(recorded, tmp_path / "run")
    return tmp_path / "run"
