"""Shadow federations: how candidates are assigned, and `edgefd audit --level 2` on a run whose clients overfit."""

import json
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefd.auditing.attacks import decoder, reconstructions
from edgefd.auditing.attacks.rerun import rerun_config
from edgefd.auditing.attacks.shadow_federations import assign, reassigned
from edgefd.auditing.attacks.shadow_lira import leave_one_out
from edgefd.auditing.recording.candidates import choose
from edgefd.auditing.recording.read import open_recording
from edgefd.auditing.request import parse_request
from edgefd.auditing.run_audit import _report_attacks
from edgefd.auditing.run_audit import audit as audit_run
from edgefd.core.errors import UserError
from tests.support.commands import ROOT, audit, command, edgefd, env

OVERFITTED = str(ROOT / "simulations/audit/overfitted.yaml")
SETTINGS = ["data.limit=960", "partition.n_clients=3", "train.rounds=2", "run.workers=0"]
SIX = ("--level", "2", "--shadows", "6")


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shadows")
    done = edgefd("simulate", OVERFITTED, *SETTINGS, "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_pair_of_shadows_divides_the_candidates_and_changes_no_other_record(overfitted: Path) -> None:
    recording = open_recording(overfitted)
    federation = recording.federation
    candidates, _ = choose(federation, 0)
    first, second, third = (assign(candidates, i, 0) for i in range(3))
    np.testing.assert_array_equal(first, ~second)
    assert not np.array_equal(first, third)
    for data, changed in zip(federation.clients, reassigned(federation, candidates, first).clients, strict=True):
        of_client = candidates.client == data.client
        assert first[of_client].sum() == of_client.sum() / 2
        np.testing.assert_array_equal(np.bincount(changed.y), np.bincount(data.y))
        members, held = ({row.tobytes() for row in x} for x in (changed.x, changed.x_heldout))
        assert {row.tobytes() for row in candidates.x[of_client & first]} <= members
        assert {row.tobytes() for row in candidates.x[of_client & ~first]} <= held
        assert members | held == {row.tobytes() for x in (data.x, data.x_heldout) for row in x}
    same = reassigned(federation, candidates, candidates.member)
    for data, unchanged in zip(federation.clients, same.clients, strict=True):
        np.testing.assert_array_equal(unchanged.x, data.x)  # the recorded run is one of the assignments


def test_a_shadow_has_all_settings_of_the_run_except_the_seed(overfitted: Path) -> None:
    config = open_recording(overfitted).config
    a, b = rerun_config(config, 3, 0), rerun_config(config, 3, 1)
    assert len({config.seed, a.seed, b.seed}) == 3
    assert (a.train, a.method_config, a.model) == (config.train, config.method_config, config.model)
    assert not a.run.record_knowledge


def test_private_records_are_reconstructed_only_where_they_are_planted(
    overfitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(overfitted, tmp_path / "run")
    run = tmp_path / "run"
    monkeypatch.setattr(decoder, "_STEPS", 250)  # to save time; the test of all of level 2 runs the whole attack
    audit_run(run, parse_request(2, ["inversion"], [], []), lambda _: lambda _: None)
    result = json.loads((run / "audit" / "audit.json").read_text())
    assert result["valid"]
    found = result["inversion"]
    assert found["drawings"] == 30
    assert found["null"]["low"] <= 0 <= found["null"]["high"]
    assert found["positive"]["low"] > max(0, found["individual"]["value"])
    assert found["reconstructs"] == (found["individual"]["low"] > 0)
    assert 0.3 < found["ssim_unseen"] < 0.9
    assert [row["client"] for row in found["clients"]] == [0, 1, 2]
    scores = np.load(run / "audit" / "scores.npz")
    assert scores["inversion/own"].shape == (30, 1, 28, 28)
    np.testing.assert_allclose(scores["inversion/own_private"].mean(), found["ssim_private"])
    federation = open_recording(run).federation
    ends = float(federation.proxy.x.min()), float(federation.proxy.x.max())
    scaled = {row.tobytes() for data in federation.clients for row in reconstructions.unit(data.x, *ends)}
    assert all(row.tobytes() in scaled for row in scores["inversion/near_private"])
    assert not any(row.tobytes() in scaled for row in scores["inversion/near_unseen"])
    assert "data:image/png;base64," in (run / "audit" / "audit.html").read_text()
    assert not any("inversion" in text and "gradient" not in text for text in result["not_tested"])


def test_the_reason_is_recorded_where_images_cannot_be_reconstructed(overfitted: Path, tmp_path: Path) -> None:
    recording = open_recording(overfitted)
    kept = replace(recording, federation=replace(recording.federation, kept=True))
    result: dict[str, Any] = {"not_tested": []}
    assert _report_attacks(kept, parse_request(2, ["inversion"], [], []), result, tmp_path, print) == {}
    assert "proxy.keep" in result["inversion"]["reason"]
    assert result["not_tested"] == [f"inversion: {result['inversion']['reason']}"]
    assert (
        _report_attacks(kept, parse_request(2, ["inversion"], ["holder"], []), {}, tmp_path, print) == {}
    )  # a holder sees no report


@pytest.mark.slow
def test_level_2_finds_members_of_overfitted_clients_and_resumes_after_a_kill(overfitted: Path, tmp_path: Path) -> None:
    shutil.copytree(overfitted, tmp_path / "run")
    run, third = tmp_path / "run", tmp_path / "run" / "audit" / "shadows" / "02" / "manifest.json"
    process = subprocess.Popen(command("audit", "run", *SIX), cwd=tmp_path, env=env({}), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not third.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert third.exists()
    before = {p: p.stat().st_mtime_ns for p in (run / "audit" / "shadows").glob("0[012]/*.npz")}
    assert len(before) >= 3
    done = audit(run, *SIX)
    assert done.returncode == 0, done.stderr
    assert "shadow federation 3 of 6 (stored)" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in before} == before
    result = json.loads((run / "audit" / "audit.json").read_text())
    found = {(f["adversary"], f["attack"]): f for f in result["membership"] if f["round"] in (None, 1)}
    best, loss = found["server", "shadow_lira"], found["server", "loss"]
    assert best["auc"]["low"] > 0.5
    assert best["auc"]["value"] > loss["auc"]["value"]
    assert len(best["each_shadow_in_turn"]) == 6
    assert {("holder", "shadow_lira_offline"), ("server", "distilled_lira"), ("client", "shadow_lira")} <= set(found)
    null = result["controls"]["null"]["shadow_lira"]
    assert null["low"] <= 0.5 <= null["high"]
    assert result["controls"]["positive"]["distilled_lira"]["low"] > 0.5
    planted = found["server", "planted"]
    assert planted["auc"]["low"] > 0.5
    assert 0 < planted["epsilon"]["one_run"] <= planted["epsilon"]["largest_possible"]
    extraction = result["extraction"]
    assert extraction["fidelity"] > extraction["control_fidelity"] + 0.2
    assert extraction["clients_above_control"] == 3
    assert result["inversion"]["positive"]["low"] > 0
    assert not any("--level 2" in text for text in result["not_tested"])


def test_each_shadow_is_scored_with_the_others() -> None:
    r = np.random.default_rng(0)
    inside = np.stack([side for half in r.random((6, 400)) < 0.5 for side in (half, ~half)])
    p = 1 / (1 + np.exp(-r.normal(1.5 * inside, 1)))
    areas = leave_one_out({"final": p, "inside": inside}, "shadow_lira", "holder")
    assert len(areas) == 12
    assert 0.75 < np.mean(areas) < 0.87  # the best there is: Phi(1.5 / sqrt 2) = 0.86
    unrelated = leave_one_out({"final": r.random((12, 400)), "inside": inside}, "shadow_lira", "holder")
    assert 0.45 < np.mean(unrelated) < 0.55


@pytest.mark.parametrize(
    ("level", "attack", "shadows", "words"),
    [
        (1, [], 8, "--shadows is for --level 2"),
        (2, [], 7, "--shadows 7: pass an even number of at least 6"),
        (2, [], 4, "--shadows 4: pass an even number of at least 6"),
        (1, ["shadow_lira"], None, "attack shadow_lira needs --level 2"),
    ],
)
def test_a_bad_request_is_refused(level: int, attack: list[str], shadows: int | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_request(level, attack, [], [], shadows)
