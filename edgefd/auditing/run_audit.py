"""Run an audit (`edgefd audit RUN`): signals, attacks, controls, and the folder RUN/audit with the results.

The schema of audit.json is described in docs/guides/audit.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgefd.auditing.attack_suite import AuditContext, run_attacks
from edgefd.auditing.attacks import label_inference, message_sizes, raw_records, stored_centroids
from edgefd.auditing.attacks.attribution import attribution
from edgefd.auditing.attacks.disclosure_signals import disclosure_signals
from edgefd.auditing.attacks.extraction import extraction, extraction_signals
from edgefd.auditing.attacks.inversion import impossible, inversion
from edgefd.auditing.attacks.membership import Scores
from edgefd.auditing.attacks.reconstructions import inversion_signals
from edgefd.auditing.attacks.replay import check_candidates, check_models, replay
from edgefd.auditing.attacks.single_client_aggregates import single_client_aggregates
from edgefd.auditing.progress import OnStep
from edgefd.auditing.recording.candidates import choose
from edgefd.auditing.recording.read import Recording, open_recording, run_command, teacher_after
from edgefd.auditing.recording.signal_store import Arrays, part
from edgefd.auditing.report.evidence import evidence, refuted_claims
from edgefd.auditing.report.findings import attack_result, controls
from edgefd.auditing.report.limits import judge
from edgefd.auditing.report.user_level import user_level
from edgefd.auditing.request import AuditRequest, count_steps, restrict_to_recording
from edgefd.auditing.scope import (
    DISCLOSURE,
    LEVELS,
    NOT_TESTED,
    NOT_TESTED_BELOW_LEVEL_2,
    NOT_TESTED_OF_COORDINATORS,
    REPORT_ATTACKS,
    REPORT_READERS,
)
from edgefd.auditing.write import results_folder, write_audit
from edgefd.core.errors import require
from edgefd.core.files import removed_on_error
from edgefd.core.seeding import AuditStream, Purpose, make_rng
from edgefd.core.version import __version__
from edgefd.defences.apply import claim, covered
from edgefd.learners.torch_learner import one_thread
from edgefd.runs.environment import command
from edgefd.runs.terms import terms_of

SCHEMA = 1


def audit(
    folder: Path,
    request: AuditRequest,
    start: Callable[[int], OnStep],
    objects: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Audit a run, write RUN/audit, and return the content of audit.json.

    `start(n)` is called when it is known that there are up to n steps. The function that it returns is called after
    each step. `objects` are the objects of a session that the config of the run names, see `Config.objects`.

    Raises:
        UserError: for bad input, see `open_recording`, `choose` and `part`.
        RunError: if something cannot be written.
    """
    require("audit", "scipy", "sklearn", "threadpoolctl")
    from threadpoolctl import threadpool_limits

    recording = open_recording(folder, objects)
    request = restrict_to_recording(recording, request)
    on_step = start(count_steps(recording, request))
    place = folder / "audit"
    results = results_folder(place, request)
    # A signal that was stored is a result: the next audit reuses it.
    kept = removed_on_error(place, unless=lambda: any((place / "signals").glob("*.npz")))
    with kept, threadpool_limits(1), one_thread():
        signals = part(place / "signals", recording.digest, "exposure", lambda: disclosure_signals(recording))
        on_step("exposure")
        result = _head(recording, request) | {"folder": str(results)}
        result["exposure"] = _disclosure(recording, signals, request)
        _replay(recording, result)
        scores = _membership(recording, request, result, place, on_step) if request.level else []
        reconstructions = _report_attacks(recording, request, result, place, on_step)
        result["limits"] = [judge(limit, result) for limit in request.limits]
        write_audit(results, result, scores, reconstructions)
    return result


def _head(recording: Recording, request: AuditRequest) -> dict[str, Any]:
    config = recording.config
    return {
        "schema": SCHEMA,
        "edgefd": __version__,
        "run": str(recording.folder),
        "command": command(),
        "run_command": run_command(recording),
        "method": config.method_name,
        "dataset": recording.dataset.name,
        "scenario": config.partition.name,
        "n_clients": len(recording.federation.clients),
        "rounds": len(recording.rounds),
        "seed": config.seed,
        "codec": terms_of(config, recording.federation).codec,
        "level": request.level,
        "shadows": request.shadows if request.level == 2 else None,
        "attacks": list(request.attacks),
        "adversaries": list(request.adversaries),
        "valid": True,
        "failed_controls": [],
        "membership": [],
        "seal": recording.seal,
        "replay": None,
        "controls": None,
        "user_level": [],
        "evidence": {},
        "claims": [],
        "extraction": None,
        "inversion": None,
        "deployed": recording.deployed,
        "not_tested": [*_omitted_levels(recording, request), *NOT_TESTED],
    }


