"""`edgefd audit RUN`: signals, attacks, controls, and the folder RUN/audit that holds them.

audit.json's schema is described in docs/guides/audit.md.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgefd import __version__
from edgefd.audit.attack_suite import AuditContext, run_attacks
from edgefd.audit.attacks import disclosure as exposure
from edgefd.audit.attacks import insertion, membership
from edgefd.audit.attacks import planted_canaries as planted
from edgefd.audit.attacks import shadow_lira as shadow_scores
from edgefd.audit.attacks.extraction import extraction, extraction_signals
from edgefd.audit.attacks.inversion import impossible, inversion, inversion_signals
from edgefd.audit.attacks.model_outputs import REFERENCES
from edgefd.audit.recording.candidates import choose
from edgefd.audit.recording.read import Recording, open_recording, run_command
from edgefd.audit.recording.signal_store import Arrays, part
from edgefd.audit.report.findings import Limit, controls, finding, largest_found
from edgefd.audit.report.page import page
from edgefd.core.errors import RunError, UserError, hint, require
from edgefd.core.files import npz_bytes, put
from edgefd.core.json_files import write_json
from edgefd.defences.apply import claim, covered

SCHEMA = 1
ADVERSARIES = ("server", "client", "holder", "eavesdropper")
EXPOSURE = {  # what is disclosed without an attack on a model, and to whom
    "ledger": ("server", "client", "eavesdropper"),
    "labels": ("server", "eavesdropper"),
    "attribution": ("eavesdropper",),
    "singletons": ("client",),
    "centroids": ("holder",),
}
MEMBERSHIP = (*membership.MODEL_ATTACKS, *membership.FILTER_ATTACKS, *insertion.ATTACKS)
READERS = ("server", "eavesdropper")  # who see all reports
REPORTS = ("extraction", "inversion")  # what they can be read for beside membership, at level 2
LEVEL_2 = (*shadow_scores.ATTACKS, *planted.ATTACKS, *REPORTS)
LEVELS: tuple[tuple[str, ...], ...] = (tuple(EXPOSURE), MEMBERSHIP, LEVEL_2)
ATTACKS = tuple(name for names in LEVELS for name in names)
SHADOWS = 16
NOT_TESTED = (
    "trajectories: membership from the answers of all rounds together",
    "gradient inversion: no gradients travel in federated distillation",
    "clients or servers that poison, and attacks on what lies outside the messages (timing, memory, the device itself)",
)
LATER = (
    "LiRA from shadow federations and from distilled students, canaries planted by coin, copies of models, images "
    "drawn from soft labels (--level 2)"
)

Tick = Callable[[str], None]


@dataclass(frozen=True)
class AuditRequest:
    """What an audit is to do."""

    level: int = 1
    attacks: tuple[str, ...] = LEVELS[0] + LEVELS[1]
    adversaries: tuple[str, ...] = ADVERSARIES
    limits: tuple[Limit, ...] = ()
    shadows: int = SHADOWS


def parse_request(
    level: int,
    attacks: Sequence[str],
    adversaries: Sequence[str],
    limits: Sequence[Limit],
    shadows: int | None = None,
) -> AuditRequest:
    """Checked; nothing given means everything up to the level.

    Raises:
        UserError: for an unknown name, an attack that is not of the level, or a number of shadows that cannot be.
    """
    for word, valid, what in [(a, ATTACKS, "attack") for a in attacks] + [
        (a, ADVERSARIES, "adversary") for a in adversaries
    ]:
        if word not in valid:
            raise UserError(f"unknown {what} {word!r}: {hint(word, valid)}")
    every = tuple(name for names in LEVELS[: level + 1] for name in names)
    if late := [name for name in attacks if name not in every]:
        needed = next(i for i, names in enumerate(LEVELS) if late[0] in names)
        raise UserError(f"attack {late[0]} needs --level {needed}")
    if shadows is not None and level < 2:
        raise UserError("--shadows is for --level 2")
    if shadows is not None and (shadows < 6 or shadows % 2):
        raise UserError(f"--shadows must be even, for two share the records out, and at least 6, not {shadows}")
    return AuditRequest(
        level, tuple(attacks) or every, tuple(adversaries) or ADVERSARIES, tuple(limits), shadows or SHADOWS
    )


def steps(recording: Recording, wanted: AuditRequest) -> int:
    """How often `audit` ticks, if no signals are there yet."""
    if wanted.level == 0:
        return 1
    models = len(recording.model_rounds) + REFERENCES + 8
    return models if wanted.level == 1 else models + wanted.shadows + 5


def audit(folder: Path, wanted: AuditRequest, show: Callable[[int], Tick]) -> dict[str, Any]:
    """Audit a run, write RUN/audit, and return what is in audit.json.

    `show(n)` is called once it is known that there are up to n steps, and returns what is called after each.

    Raises:
        UserError: for bad input, see `open_recording`, `choose` and `part`.
        RunError: if something cannot be written.
    """
    require("audit", "scipy", "sklearn", "threadpoolctl")
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)  # more lose time where cores are shared, and change low bits
    recording = open_recording(folder)
    wanted = within_reach(recording, wanted)
    tick = show(steps(recording, wanted))
    place = folder / "audit"
    with threadpool_limits(1):
        s = part(place / "signals", recording.digest, "exposure", lambda: exposure.exposure_signals(recording))
        tick("exposure")
        result = _head(recording, wanted)
        result["exposure"] = _exposure(recording, s, wanted)
        scores = _membership(recording, wanted, result, place, tick) if wanted.level else []
        drawn = _reports(recording, wanted, result, place, tick)
    result["limits"] = [_judged(limit, result) for limit in wanted.limits]
    _write(place, result, scores, drawn)
    return result


OUT_OF_REACH = (
    "every attack on members and models ({}): it needs the clients' private records and models, and a coordinator has "
    "neither; simulate the same config with run.record_knowledge=true and audit that"
)


def within_reach(recording: Recording, wanted: AuditRequest) -> AuditRequest:
    """What can be done with the recording: with a coordinator's, level 0.

    Raises:
        UserError: if an attack or a level was asked for that cannot be run.
    """
    if not recording.deployed or wanted.level == 0:
        return wanted
    asked = [name for name in wanted.attacks if name not in EXPOSURE]
    if wanted.level == 2 or wanted.attacks != LEVELS[0] + LEVELS[1]:
        what = f"--level {wanted.level}" if not asked or wanted.level == 2 else f"--attack {asked[0]}"
        raise UserError(
            f"{what} needs the clients' private records and models, and {recording.folder} was recorded by a "
            "coordinator, which has neither: use --level 0, or simulate the same config and audit that"
        )
    return replace(wanted, level=0, attacks=LEVELS[0])


def _head(recording: Recording, wanted: AuditRequest) -> dict[str, Any]:
    config = recording.config
    return {
        "schema": SCHEMA,
        "edgefd": __version__,
        "run": str(recording.folder),
        "command": shlex.join(["edgefd", *sys.argv[1:]]),
        "run_command": run_command(recording),
        "method": config.method_name,
        "dataset": recording.dataset.name,
        "scenario": config.partition.name,
        "n_clients": len(recording.federation.clients),
        "rounds": len(recording.rounds),
        "seed": config.seed,
        "codec": config.codec.name,
        "level": wanted.level,
        "shadows": wanted.shadows if wanted.level == 2 else None,
        "attacks": list(wanted.attacks),
        "adversaries": list(wanted.adversaries),
        "valid": True,
        "failed_controls": [],
        "membership": [],
        "controls": None,
        "extraction": None,
        "inversion": None,
        "deployed": recording.deployed,
        "not_tested": [*_beyond(recording, wanted), *NOT_TESTED],
    }


def _beyond(recording: Recording, wanted: AuditRequest) -> list[str]:
    """What of the levels was left out."""
    if recording.deployed:
        return [OUT_OF_REACH.format(", ".join(LEVELS[1] + LEVELS[2]))]
    return [LATER] if wanted.level < 2 else []


def _exposure(recording: Recording, s: Arrays, wanted: AuditRequest) -> dict[str, Any]:
    found: dict[str, Callable[[], dict[str, Any]]] = {
        "ledger": lambda: exposure.ledger(recording, s),
        "labels": lambda: exposure.label_inference(s),
        "attribution": lambda: exposure.attribution(s, recording.federation.proxy_labels),
        "singletons": lambda: exposure.singletons(s["votes"]),
        "centroids": lambda: exposure.centroid_exposure(s),
    }
    seen = {name for name, who in EXPOSURE.items() if set(who) & set(wanted.adversaries)}
    return {name: analyse() for name, analyse in found.items() if name in wanted.attacks and name in seen}


def _membership(
    recording: Recording, wanted: AuditRequest, result: dict[str, Any], place: Path, tick: Tick
) -> list[membership.Scores]:
    """Fill in membership and controls; the scores."""
    names = tuple(name for name in wanted.attacks if name not in EXPOSURE and name not in REPORTS)
    if not names or set(wanted.adversaries) == {"eavesdropper"}:
        return []
    candidates, population = choose(recording.federation, recording.config.seed)
    context = AuditContext(recording, candidates, population, names, wanted.adversaries, wanted.shadows, place, tick)
    found = run_attacks(context)
    result["controls"], result["failed_controls"] = controls(found.null, found.positive)
    result["valid"] = not result["failed_controls"]
    result["not_tested"] = found.skipped + result["not_tested"]
    defence = recording.config.defence
    acceptance = dict.fromkeys(covered(defence), claim(defence))
    for score in found.scores:
        row = finding(score, recording.config.seed, (acceptance.get(score.adversary) or (None,))[0])
        if turn := found.turns.get((score.adversary, score.attack)):
            row["each_shadow_in_turn"] = turn
        result["membership"].append(row)
    tick("attacks")
    return found.scores


def _reports(recording: Recording, wanted: AuditRequest, result: dict[str, Any], place: Path, tick: Tick) -> Arrays:
    """Fill in copies of models and what was drawn; the drawings, if there are any."""
    names = [name for name in REPORTS if name in wanted.attacks and set(READERS) & set(wanted.adversaries)]
    if "extraction" in names:
        copies = part(place / "signals", recording.digest, "copies", lambda: extraction_signals(recording))
        result["extraction"] = extraction(copies)
        tick("copies of the clients' models")
    if "inversion" not in names:
        return {}
    if reason := impossible(recording.federation):
        return _not_drawn(result, reason)
    s = part(place / "signals", recording.digest, "inversion", lambda: inversion_signals(recording))
    found, failed = inversion(s)
    tick("images from soft labels")
    if "reason" in found:
        return _not_drawn(result, found["reason"])
    result["inversion"] = found
    result["failed_controls"] = [*result["failed_controls"], *failed]
    result["valid"] = not result["failed_controls"]
    return s


def _not_drawn(result: dict[str, Any], reason: str) -> Arrays:
    result["inversion"] = {"reason": reason}
    result["not_tested"] = [f"inversion: {reason}", *result["not_tested"]]
    return {}


def _judged(limit: Limit, result: dict[str, Any]) -> dict[str, Any]:
    value = largest_found(limit, result)
    return {"limit": str(limit), "found": value, "exceeded": value > limit.most}


def _write(place: Path, result: dict[str, Any], scores: Sequence[membership.Scores], drawn: Arrays) -> None:
    arrays: dict[str, np.ndarray] = {f"inversion/{name}": values for name, values in drawn.items()}
    for score in scores:
        when = "final" if score.round is None else f"{score.round:04d}"
        name = f"{score.adversary}/{when}/{score.attack}"
        arrays |= {name: score.values, f"{name}/member": score.member, f"{name}/client": score.client}
    try:
        put(place / "scores.npz", npz_bytes(arrays))
        put(place / "audit.html", page(result, drawn).encode())
    except OSError as error:
        raise RunError(f"cannot write {place}: {error.strerror}") from error
    write_json(place / "audit.json", json.loads(json.dumps(result)))


def verdict_error(result: dict[str, Any]) -> str | None:
    """Why the audit must not pass: controls that failed, or limits that are exceeded; None if it may."""
    if result["failed_controls"]:
        return f"audit invalid: {'; '.join(result['failed_controls'])}"
    over = [f"{j['limit']}: found {j['found']:.3g}" for j in result["limits"] if j["exceeded"]]
    return f"audit finds more than --fail-if allows: {'; '.join(over)}" if over else None
