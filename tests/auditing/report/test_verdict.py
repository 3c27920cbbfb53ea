"""Verdicts and outcomes: planted leaks, refuted claims, banners that approve nothing, and audits that are kept."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefd.auditing.attacks.membership import Scores
from edgefd.auditing.report.evidence import evidence, refuted_claims
from edgefd.auditing.report.findings import attack_result
from edgefd.auditing.report.page import _state
from edgefd.auditing.report.verdict import leaking, verdicts
from edgefd.auditing.request import parse_request
from edgefd.auditing.write import results_folder, verdict_error
from edgefd.core.errors import UserError
from edgefd.core.seeding import AuditStream

CLIENT, MEMBER = np.repeat(np.arange(10), 108), np.tile(np.arange(108) < 54, 10)


def audited(*scores: Scores, **changes: Any) -> dict[str, Any]:
    """Return the result of an audit of a server with these scores."""
    found = evidence(scores, np.random.default_rng(0))
    result: dict[str, Any] = {
        "adversaries": ["server"], "exposure": {}, "extraction": None, "inversion": None, "claims": [], "limits": [],
        "valid": True, "failed_controls": [], "controls": None, "replay": None,
        "membership": [attack_result(score, 0, None, 10) for score in scores],
        "evidence": {"server": found} if found else {},
    }  # fmt: skip
    return result | changes


def loss(values: np.ndarray) -> Scores:
    return Scores("loss", "server", values, CLIENT, MEMBER, 9)


def normal(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=len(MEMBER))


def test_without_a_leak_the_sentence_says_so_and_the_banner_does_not_approve() -> None:
    result = audited(loss(normal()))
    (finding,) = verdicts(result)["server"]
    assert not finding.leak
    assert "cannot be shown to distinguish members" in finding.text
    assert "worst client" in finding.text
    assert "AUC 0.5" in finding.guessing
    assert finding.advice not in str(finding) or not finding.advice
    assert "no proof that there is none" in _state(result)
    assert 'class="state"' in _state(result)


def test_a_few_certain_members_are_a_leak() -> None:
    values = normal(1)
    values[np.random.default_rng(1).permutation(np.flatnonzero(MEMBER))[:16]] += 30  # 3 %
    result = audited(loss(values))
    assert result["membership"][0]["auc"]["low"] < 0.5  # the pooled AUC does not show it
    (finding,) = verdicts(result)["server"]
    assert finding.leak
    assert "of the 16 records with the highest scores are members" in finding.text
    assert leaking(result) == ["server"]
    assert 'class="state leak"' in _state(result)
    assert "The measurement works" in _state(result)


def test_one_leaking_client_of_ten_is_named() -> None:
    values = normal()
    values[(CLIENT == 4) & MEMBER] += 2.1  # AUC 0.93
    result = audited(loss(values))
    (finding,) = verdicts(result)["server"]
    assert finding.leak
    assert "worst client: 4, by loss, AUC 0.9" in finding.text
    assert "To disclose less:" in str(finding)
    assert result["membership"][0]["clients"][0]["client"] == 4


@pytest.mark.parametrize(("epsilon", "refuted"), [(1.0, True), (50.0, False)])
def test_a_refuted_claim_fails_the_audit(epsilon: float, refuted: bool) -> None:
    scores = loss(normal() + 4 * MEMBER)
    claims = refuted_claims([scores], {"server": (epsilon, 1e-5), "holder": (epsilon, 1e-5)}, np.random.default_rng(0))
    assert [claim["refuted"] for claim in claims] == [refuted]  # no attack of a holder was run
    assert claims[0]["measured"] > 2
    result = audited(scores, claims=claims)
    error = verdict_error(result)
    assert ("the claimed epsilon 1 is refuted" in (error or "")) == refuted
    assert ("is refuted" in _state(result)) == refuted
    assert ('class="state bad"' in _state(result)) == refuted
    assert any(f"the claimed ε = {epsilon:g}" in finding.text for finding in verdicts(result)["server"])


def test_claims_that_hold_are_rarely_refuted() -> None:
    """The largest of 20 bounds on randomised response with ε = 1; each alone would refute it in up to 5 % of cases."""
    p, refuted = np.e / (1 + np.e), 0
    for seed in range(20):
        r = np.random.default_rng([AuditStream.EVIDENCE, seed])
        all_scores = [
            loss(np.where(MEMBER, r.random(1080) < p, r.random(1080) < 1 - p).astype(float)) for _ in range(5)
        ]
        refuted += refuted_claims(all_scores, {"server": (1.0, 0.0)}, r)[0]["refuted"]
    assert refuted <= 3


def test_a_level_keeps_the_results_of_a_larger_audit(tmp_path: Path) -> None:
    def earlier(level: int, attacks: list[str]) -> None:
        request = parse_request(level, attacks, [], [])
        result = {"level": level, "attacks": request.attacks, "adversaries": request.adversaries}
        (tmp_path / "audit.json").write_text(json.dumps(result))

    assert results_folder(tmp_path, parse_request(0, [], [], [])) == tmp_path
    earlier(2, [])
    assert results_folder(tmp_path, parse_request(0, [], [], [])) == tmp_path / "level-0"
    assert results_folder(tmp_path, parse_request(1, [], [], [], replace=True)) == tmp_path
    assert results_folder(tmp_path, parse_request(2, [], [], [])) == tmp_path
    earlier(1, [])
    assert results_folder(tmp_path, parse_request(1, ["loss"], [], [])) == tmp_path / "level-1"
    earlier(0, [])
    assert results_folder(tmp_path, parse_request(1, [], [], [])) == tmp_path
    (tmp_path / "audit.json").write_text("[]")
    with pytest.raises(UserError, match="is no result of an audit"):
        results_folder(tmp_path, parse_request(1, [], [], []))
