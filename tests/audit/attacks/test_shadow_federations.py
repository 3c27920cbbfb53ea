"""Shadow federations: how candidates are dealt, and `edgefd audit --level 2` on a run whose clients overfit."""

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

from edgefd.audit.attacks import inversion
from edgefd.audit.attacks.rerun import rerun_config
from edgefd.audit.attacks.shadow_federations import deal, redrawn
from edgefd.audit.attacks.shadow_lira import leave_one_out
from edgefd.audit.recording.candidates import choose
from edgefd.audit.recording.read import open_recording
from edgefd.audit.run_audit import _reports, parse_request
from edgefd.audit.run_audit import audit as audit_run
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


def test_two_shadows_share_the_candidates_out_and_leave_the_rest_alone(overfitted: Path) -> None:
    recording = open_recording(overfitted)
    federation = recording.federation
    candidates, _ = choose(federation, 0)
    first, second, third = (deal(candidates, i, 0) for i in range(3))
    np.testing.assert_array_equal(first, ~second)
    assert not np.array_equal(first, third)
    for data, drawn in zip(federation.clients, redrawn(federation, candidates, first).clients, strict=True):
        mine = candidates.client == data.client
        assert first[mine].sum() == mine.sum() / 2
        np.testing.assert_array_equal(np.bincount(drawn.y), np.bincount(data.y))
        members, held = ({row.tobytes() for row in x} for x in (drawn.x, drawn.x_heldout))
        assert {row.tobytes() for row in candidates.x[mine & first]} <= members
        assert {row.tobytes() for row in candidates.x[mine & ~first]} <= held
        assert members | held == {row.tobytes() for x in (data.x, data.x_heldout) for row in x}
    same = redrawn(federation, candidates, candidates.member)
    for data, drawn in zip(federation.clients, same.clients, strict=True):
        np.testing.assert_array_equal(drawn.x, data.x)  # the recorded run is such a draw


def test_a_shadow_keeps_all_settings_but_the_seed(overfitted: Path) -> None:
    config = open_recording(overfitted).config
    a, b = rerun_config(config, 3, 0), rerun_config(config, 3, 1)
    assert len({config.seed, a.seed, b.seed}) == 3
    assert (a.train, a.method_config, a.model) == (config.train, config.method_config, config.model)
    assert not a.run.record_knowledge


def test_what_soft_labels_draw_is_no_private_record_unless_it_is_planted(
    overfitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(overfitted, tmp_path / "run")
    run = tmp_path / "run"
    monkeypatch.setattr(inversion, "_STEPS", 250)  # in time: the whole attack is in the test of all of level 2
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
    drawn = np.load(run / "audit" / "scores.npz")
    assert drawn["inversion/own"].shape == (30, 1, 28, 28)
    np.testing.assert_allclose(drawn["inversion/own_private"].mean(), found["ssim_private"])
    federation = open_recording(run).federation
    ends = float(federation.proxy.x.min()), float(federation.proxy.x.max())
    scaled = {row.tobytes() for data in federation.clients for row in inversion.unit(data.x, *ends)}
    assert all(row.tobytes() in scaled for row in drawn["inversion/near_private"])
    assert not any(row.tobytes() in scaled for row in drawn["inversion/near_unseen"])
    assert "data:image/png;base64," in (run / "audit" / "audit.html").read_text()
    assert not any("inversion" in text and "gradient" not in text for text in result["not_tested"])


def test_samples_that_cannot_be_drawn_are_said(overfitted: Path, tmp_path: Path) -> None:
    recording = open_recording(overfitted)
    kept = replace(recording, federation=replace(recording.federation, kept=True))
    result: dict[str, Any] = {"not_tested": []}
    assert _reports(kept, parse_request(2, ["inversion"], [], []), result, tmp_path, print) == {}
    assert "proxy.keep" in result["inversion"]["reason"]
    assert result["not_tested"] == [f"inversion: {result['inversion']['reason']}"]
    assert (
        _reports(kept, parse_request(2, ["inversion"], ["holder"], []), {}, tmp_path, print) == {}
    )  # who sees no report


@pytest.mark.slow
def test_level_2_finds_members_of_an_overfitted_client_and_goes_on_where_it_was_killed(
    overfitted: Path, tmp_path: Path
) -> None:
    shutil.copytree(overfitted, tmp_path / "run")
    run, third = tmp_path / "run", tmp_path / "run" / "audit" / "shadows" / "02" / "manifest.json"
    process = subprocess.Popen(command("audit", "run", *SIX), cwd=tmp_path, env=env({}), stdout=subprocess.DEVNULL)
    until = time.monotonic() + 100
    while not third.exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert third.exists()
    before = {p: p.stat().st_mtime_ns for p in (run / "audit" / "shadows").glob("0[012]/*.npz")}
    assert len(before) >= 3
    done = audit(run, *SIX)
    assert done.returncode == 0, done.stderr
    assert "shadow federation 3 of 6 (kept)" in done.stdout
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
    copies = result["extraction"]
    assert copies["fidelity"] > copies["control_fidelity"] + 0.2
    assert copies["clients_above_control"] == 3
    assert result["inversion"]["positive"]["low"] > 0
    assert not any("--level 2" in text for text in result["not_tested"])


def test_each_shadow_is_judged_by_the_others() -> None:
    r = np.random.default_rng(0)
    inside = np.stack([side for half in r.random((6, 400)) < 0.5 for side in (half, ~half)])
    p = 1 / (1 + np.exp(-r.normal(1.5 * inside, 1)))
    areas = leave_one_out({"final": p, "inside": inside}, "shadow_lira", "holder")
    assert len(areas) == 12
    assert 0.75 < np.mean(areas) < 0.87  # the best there is: Phi(1.5 / sqrt 2) = 0.86
    nothing = leave_one_out({"final": r.random((12, 400)), "inside": inside}, "shadow_lira", "holder")
    assert 0.45 < np.mean(nothing) < 0.55


@pytest.mark.parametrize(
    ("level", "attack", "shadows", "words"),
    [
        (1, [], 8, "--shadows is for --level 2"),
        (2, [], 7, "must be even"),
        (2, [], 4, "at least 6"),
        (1, ["shadow_lira"], None, "attack shadow_lira needs --level 2"),
    ],
)
def test_bad_wishes_are_refused(level: int, attack: list[str], shadows: int | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_request(level, attack, [], [], shadows)
