"""The reader of run folders: a damaged file is refused in one line, and a run given twice is found once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from edgefd.core.errors import UserError
from edgefd.runs.read import find_run_folders, read_config, read_json, read_run

CONFIG = {
    "data": {"name": "a"},
    "method": {"name": "m"},
    "partition": {"name": "iid"},
    "train": {"rounds": 1},
    "seed": 0,
}
ROUND = {
    "round": 0, "closing": True, "seconds": 1.0, "accuracy_mean": 0.5, "accuracy_worst": 0.5,
    "accuracy_per_client": [0.5], "heldout_accuracy_mean": None, "kept_fraction": 0.0, "kept_per_client": [0.0],
    "wrong_claims": None, "teacher_coverage": 0.0, "teacher_accuracy": None, "distil_loss": None, "train_loss": None,
    "bytes_up": 0, "bytes_down": 0,
}  # fmt: skip
SUMMARY = {
    "method": "m", "dataset": "a", "scenario": "iid", "seed": 0, "rounds": 0, "complete": True, "n_clients": 1,
    "bytes_up": 0, "bytes_down": 0, "bytes_once": 0, "seconds_total": 1.0, "seconds_per_round": 1.0,
    "kept_fraction": 0.0, "teacher_coverage": 0.0, "proxy_labels_used": False, "raw_samples_disclosed": 0,
    "data_source": "packaged", "data_samples": 10, "data_sha256": "00",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete run folder, which a test may damage."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (run / "metrics.jsonl").write_text(json.dumps(ROUND) + "\n")
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    return run


def test_a_run_folder_is_read_as_a_record(folder: Path) -> None:
    run = read_run(folder)
    assert (run.method, run.scenario, run.dataset, run.complete, run.simulated) == ("m", "iid", "a", True, True)
    assert run.partition is run.evaluation is None
    assert run.environment == {}


def list_instead_of_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("[]")


def config_without_method(folder: Path) -> None:
    (folder / "config.yaml").write_text("seed: 0\n")


def config_that_is_missing(folder: Path) -> None:
    (folder / "config.yaml").unlink()


def metrics_without_rounds(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text("")


def round_without_fields(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"round": 0}\n')


def summary_with_text_for_a_number(folder: Path) -> None:
    (folder / "summary.json").write_text(json.dumps(SUMMARY | {"bytes_once": "many"}))


def summary_that_is_not_text(folder: Path) -> None:
    (folder / "summary.json").write_bytes(b"\xff")


def evaluation_with_one_bin(folder: Path) -> None:
    teacher = {"count": [1], "confidence": [1], "correct": [1]}
    evaluation = {"test_by_class": [1], "correct_by_class": [None], "clients": [None], "teacher": teacher}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (list_instead_of_config, r"config\.yaml is not the config of a run"),
        (config_without_method, r"config\.yaml is not the config of a run: 'method'"),
        (config_that_is_missing, r"cannot read .*config\.yaml: No such file"),
        (metrics_without_rounds, "completed no round"),
        (round_without_fields, r"metrics\.jsonl, line 1 does not describe a round: closing: Field required"),
        (summary_with_text_for_a_number, r"summary\.json is malformed: bytes_once"),
        (summary_that_is_not_text, r"cannot read .*summary\.json: it is not text"),
        (evaluation_with_one_bin, r"evaluation\.json is malformed: teacher: .*15 bins"),
    ],
)
def test_a_damaged_run_folder_is_refused_in_one_line(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message) as raised:
        read_run(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("content", "message"), [("{", "is malformed: Expecting"), ("[]", "JSON object, not a list")])
def test_json_that_is_no_object_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "summary.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_json(folder / "summary.json")
    assert read_config(folder) == CONFIG


def test_a_folder_that_is_named_twice_is_found_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert find_run_folders([Path("run"), folder, Path()], "summary.json") == [Path("run")]
    with pytest.raises(UserError, match=r"nowhere holds no finished run \(no summary\.json at or below it\)"):
        find_run_folders([folder, Path("nowhere")], "summary.json", "finished run")
