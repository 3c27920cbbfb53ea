"""The files of a run folder hold the fields that the reference describes, and no others."""

import dataclasses
import json
from pathlib import Path

import pytest
from safetensors import safe_open

from edgefd.core.field_docs import field_docs
from edgefd.runs.files import RUN_FILES
from edgefd.runs.model_files import model_path
from tests.support.commands import QUICKSTART, edgefd

SMALL = ("data.limit=300", "train.rounds=1", "model.name=linear", "baselines=[fedmd]", "train.augment_shift=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("run")
    done = edgefd("simulate", QUICKSTART, *SMALL, "run.record_knowledge=true", "--out", "run", cwd=work)
    assert done.returncode == 0, done.stderr
    return work / "run"


def test_every_file_that_a_run_writes_is_listed(run: Path) -> None:
    listed = {file.name.partition("/")[0] for file in RUN_FILES}
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} <= listed


@pytest.mark.parametrize("name", [file.name for file in RUN_FILES if file.kinds])
def test_a_json_file_has_the_described_fields(run: Path, name: str) -> None:
    kind, *_ = next(file.kinds for file in RUN_FILES if file.name == name)
    if name == "models/":
        with safe_open(model_path(run, 1, 0), "numpy") as file:
            text = file.metadata()["edgefd"]
    else:
        text = (run / name).read_text()
    fields = {field.name for field in dataclasses.fields(kind)}
    for line in text.splitlines() if name.endswith(".jsonl") else [text]:
        assert set(json.loads(line)) == fields - {"evaluation"}


def test_an_entry_of_partition_json_has_the_described_fields(run: Path) -> None:
    _, client = next(file.kinds for file in RUN_FILES if file.name == "partition.json")
    written = json.loads((run / "partition.json").read_text())["clients"]
    fields = {field.name for field in dataclasses.fields(client)} - {"name"}  # these clients are no groups
    assert all(set(entry) == fields for entry in written)


@pytest.mark.parametrize("kind", [kind for file in RUN_FILES for kind in file.kinds])
def test_every_field_is_described(kind: type) -> None:
    assert set(field_docs(kind)) == {field.name for field in dataclasses.fields(kind)}
