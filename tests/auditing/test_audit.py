"""`edgefd audit` and `edgefd inspect` as a user runs them, on one small recorded run."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgefd.auditing.recording.read import open_recording, reports
from edgefd.runs.record import KNOWLEDGE
from tests.support.commands import QUICKSTART, audit, edgefd
from tests.support.one_line import one_line


def test_level_0_counts_raw_records_and_infers_classes(run: Path) -> None:
    done = audit(run, "--level", "0")
    assert done.returncode == 0, done.stderr
    result = json.loads((run / "audit" / "audit.json").read_text())
    assert result["exposure"]["ledger"]["raw_records_sent"] == 100
    assert result["exposure"]["labels"]["masks"]["presence_auc"]["value"] >= 0.97
    assert result["membership"] == []
    assert "100 raw private records" in (run / "audit" / "audit.html").read_text()


@pytest.mark.slow
def test_level_1_passes_its_controls_and_resumes_and_fails_on_exceeded_limits(run: Path) -> None:
    first = audit(run, "--fail-if", "presence_auc>0.9")
    one_line(first, 1, "presence_auc>0.9: found 1")
    result = json.loads((run / "audit" / "audit.json").read_text())
    assert result["schema"] == 1
    assert result["valid"]
    assert set(result["controls"]["null"]) == set(result["controls"]["positive"])
    assert min(a["low"] for a in result["controls"]["positive"].values()) > 0.5
    views = {(r["adversary"], r["attack"]) for r in result["membership"]}
    assert {("server", "coop_lira"), ("client", "rmia"), ("holder", "lira"), ("server", "weight")} <= views
    for r in result["membership"]:
        assert r["tpr"]["0.1%"]["tpr"] is None
        assert "needs 999 non-members" in r["tpr"]["0.1%"]["reason"]
    scores = np.load(run / "audit" / "scores.npz")
    assert {"server/0001/loss", "holder/final/lira"} <= set(scores.files)
    before = {p.name: p.stat().st_mtime_ns for p in (run / "audit" / "signals").iterdir()}
    repeated = audit(run)
    assert repeated.returncode == 0, repeated.stderr
    assert {p.name: p.stat().st_mtime_ns for p in (run / "audit" / "signals").iterdir()} == before
    repeated_result = json.loads((run / "audit" / "audit.json").read_text())
    assert repeated_result["membership"] == result["membership"]
    one_line(audit(run, "--fail-if", "tpr@0.1%>0.5"), 2, "measures tpr@0.1%")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--attack", "lora"], ["unknown attack 'lora'", "did you mean 'lira'?"]),
        (["--adversary", "god"], ["unknown adversary 'god'"]),
        (["--fail-if", "tpr@1%=0.05"], ["must look like 'tpr@1%>0.05'"]),
        (["--fail-if", "beauty>0.05"], ["must look like"]),
        (["--fail-if", "auc>1.2.3"], ["must look like"]),
        (["--level", "0", "--attack", "lira"], ["attack lira needs --level 1"]),
        (["--level", "0", "--fail-if", "auc>0.6"], ["measures auc"]),
    ],
)
def test_a_bad_request_is_refused_in_one_line(run: Path, arguments: list[str], words: list[str]) -> None:
    one_line(audit(run, *arguments), 2, *words)  # in a copy: a limit on what was not measured is refused late


def test_inspect_lists_the_content_of_a_message(recorded: Path) -> None:
    rounds = recorded / KNOWLEDGE / "rounds"
    done = edgefd("inspect", str(rounds / "0001" / "reports" / "2.bin"), cwd=recorded)
    report = reports(open_recording(recorded), 1)[2]
    assert "edgefd.v1.Report" in done.stdout
    assert "client: 2" in done.stdout
    assert f"rows: {len(report.knowledge)}, of 10 values each" in done.stdout
    assert "metric distil_loss" in done.stdout
    teacher = edgefd("inspect", str(rounds / "0001" / "teacher.bin"), cwd=recorded).stdout
    assert "edgefd.v1.Knowledge" in teacher
    assert "client:" not in teacher
    npz = edgefd("inspect", str(recorded / KNOWLEDGE / "claims.npz"), cwd=recorded).stdout
    assert "claims: float32 [10, 100]" in npz
    one_line(edgefd("inspect", str(recorded / "config.yaml"), cwd=recorded), 2, "neither a message")


def test_recording_is_refused_where_nothing_can_be_recorded(tmp_path: Path) -> None:
    record = "run.record_knowledge=true"
    one_line(
        edgefd("check", QUICKSTART, "method.name=indlearn", record, cwd=tmp_path), 2, "exchanges nothing to record"
    )
    done = edgefd("simulate", QUICKSTART, record, "--engine", "ray", cwd=tmp_path)
    one_line(done, 2, "not supported with --engine ray, only in local simulations")
