"""Level 2: shadow federations, which repeat the recorded run with another random choice of training records.

A shadow federation has the settings and the records of the recorded run. Only the candidates of each client are
assigned again: the client trains on half of the candidates of each class, and holds out the other half. Shadows 2k and
2k + 1 assign the candidates in opposite ways, so that each record is in exactly half of the shadows. The recorded run
is one more such assignment: it is the target. All clients are scored with the same shadows.

Each shadow is stored in RUN/audit/shadows/NN with its checksum (`edgefd.auditing.recording.signal_store`), so that a
finished one is not repeated.
"""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgefd.auditing.attacks.model_outputs import aggregate
from edgefd.auditing.attacks.rerun import label_probability, rerun, rerun_config
from edgefd.auditing.attacks.student_models import last_sent, probabilities, student
from edgefd.auditing.measures.membership_formulas import of_label32
from edgefd.auditing.progress import OnStep
from edgefd.auditing.recording.candidates import Candidates
from edgefd.auditing.recording.read import Recording, reports
from edgefd.auditing.recording.signal_store import Arrays, part
from edgefd.core.arrays import Bool, Float32
from edgefd.core.errors import Stopped, UserError
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import ClientData, Federation
from edgefd.runs.read import read_summary

VIEWS = ("sent", "aggregate", "final", "distilled")
"""outputs on a candidate: received by the server, aggregated, of the final model, of a student of the last report"""


def assign(candidates: Candidates, shadow: int, seed: int) -> Bool:
    """Draw the members of a shadow, bool [n]: half of each client's class; for an odd shadow, the other half."""
    rng = make_rng(seed, Purpose.AUDIT, AuditStream.SHADOW_MEMBERSHIP, shadow // 2)
    inside = np.zeros(len(candidates.y), np.bool_)
    for client in np.unique(candidates.client):
        for c in np.unique(candidates.y[candidates.client == client]):
            rows = rng.permutation(np.flatnonzero((candidates.client == client) & (candidates.y == c)))
            inside[rows[: len(rows) // 2]] = True
    return ~inside if shadow % 2 else inside


def reassigned(federation: Federation, candidates: Candidates, inside: Bool) -> Federation:
    """Return the federation whose clients train on the candidates that are `inside`, and hold the others out."""
    clients = []
    for data in federation.clients:
        of_client = candidates.client == data.client
        clients.append(_reassigned(data, candidates.row[of_client], inside[of_client]))
    return replace(federation, clients=tuple(clients))


def _reassigned(data: ClientData, rows: np.ndarray, inside: Bool) -> ClientData:
    x, y = np.concatenate([data.x, data.x_heldout]), np.concatenate([data.y, data.y_heldout])
    trained = np.arange(len(x)) < len(data.x)
    trained[rows] = inside
    return replace(
        data, x=x[trained], y=y[trained], x_heldout=x[~trained], y_heldout=y[~trained], rows=None, heldout_rows=None
    )


def shadow_signals(recording: Recording, candidates: Candidates, n: int, place: Path, on_step: OnStep) -> Arrays:
    """Return the outputs of n shadow federations on the candidates; stored ones are loaded, the others are run.

    Returns:
        by name in `VIEWS` float32 [n, candidates]: probabilities of the records' labels; `inside` bool [n, candidates].

    Raises:
        UserError: if a stored shadow is corrupt, or contributed records also stay in the private sets.
        Stopped: on Ctrl-C; finished shadows stay stored.
    """
    if recording.federation.kept:
        raise UserError(
            "shadow federations cannot hold out records that also stay in the proxy set (proxy.keep): use --level 1"
        )
    seconds = read_summary(recording.folder).seconds_total
    on_step(
        f"{n} shadow federations, {_minutes(n * seconds)} if none is stored and each takes as long as the recorded run"
    )
    signals: list[Arrays] = []
    for shadow in range(n):
        folder = place / "shadows" / f"{shadow:02d}"
        stored, began = (folder / "manifest.json").exists(), time.perf_counter()
        compute = functools.partial(_shadow, recording, candidates, shadow)
        try:
            signals.append(part(folder, recording.digest, "signals", compute))
        except KeyboardInterrupt as stop:
            raise Stopped(f"{shadow} of {n} shadow federations are stored; run the same command to resume") from stop
        seconds = seconds if stored else time.perf_counter() - began
        left = "" if shadow == n - 1 else f", {_minutes((n - 1 - shadow) * seconds)} left"
        on_step(f"shadow federation {shadow + 1} of {n}{' (stored)' if stored else ''}{left}")
    inside = np.stack([assign(candidates, shadow, recording.config.seed) for shadow in range(n)])
    if not np.array_equal(inside, np.stack([s["inside"] for s in signals])):
        raise UserError(
            f"{place / 'shadows'} holds shadow federations of other candidates: remove it to run them again"
        )
    return {view: np.stack([s[view] for s in signals]) for view in VIEWS} | {"inside": inside}


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"


def _shadow(recording: Recording, candidates: Candidates, shadow: int) -> Arrays:
    """Run one shadow federation and return its signals."""
    inside = assign(candidates, shadow, recording.config.seed)
    federation = reassigned(recording.federation, candidates, inside)
    config = rerun_config(recording.config, len(federation.clients), shadow)
    outputs = rerun(config, federation, candidates.x, students=True)
    assert outputs.students is not None
    by_view = {"sent": outputs.sent, "final": outputs.final, "distilled": outputs.students}
    teacher = aggregate(config, federation, outputs.sent, outputs.acceptance)
    signals = {view: label_probability(values, candidates.client, candidates.y) for view, values in by_view.items()}
    return signals | {"aggregate": of_label32(teacher, candidates.y), "inside": inside}


def target_student(recording: Recording, candidates: Candidates) -> Float32:
    """Return for the recorded run what `distilled` is for a shadow, float32 [n]."""
    config, federation = recording.config, recording.federation
    all_reports = [report for round in recording.rounds for report in reports(recording, round)]
    last = last_sent(all_reports, len(federation.clients), federation.n_classes)
    probs = [
        probabilities(student(config, federation, client, sent, config.seed, client), candidates.x)
        for client, sent in enumerate(last)
    ]
    return label_probability(np.stack(probs), candidates.client, candidates.y)