def _replay(recording: Recording, result: dict[str, Any]) -> None:
    """Add the control of the recording itself to `result`; a coordinator has no models to compute reports from."""
    if recording.deployed:
        return
    check_models(recording)
    for round in recording.rounds:
        teacher_after(recording, round)  # raises for one that cannot be read
    result["replay"], failed = replay(recording)
    result["not_tested"] = [f"replay of {reason}" for reason in result["replay"]["skipped"]] + result["not_tested"]
    _fail(result, failed)


def _fail(result: dict[str, Any], failed: Sequence[str]) -> None:
    result["failed_controls"] = [*result["failed_controls"], *failed]
    result["valid"] = not result["failed_controls"]


def _omitted_levels(recording: Recording, request: AuditRequest) -> list[str]:
    """Describe the attacks of higher levels, which this audit does not run."""
    if recording.deployed:
        return [NOT_TESTED_OF_COORDINATORS.format(", ".join(LEVELS[1] + LEVELS[2]))]
    return [NOT_TESTED_BELOW_LEVEL_2] if request.level < 2 else []


def _disclosure(recording: Recording, signals: Arrays, request: AuditRequest) -> dict[str, Any]:
    """Analyse, without attacks on models, what is disclosed to the requested adversaries."""
    analyses: dict[str, Callable[[], dict[str, Any]]] = {
        "ledger": lambda: raw_records.ledger(recording, signals),
        "labels": lambda: label_inference.label_inference(signals),
        "attribution": lambda: attribution(signals, recording.federation.proxy_labels),
        "singletons": lambda: single_client_aggregates(signals["votes"]),
        "centroids": lambda: stored_centroids.centroid_exposure(signals),
        "sizes": lambda: message_sizes.message_sizes(signals, recording.config.seed),
    }
    visible = {name for name, recipients in DISCLOSURE.items() if set(recipients) & set(request.adversaries)}
    return {name: analyse() for name, analyse in analyses.items() if name in request.attacks and name in visible}


def _membership(
    recording: Recording, request: AuditRequest, result: dict[str, Any], place: Path, on_step: OnStep
) -> list[Scores]:
    """Run the membership attacks, add their results and controls to `result`, and return the scores."""
    names = tuple(name for name in request.attacks if name not in DISCLOSURE and name not in REPORT_ATTACKS)
    if not names or set(request.adversaries) <= {"eavesdropper", "observer"}:
        return []
    candidates, population = choose(recording.federation, recording.config.seed)
    context = AuditContext(
        recording, candidates, population, names, request.adversaries, request.shadows, place, on_step
    )
    attacked = run_attacks(context)
    result["controls"], failed = controls(attacked.null, attacked.positive)
    _fail(result, [*check_candidates(recording, candidates), *failed])
    result["not_tested"] = attacked.skipped + result["not_tested"]
    defence = recording.config.defence
    claims = {adversary: claimed for adversary in covered(defence) if (claimed := claim(defence)) is not None}
    for scores in attacked.scores:
        claimed_epsilon, n_clients = claims.get(scores.adversary, (None,))[0], len(recording.federation.clients)
        row = attack_result(scores, recording.config.seed, claimed_epsilon, n_clients)
        if areas := attacked.leave_one_out.get((scores.adversary, scores.attack)):
            row["each_shadow_in_turn"] = areas
        result["membership"].append(row)
    rng = make_rng(recording.config.seed, Purpose.AUDIT, AuditStream.EVIDENCE)
    for adversary in request.adversaries:
        found = evidence([scores for scores in attacked.scores if scores.adversary == adversary], rng)
        result["evidence"] |= {adversary: found} if found else {}
    result["claims"] = refuted_claims(attacked.scores, claims, rng)
    rng = make_rng(recording.config.seed, Purpose.AUDIT, AuditStream.USER_LEVEL)
    result["user_level"] = user_level(attacked.scores, rng)
    on_step("attacks")
    return attacked.scores


def _report_attacks(
    recording: Recording, request: AuditRequest, result: dict[str, Any], place: Path, on_step: OnStep
) -> Arrays:
    """Add extracted models and reconstructions to `result`, and return the reconstructions, if there are any."""
    names = [n for n in REPORT_ATTACKS if n in request.attacks and set(REPORT_READERS) & set(request.adversaries)]
    if "extraction" in names:
        extracted = part(place / "signals", recording.digest, "copies", lambda: extraction_signals(recording))
        result["extraction"] = extraction(extracted)
        on_step("extracted models")
    if "inversion" not in names:
        return {}
    if reason := impossible(recording.federation):
        return _no_reconstructions(result, reason)
    reconstructions = part(place / "signals", recording.digest, "inversion", lambda: inversion_signals(recording))
    findings, failed = inversion(reconstructions)
    on_step("images from soft labels")
    if "reason" in findings:
        return _no_reconstructions(result, findings["reason"])
    result["inversion"] = findings
    _fail(result, failed)
    return reconstructions


def _no_reconstructions(result: dict[str, Any], reason: str) -> Arrays:
    result["inversion"] = {"reason": reason}
    result["not_tested"] = [f"inversion: {reason}", *result["not_tested"]]
    return {}
