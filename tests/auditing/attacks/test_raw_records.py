"""The ledger: exact copies of private records among public proxy samples, and contributors of collected ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgefd.auditing.attacks.attribution import attribution
from edgefd.auditing.attacks.disclosure_signals import disclosure_signals
from edgefd.auditing.attacks.raw_records import ledger
from edgefd.auditing.recording.candidates import choose
from edgefd.auditing.recording.read import Recording, open_recording
from edgefd.auditing.report.limits import judge, parse_limit
from edgefd.auditing.report.verdict import verdicts
from edgefd.federation.clients import ProxySet


@pytest.fixture(scope="module")
def public(recorded: Path) -> Recording:
    """Return the recorded run as if nobody had contributed a row, with 15 copies of private records."""
    recording = open_recording(recorded)
    federation = recording.federation
    x, none = federation.proxy.x.copy(), np.full(len(federation.proxy), -1)
    x[:10], x[10:15] = federation.clients[3].x[:10], federation.clients[4].x_heldout[:5]
    return replace(recording, federation=replace(federation, proxy=ProxySet(x, none)), owner=none)


def test_exact_copies_in_a_public_proxy_set_are_found(public: Recording) -> None:
    found = ledger(public, disclosure_signals(public))
    assert (found["raw_records_sent"], found["exact_copies"], found["fresh_exact_copies"]) == (0, 15, 0)
    assert found["proxy_ids"] == list(range(15))
    assert {row["client"]: row["exact_copies"] for row in found["clients"] if row["exact_copies"]} == {3: 10, 4: 5}
    result = {"exposure": {"ledger": found}, "membership": [], "evidence": {}, "claims": [], "adversaries": ["client"]}
    finding = verdicts(result | {"extraction": None, "inversion": None})["client"][0]
    assert finding.leak
    assert "exact copies of 15 private records" in finding.text
    assert "client 3 has most of them: 10" in finding.text
    assert judge(parse_limit("exact_copies>14"), result)["exceeded"]
    assert judge(parse_limit("near_copies>0"), result)["found"] >= 10


def test_references_are_not_trained_on_candidates(public: Recording) -> None:
    candidates, population = choose(public.federation, 0)
    assert not {row.tobytes() for row in candidates.x} & {row.tobytes() for row in population.x}


def test_collected_samples_count_as_sent_even_if_their_clients_are_unknown(public: Recording) -> None:
    unknown = replace(public, owner=np.full(len(public.owner), -2))
    signals = disclosure_signals(unknown)
    found = ledger(unknown, signals)
    assert (found["raw_records_sent"], found["of_unknown_clients"], found["exact_copies"]) == (100, 100, 0)
    assert "not recorded which client" in attribution(signals, public.federation.proxy_labels)["reason"]
    known = replace(public, owner=np.repeat([0, 7], 50))
    rows = ledger(known, disclosure_signals(known))["clients"]
    assert {row["client"]: row["raw_records_sent"] for row in rows if row["raw_records_sent"]} == {0: 50, 7: 50}
