"""`edgefd audit` and `edgefd inspect` as a user runs them, on one small recorded run."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgefd.audit.attacks import model_outputs as answers
from edgefd.audit.attacks.disclosure import attribution, label_inference, singletons
from edgefd.audit.recording.candidates import choose, fresh_records
from edgefd.audit.recording.read import open_recording, parameters, reports, teacher_after
from edgefd.core.errors import UserError
from edgefd.core.files import get
from edgefd.defences.apply import defence_of
from edgefd.runs.record import KNOWLEDGE
from edgefd.wire import messages as wire
from tests.support.commands import QUICKSTART, audit, edgefd

SMALL = ["data.limit=1000", "data.heldout=0.4", "train.rounds=2", "model.name=cnn_small", "baselines=[]"]
SETTINGS = [*SMALL, "method.n_clusters=10", "run.record_knowledge=true", "run.workers=0", "partition.n_clients=10"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    done = edgefd("simulate", QUICKSTART, *SETTINGS, "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    shutil.copytree(recorded, tmp_path / "run")
    return tmp_path / "run"


def one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_what_travelled_is_what_is_recorded(recorded: Path) -> None:
    recording = open_recording(recorded)
    summary = json.loads((recorded / "summary.json").read_text())
    config = recording.config
    sent = [reports(recording, r) for r in recording.rounds]
    up = sum(len(wire.encode(r.knowledge, config.codec.name)) for rs in sent for r in rs if len(r.knowledge))
    assert up == summary["bytes_up"]
    teacher = config.method.aggregate([r.knowledge for r in sent[-1]], config.method_config)
    again = wire.decode(wire.encode(teacher, config.codec.name))
    assert teacher_after(recording, 1).equals(again)
    acceptance = np.load(recorded / KNOWLEDGE / "claims.npz")["claims"]
    for report in sent[0]:
        np.testing.assert_array_equal(report.knowledge.ids, np.flatnonzero(acceptance[report.client] > 0))
    assert recording.model_rounds == [0, 1]
    assert set(parameters(recording, "final", 3)) == set(parameters(recording, "0001", 3))


def test_members_are_written_down(recorded: Path) -> None:
    listed = json.loads((recorded / "partition.json").read_text())["clients"]
    data = open_recording(recorded).dataset
    federation = open_recording(recorded).federation
    for said, client in zip(listed, federation.clients, strict=True):
        np.testing.assert_array_equal(federation.scale(data.x_train[said["train_rows"]]), client.x)
        assert not set(said["train_rows"]) & set(said["heldout_rows"])


def test_candidates_differ_in_nothing_but_membership(recorded: Path) -> None:
    federation = open_recording(recorded).federation
    found, population = choose(federation, 0)
    members = {row.tobytes() for data in federation.clients for row in data.x}
    assert all((row.tobytes() in members) == m for row, m in zip(found.x, found.member, strict=True))
    for client in range(10):
        mine = found.client == client
        classes = [np.bincount(found.y[mine & (found.member == m)], minlength=10).tolist() for m in (True, False)]
        assert classes[0] == classes[1]
    candidates = {row.tobytes() for row in found.x}
    assert not candidates & {row.tobytes() for row in population.x}
    fresh = [row.tobytes() for dealt in fresh_records(federation, 0, 0.1) for row in dealt]
    assert len(fresh) == len(set(fresh)) > 0  # nobody's record is two clients' canary
    assert not set(fresh) & (members | candidates)


def test_level_0_finds_what_was_given_away(run: Path) -> None:
    done = audit(run, "--level", "0")
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "audit" / "audit.json").read_text())
    assert found["exposure"]["ledger"]["raw_records_sent"] == 100
    assert found["exposure"]["labels"]["masks"]["presence_auc"]["value"] >= 0.99
    assert found["membership"] == []
    assert "100 raw private records" in (run / "audit" / "audit.html").read_text()


@pytest.mark.slow
def test_level_1_with_its_controls_resumes_and_fails_where_it_must(run: Path) -> None:
    first = audit(run, "--fail-if", "presence_auc>0.9")
    one_line(first, 1, "presence_auc>0.9: found 1")
    found = json.loads((run / "audit" / "audit.json").read_text())
    assert found["schema"] == 1
    assert found["valid"]
    assert set(found["controls"]["null"]) == set(found["controls"]["positive"])
    assert min(a["low"] for a in found["controls"]["positive"].values()) > 0.5
    views = {(f["adversary"], f["attack"]) for f in found["membership"]}
    assert {("server", "coop_lira"), ("client", "rmia"), ("holder", "lira"), ("server", "weight")} <= views
    for f in found["membership"]:
        assert f["tpr"]["0.1%"]["tpr"] is None
        assert "needs 2000 non-members" in f["tpr"]["0.1%"]["reason"]
    scores = np.load(run / "audit" / "scores.npz")
    assert {"server/0001/loss", "holder/final/lira"} <= set(scores.files)
    before = {p.name: p.stat().st_mtime_ns for p in (run / "audit" / "signals").iterdir()}
    again = audit(run)
    assert again.returncode == 0, again.stderr
    assert {p.name: p.stat().st_mtime_ns for p in (run / "audit" / "signals").iterdir()} == before
    repeated = json.loads((run / "audit" / "audit.json").read_text())
    assert repeated["membership"] == found["membership"]
    one_line(audit(run, "--fail-if", "tpr@0.1%>0.5"), 2, "measures tpr@0.1%")


@pytest.mark.slow
def test_a_corrupt_signal_is_said(run: Path) -> None:
    assert audit(run, "--level", "0").returncode == 0
    path = run / "audit" / "signals" / "exposure.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    one_line(audit(run, "--level", "0"), 2, "exposure.npz is corrupt", "remove run/audit/signals")
    (run / "audit" / "signals" / "manifest.json").write_text("{")
    one_line(audit(run, "--level", "0"), 2, "manifest.json is corrupt")


def test_members_that_overlap_are_refused(run: Path) -> None:
    partition = json.loads((run / "partition.json").read_text())
    partition["clients"][2]["heldout_rows"].append(partition["clients"][2]["train_rows"][0])
    (run / "partition.json").write_text(json.dumps(partition))
    one_line(audit(run), 2, "both a member and a non-member of client 2")


def test_a_corrupt_report_is_said(run: Path) -> None:
    (run / KNOWLEDGE / "rounds" / "0001" / "reports" / "4.bin").write_bytes(b"nonsense")
    one_line(audit(run, "--level", "0"), 2, "4.bin is corrupt or missing")


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
def test_bad_wishes_are_one_line(recorded: Path, arguments: list[str], words: list[str]) -> None:
    one_line(audit(recorded, *arguments), 2, *words)


def test_a_run_without_recorded_knowledge_says_how(run: Path) -> None:
    shutil.rmtree(run / KNOWLEDGE)
    one_line(audit(run), 2, "no recorded knowledge", "run.record_knowledge=true")
    one_line(audit(run / "nothing"), 2, "is not the folder of a run")


def test_messages_of_another_kind_are_refused(run: Path) -> None:
    config = (run / "config.yaml").read_text()
    settings = config[config.index("method:") : config.index("train:")]
    (run / "config.yaml").write_text(config.replace(settings, "method: {name: fkd}\n"))
    one_line(audit(run), 2, "method fkd exchanges other messages", "cannot be audited yet")


def test_too_few_samples_are_said(recorded: Path) -> None:
    from dataclasses import replace

    federation = open_recording(recorded).federation
    few = tuple(replace(d, x_heldout=d.x_heldout[:1], y_heldout=d.y_heldout[:1]) for d in federation.clients)
    with pytest.raises(UserError, match=r"too few samples .* 10 held-out records .* larger data\.heldout"):
        choose(replace(federation, clients=few), 0)


def test_attacks_see_answers_as_they_are_released(recorded: Path) -> None:
    plain = open_recording(recorded)
    x, clients = plain.federation.x_test[:30], plain.federation.clients
    learner = answers.recorded_learner(plain, "0001", clients[2].client)
    found = {}
    for name in ("none", "label_only"):
        config = replace(plain.config, defence=defence_of({"name": name}))
        found[name] = answers.arrived(config, plain.federation, 1, clients[2], learner, x)
    assert np.array_equal(found["label_only"], np.eye(10)[found["none"].argmax(1)])
    assert found["none"].max() < 1


def test_inspect_says_what_is_in_a_message(recorded: Path) -> None:
    rounds = recorded / KNOWLEDGE / "rounds"
    done = edgefd("inspect", str(rounds / "0001" / "reports" / "2.bin"), cwd=recorded)
    report = wire.decode_report(get(rounds / "0001" / "reports" / "2.bin", 10**6) or b"")
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


def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    record = "run.record_knowledge=true"
    done = edgefd("check", QUICKSTART, "method.name=indlearn", record, cwd=tmp_path)
    one_line(done, 2, "exchanges nothing to record")
    done = edgefd("simulate", QUICKSTART, record, "--engine", "ray", cwd=tmp_path)
    one_line(done, 2, "not supported with --engine ray, only in local simulations")


def test_arithmetic_of_what_is_disclosed() -> None:
    votes = np.array([[[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]]], np.bool_)
    alone = singletons(votes)
    assert alone == {"one_voter": [2 / 3], "at_most_two": [2 / 3]}
    signals = {
        "votes": np.array([[[1, 1, 0, 0], [0, 1, 1, 1]]], np.bool_),
        "weights": np.array([[1, 0.5, 0, 0], [0, 0.1, 1, 0.5]], np.float32),
        "labels": np.array([[[1.0, 0.0], [0.25, 0.75]]], np.float32),
        "classes": np.array([0, 0, 1, 1]),
        "table": np.array([[10, 0], [5, 15]]),
        "owner": np.array([0, 1, 1, 0]),
    }
    found = label_inference(signals)
    # client 1's mask: half of class 0, all of class 1 → 1/3, 2/3 against 1/4, 3/4
    np.testing.assert_allclose(found["masks"]["total_variation_per_client"], [0, 1 / 3 - 1 / 4])
    assert found["soft_labels"]["total_variation"] == 0
    assert found["masks"]["presence_auc"]["value"] == 1
    owners = attribution(signals, np.array([0, 0, 1, 1]))
    assert owners["mask"]["value"] == pytest.approx(10 / 16)
    assert owners["weight"]["value"] == pytest.approx(11 / 16)
    assert "no class is contributed by two" in attribution(signals, np.array([0, 1, 2, 3]))["reason"]
