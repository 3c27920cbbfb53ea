"""Insertion attack: its scores on small numbers, and clients without candidates."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgefd.auditing.attacks.insertion import insertion_scores, insertion_signals
from edgefd.auditing.attacks.membership import Scores
from edgefd.auditing.recording.candidates import choose
from edgefd.auditing.recording.read import open_recording
from edgefd.auditing.report.findings import attack_result


def test_an_inserted_record_is_scored_by_filter_and_model() -> None:
    sent = np.full((1, 2, 3, 2), 0.5, np.float32)
    sent[0, 1, :, 0] = [0.9, 0.2, 0.99]  # client 1 is queried
    signals = {
        "inserted": np.array([0.5, 1.0, 0.0], np.float32),
        "sent": sent,
        "client": np.array([1, 1, 1]),
        "member": np.array([True, False, False]),
        "y": np.array([0, 0, 0]),
        "rounds": np.array([4]),
    }
    weight, product = insertion_scores(signals, ("inserted_weight", "insertion"))
    np.testing.assert_allclose(weight.values, [0.5, 1.0, 0.0])
    np.testing.assert_allclose(product.values[:2], np.log([0.45, 0.2]), rtol=1e-6)
    assert product.values[2] < product.values[:2].min()  # the model is confident, but the filter rejects the record
    assert product.round == 4
    assert insertion_scores(signals | {"inserted": np.ones(3, np.float32)}, ("insertion",)) == []


def test_a_client_without_candidates_is_listed_and_ends_nothing(recorded: Path) -> None:
    recording = open_recording(recorded)
    clients = list(recording.federation.clients)
    clients[2] = replace(clients[2], y_heldout=(clients[2].y_heldout + 1) % 10)  # none of a class that it trains on
    recording = replace(recording, federation=replace(recording.federation, clients=tuple(clients)))
    candidates, _ = choose(recording.federation, 0)
    assert 2 not in candidates.client
    rows = candidates.client == 3  # to save time
    candidates = replace(candidates, **{name: values[rows] for name, values in vars(candidates).items()})
    signals = insertion_signals(recording, candidates)
    scores = Scores("inserted_weight", "server", signals["inserted"], candidates.client, candidates.member)
    rows = {row["client"]: row for row in attack_result(scores, 0, None, 10)["clients"]}
    assert "no members, or no non-members" in rows[2]["reason"]
    assert rows[3]["auc"] is not None


def test_a_client_with_few_records_gets_an_exact_probability() -> None:
    member = np.array([True] * 3 + [False] * 3)
    scores = Scores("loss", "holder", np.arange(6.0)[::-1], np.zeros(6, np.int64), member)
    row = attack_result(scores, 0)["clients"][0]
    assert (row["auc"]["value"], row["p"], row["least_p"]) == (1.0, 1 / 20, 1 / 20)
