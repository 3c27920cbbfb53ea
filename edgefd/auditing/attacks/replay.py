"""The control of a recording: reports are computed again from the recorded models, by the functions that attacks use.

If they differ, then the recorded models did not send the recorded reports, or the attacks do not see what a server
sees. In both cases no result of the audit can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgefd.auditing.attacks import model_outputs
from edgefd.auditing.recording.candidates import Candidates
from edgefd.auditing.recording.read import Recording, acceptance_weights, reports
from edgefd.config.schema import ALL_ROWS
from edgefd.core.arrays import Float32
from edgefd.defences.noise import Noise
from edgefd.defences.pate import Pate
from edgefd.federation.clients import ClientData
from edgefd.federation.report import Report
from edgefd.poisoning.attacks import attackers
from edgefd.rounds.client import client_filter
from edgefd.runs.environment import environment
from edgefd.runs.read import read_json
from edgefd.runs.record import FINAL
from edgefd.runs.terms import terms_of

_SHOWN = 5  # differing reports that a message names
_ROUNDING = 0.01
"""largest difference of a value that is put down to another machine; at most this share of the values may be larger"""


def replay(recording: Recording) -> tuple[dict[str, Any], list[str]]:
    """Compute reports of recorded models and filters again; return the result, and a message for each failed control.

    On the machine of the run, with its versions of the packages, reports must be equal to the bit. Elsewhere, or if a
    GPU or ONNX computed them, rounding may differ: then 99 of 100 values must be equal to within 0.01.

    Returns:
        `reports`, `equal`: how many were computed again, and how many are equal to the bit; `exact`: whether all had to
        be; `differing`: those that differ, with round and client; `skipped`: reasons why parts were not computed again.
    """
    exact, skipped, differing, equal, n = _same_machine(recording), _not_replayed(recording), [], 0, 0
    acceptance: dict[int, tuple[Float32, Float32]] = {}  # of each client: recorded, and computed again
    recorded = acceptance_weights(recording)
    liars = attackers(recording.config.attack, len(recording.federation.clients), recording.config.seed)
    for round in recording.model_rounds:
        for report in reports(recording, round):
            if report.client in liars or report.round != round:
                continue
            data = recording.federation.clients[report.client]
            if report.client not in acceptance:
                received = _as_received(recording, recorded[report.client])
                acceptance[report.client] = received, _acceptance(recording, data)
            received, weights = acceptance[report.client]
            again = _report_again(recording, report, data, weights, values=not skipped)
            again.append((received, weights))
            same = all(np.array_equal(a, b) for a, b in again)
            n, equal = n + 1, equal + same
            if not (same or (not exact and all(_within_rounding(a, b) for a, b in again))):
                differing.append({"round": round, "client": report.client})
    if liars:
        skipped = [*skipped, f"reports of the poisoning clients {', '.join(map(str, sorted(liars)))}"]
    result = {"reports": n, "equal": equal, "exact": exact, "differing": differing, "skipped": skipped}
    return result, _failed(result)


def _failed(result: Mapping[str, Any]) -> list[str]:
    if not result["differing"]:
        return []
    named = ", ".join(f"client {d['client']} in round {d['round']}" for d in result["differing"][:_SHOWN])
    return [
        f"replay: {len(result['differing'])} of {result['reports']} reports are not those that the recorded models "
        f"send ({named}{', ...' if len(result['differing']) > _SHOWN else ''})"
    ]


def _not_replayed(recording: Recording) -> list[str]:
    """Return why values cannot be computed again; ids and weights always can."""
    config = recording.config
    if isinstance(config.defence, Noise | Pate):
        return [f"soft labels: the noise of defence {config.defence.name} cannot be drawn again"]
    if config.codec.changes_above is not None:
        return ["soft labels: with codec.changes_above, a report holds rows of earlier rounds"]
    return []


def _acceptance(recording: Recording, data: ClientData) -> Float32:
    config, federation = recording.config, recording.federation
    terms = terms_of(config, federation)
    weights = client_filter(config.method, config.method_config, data, federation.proxy, terms)
    return _as_received(recording, weights)


def _as_received(recording: Recording, weights: Float32) -> Float32:
    config, terms = recording.config, terms_of(recording.config, recording.federation)
    return model_outputs.received_weights(weights, terms.codec, config.defence)


def _report_again(
    recording: Recording, report: Report, data: ClientData, acceptance: Float32, values: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of arrays of a report that must be equal: recorded, and computed again."""
    sent = report.knowledge
    accepted = np.flatnonzero(acceptance > 0)
    ids = accepted if _all_rows(recording) else np.intersect1d(sent.ids, accepted)
    if not np.array_equal(sent.ids, ids):
        return [(sent.ids, ids)]
    pairs: list[tuple[np.ndarray, np.ndarray]] = [(sent.weights, acceptance[ids])]
    if values and len(ids):
        learner = model_outputs.recorded_learner(recording, f"{report.round:04d}", report.client)
        x = recording.federation.proxy.x[ids]
        config, federation = recording.config, recording.federation
        again = model_outputs.received_outputs(config, federation, report.round, data, learner, x)
        pairs.append((sent.values, again))
    return pairs


def _all_rows(recording: Recording) -> bool:
    return recording.config.selection == ALL_ROWS and recording.config.codec.changes_above is None


def _within_rounding(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two arrays are equal but for the rounding of another machine."""
    return a.shape == b.shape and a.dtype.kind == "f" and bool((np.abs(a - b) > _ROUNDING).mean() <= _ROUNDING)


def _same_machine(recording: Recording) -> bool:
    """Return whether this process computes as the run did."""
    config, now = recording.config, environment()
    recorded = read_json(recording.folder / "env.json")
    packages = recorded.get("packages")
    same = isinstance(packages, dict) and all(packages.get(p) == now.packages.get(p) for p in ("numpy", "torch"))
    on_cpu = recorded.get("device") == "cpu" and config.run.stack == "auto"
    torch_alone = all(config.learner_of(model) == "torch" for model in config.model)
    return same and on_cpu and torch_alone and recorded.get("processor") == now.processor


def check_candidates(recording: Recording, candidates: Candidates) -> list[str]:
    """Return a message if candidates that are called members were not trained on, or others were."""
    listed = recording.federation.clients
    trained = [{row.tobytes() for row in data.x} for data in listed]
    of_any = set[bytes]().union(*trained)
    wrong = sum(
        row.tobytes() not in trained[client] if member else row.tobytes() in of_any
        for row, client, member in zip(candidates.x, candidates.client.tolist(), candidates.member, strict=True)
    )
    if not wrong:
        return []
    return [
        f"candidates: {wrong} of {len(candidates.y)} records are not the members or non-members that they are called"
    ]


def check_models(recording: Recording) -> None:
    """Check that every recorded model can be loaded.

    Raises:
        UserError: if one does not have the parameters of its architecture.
    """
    for name in [*(f"{round:04d}" for round in recording.model_rounds), FINAL]:
        for data in recording.federation.clients:
            model_outputs.recorded_learner(recording, name, data.client)
