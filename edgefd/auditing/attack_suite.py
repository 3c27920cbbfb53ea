"""Run the membership attacks of an audit: for each family its signals, its scores and both controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgefd.auditing.attacks import centroid_distance, insertion, membership, planted_canaries, shadow_lira
from edgefd.auditing.attacks.filter_canaries import filter_signals
from edgefd.auditing.attacks.membership import Control, Scores
from edgefd.auditing.attacks.model_outputs import output_signals
from edgefd.auditing.attacks.reference_models import reference_signals
from edgefd.auditing.attacks.shadow_controls import control_signals
from edgefd.auditing.attacks.shadow_federations import shadow_signals, target_student
from edgefd.auditing.progress import OnStep
from edgefd.auditing.recording.candidates import Candidates, Population
from edgefd.auditing.recording.read import Recording
from edgefd.auditing.recording.signal_store import Arrays, part


@dataclass(frozen=True, eq=False)
class AuditContext:
    """The input of every attack family: the recorded run, the requested attacks, and the folder of stored signals."""

    recording: Recording
    candidates: Candidates
    population: Population
    names: tuple[str, ...]
    """the requested attacks"""
    adversaries: tuple[str, ...]
    shadows: int
    """number of shadow federations"""
    place: Path
    """the folder RUN/audit"""
    on_step: OnStep

    def part(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """Return stored signals, or compute and store them; see `edgefd.auditing.recording.signal_store.part`."""
        return part(self.place / "signals", self.recording.digest, name, compute)


@dataclass
class AuditResults:
    """Scores of all attacks, and the scores of both controls by attack; each family adds its own."""

    scores: list[Scores] = field(default_factory=list)
    null: Control = field(default_factory=dict)
    positive: Control = field(default_factory=dict)
    leave_one_out: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """by adversary and attack: the AUC with each shadow federation in turn as the target"""
    skipped: list[str] = field(default_factory=list)
    """attacks that cannot be run on this recording, each with the reason"""

    def add(self, scores: list[Scores], null: Control, positive: Control) -> None:
        """Add the scores and controls of one family."""
        self.scores += scores
        self.null |= null
        self.positive |= positive


def run_attacks(context: AuditContext) -> AuditResults:
    """Run all requested attacks, the cheapest family first."""
    results = AuditResults()
    filters = context.part("filters", lambda: filter_signals(context.recording))
    context.on_step("canary pairs")
    signals = _model_signals(context)
    _run_models_and_filters(context, results, signals, filters)
    requested = set(context.names)
    if requested & set(insertion.ATTACKS) and "server" in context.adversaries:
        _run_insertion(context, results, signals, filters)
    if centroid_distance.ATTACK in requested and "holder" in context.adversaries:
        _run_centroids(context, results)
    if requested & set(shadow_lira.ATTACKS):
        _run_shadows(context, results, signals)
    if requested & set(planted_canaries.ATTACKS):
        _run_planted(context, results, signals)
    return results


def _model_signals(context: AuditContext) -> Arrays:
    recording, candidates, population = context.recording, context.candidates, context.population
    signals = context.part("answers", lambda: output_signals(recording, candidates, population, context.on_step))
    signals |= context.part("references", lambda: reference_signals(recording, candidates, population, context.on_step))
    return signals | {"client": candidates.client, "member": candidates.member, "y": candidates.y}


def _run_models_and_filters(context: AuditContext, results: AuditResults, signals: Arrays, filters: Arrays) -> None:
    on_models = tuple(name for name in context.names if name in membership.MODEL_ATTACKS)
    scores = membership.model_scores(signals, on_models, context.adversaries)
    on_filters = membership.filter_scores(filters, context.names) if "server" in context.adversaries else []
    tested = (*on_models, *(attack.attack for attack in on_filters))
    null = membership.null_scores(signals, filters, tested)
    results.add([*scores, *on_filters], null, membership.positive_scores(signals, filters, tested))


def _run_insertion(context: AuditContext, results: AuditResults, signals: Arrays, filters: Arrays) -> None:
    if len(context.recording.federation.clients) < 2:
        results.skipped.append(
            "insertion, inserted_weight: the control is the filter of another client, and there is only one client"
        )
        return
    signals = signals | context.part(
        "insertion", lambda: insertion.insertion_signals(context.recording, context.candidates)
    )
    context.on_step("inserted records")
    scores = insertion.insertion_scores(signals, context.names)
    tested = tuple(attack.attack for attack in scores)
    results.add(scores, *insertion.insertion_controls(signals, filters, tested))


def _run_centroids(context: AuditContext, results: AuditResults) -> None:
    recording, candidates = context.recording, context.candidates
    signals = context.part("centroids", lambda: centroid_distance.centroid_signals(recording, candidates))
    if not signals:
        results.skipped.append(
            f"{centroid_distance.ATTACK}: it needs two clients whose filters store centroids (edgefd, estimator=kmeans)"
        )
        return
    context.on_step("stored centroids")
    scores = centroid_distance.centroid_scores(signals, candidates)
    results.add([scores], *centroid_distance.centroid_controls(signals, candidates))


def _run_shadows(context: AuditContext, results: AuditResults, signals: Arrays) -> None:
    recording, candidates = context.recording, context.candidates
    shadows = shadow_signals(recording, candidates, context.shadows, context.place, context.on_step)
    student = context.part("student", lambda: {"p": target_student(recording, candidates)})["p"]
    controls = context.part("shadow_controls", lambda: control_signals(recording, candidates, context.population))
    context.on_step("controls of the shadow federations")
    scores = shadow_lira.shadow_scores(signals, shadows, student, context.names, context.adversaries)
    tested = tuple(attack.attack for attack in scores)
    results.add(scores, *shadow_lira.shadow_controls(signals, shadows, controls, tested))
    for attack in scores:
        areas = shadow_lira.leave_one_out(shadows, attack.attack, attack.adversary)
        results.leave_one_out[attack.adversary, attack.attack] = areas


def _run_planted(context: AuditContext, results: AuditResults, signals: Arrays) -> None:
    if reason := planted_canaries.too_few(context.recording.federation, context.recording.config.seed):
        results.skipped.append(f"planted: {reason}")
        return
    canaries = context.part("planted", lambda: planted_canaries.planted_signals(context.recording))
    context.on_step("a run with planted canaries")
    scores = planted_canaries.planted_scores(canaries, int(signals["rounds"][-1]), context.adversaries)
    results.add(scores, *(planted_canaries.planted_controls(signals, canaries) if scores else ({}, {})))
