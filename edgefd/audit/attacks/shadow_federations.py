"""Level 2: the federation run again and again, each time with another draw of who trains on which record.

A shadow federation is the recorded one, every setting and every other record the same, but the candidates of each
client are dealt anew: half of each class to train on, the other half held out. Shadows 2k and 2k + 1 deal them the
opposite way, so that each record is in exactly half of the shadows. The recorded run is one more such draw: it is the
target. All clients are scored from the same shadows.

Each is kept in RUN/audit/shadows/NN with its checksum (`edgefd.audit.recording.signal_store`), so a finished one is not repeated.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgefd.audit.attacks.model_outputs import aggregate
from edgefd.audit.attacks.rerun import of_own, rerun, rerun_config
from edgefd.audit.attacks.student_models import last_sent, probabilities, student
from edgefd.audit.measures import attack_scores as attacks
from edgefd.audit.recording.candidates import Candidates
from edgefd.audit.recording.read import Recording, reports
from edgefd.audit.recording.signal_store import Arrays, part
from edgefd.core.arrays import Bool, Float32
from edgefd.core.errors import Stopped, UserError
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.federation.clients import ClientData, Federation

VIEWS = ("sent", "aggregate", "final", "distilled")
"""Answers on a candidate: that the server gets, that clients get, the final model's, a student's of the last report"""


def deal(candidates: Candidates, shadow: int, seed: int) -> Bool:
    """Who is in a shadow, bool [n]: of each client and class one half, or for an odd shadow the other."""
    rng = make_rng(seed, Purpose.AUDIT, AuditStream.SHADOW_MEMBERSHIP, shadow // 2)
    inside = np.zeros(len(candidates.y), np.bool_)
    for client in np.unique(candidates.client):
        for c in np.unique(candidates.y[candidates.client == client]):
            rows = rng.permutation(np.flatnonzero((candidates.client == client) & (candidates.y == c)))
            inside[rows[: len(rows) // 2]] = True
    return ~inside if shadow % 2 else inside


def redrawn(federation: Federation, candidates: Candidates, inside: Bool) -> Federation:
    """The federation whose clients train on the candidates that are `inside`, and hold the others out."""
    clients = []
    for data in federation.clients:
        mine = candidates.client == data.client
        clients.append(_redrawn(data, candidates.row[mine], inside[mine]))
    return replace(federation, clients=tuple(clients))


def _redrawn(data: ClientData, rows: np.ndarray, inside: Bool) -> ClientData:
    x, y = np.concatenate([data.x, data.x_heldout]), np.concatenate([data.y, data.y_heldout])
    trained = np.arange(len(x)) < len(data.x)
    trained[rows] = inside
    return replace(
        data, x=x[trained], y=y[trained], x_heldout=x[~trained], y_heldout=y[~trained], rows=None, heldout_rows=None
    )


def shadow_signals(
    recording: Recording, candidates: Candidates, n: int, place: Path, tick: Callable[[str], None]
) -> Arrays:
    """What n shadow federations say of the candidates.

    Returns:
        by name in `VIEWS` float32 [n, candidates]: probabilities of the records' labels; `inside` bool [n, candidates].

    Raises:
        UserError: if what is kept is corrupt, or contributed records also stay in the private sets.
        Stopped: on Ctrl-C; finished shadows are kept.
    """
    if recording.federation.kept:
        raise UserError(
            "shadow federations cannot hold a record out that stays among the proxy samples (proxy.keep): use --level 1"
        )
    found: list[Arrays] = []
    took = [seconds_of(recording)]
    tick(
        f"{n} shadow federations, {_minutes(n * took[0])} if each takes as long as the recorded run, less what is kept"
    )
    for shadow in range(n):
        folder = place / "shadows" / f"{shadow:02d}"
        kept, began = (folder / "manifest.json").exists(), time.perf_counter()
        try:
            found.append(
                part(folder, recording.digest, "signals", functools.partial(_shadow, recording, candidates, shadow))
            )
        except KeyboardInterrupt as stop:
            raise Stopped(f"{shadow} of {n} shadow federations are kept; the same command goes on") from stop
        if not kept:
            took.append(time.perf_counter() - began)
        left = "" if shadow == n - 1 else f", {_minutes((n - 1 - shadow) * took[-1])} to go"
        tick(f"shadow federation {shadow + 1} of {n}{' (kept)' if kept else ''}{left}")
    inside = np.stack([deal(candidates, shadow, recording.config.seed) for shadow in range(n)])
    if not np.array_equal(inside, np.stack([f["inside"] for f in found])):
        raise UserError(f"{place / 'shadows'} holds shadows of other candidates: remove it to run them again")
    return {view: np.stack([f[view] for f in found]) for view in VIEWS} | {"inside": inside}


def seconds_of(recording: Recording) -> float:
    """What the recorded run took, which is what a shadow will take, more or less."""
    return float(json.loads((recording.folder / "summary.json").read_text())["seconds_total"])


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"


def _shadow(recording: Recording, candidates: Candidates, shadow: int) -> Arrays:
    """One shadow federation, from its draw to its signals."""
    inside = deal(candidates, shadow, recording.config.seed)
    federation = redrawn(recording.federation, candidates, inside)
    config = rerun_config(recording.config, len(federation.clients), shadow)
    found = rerun(config, federation, candidates.x, students=True)
    assert found.students is not None
    own = {"sent": found.sent, "final": found.final, "distilled": found.students}
    teacher = aggregate(config, found.sent, found.acceptance)
    out = {name: of_own(values, candidates.client, candidates.y) for name, values in own.items()}
    return out | {"aggregate": attacks.of_label(teacher, candidates.y).astype(np.float32), "inside": inside}


def target_student(recording: Recording, candidates: Candidates) -> Float32:
    """Of the recorded run what a shadow's `distilled` is: float32 [n]."""
    config, federation = recording.config, recording.federation
    every = [report for round in recording.rounds for report in reports(recording, round)]
    lessons = last_sent(every, len(federation.clients), federation.n_classes)
    said = [
        probabilities(student(config, federation, client, sent, config.seed, client), candidates.x)
        for client, sent in enumerate(lessons)
    ]
    return of_own(np.stack(said), candidates.client, candidates.y)
