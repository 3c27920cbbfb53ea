"""Which membership attacks are run: by family the signals, the scores and both controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgefd.audit.attacks import insertion, membership
from edgefd.audit.attacks import planted_canaries as planted
from edgefd.audit.attacks import shadow_lira as shadow_scores
from edgefd.audit.attacks.filter_canaries import filter_signals
from edgefd.audit.attacks.membership import Control, Scores
from edgefd.audit.attacks.model_outputs import answer_signals, reference_signals
from edgefd.audit.attacks.shadow_controls import control_signals
from edgefd.audit.attacks.shadow_federations import shadow_signals, target_student
from edgefd.audit.recording.candidates import Candidates, Population
from edgefd.audit.recording.read import Recording
from edgefd.audit.recording.signal_store import Arrays, part

Tick = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class AuditContext:
    """What every family needs: of what run, what is wanted, and where signals are kept."""

    recording: Recording
    candidates: Candidates
    population: Population
    names: tuple[str, ...]
    adversaries: tuple[str, ...]
    shadows: int
    place: Path
    tick: Tick

    def part(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """See `edgefd.audit.recording.signal_store.part`."""
        return part(self.place / "signals", self.recording.digest, name, compute)


@dataclass
class AuditResults:
    """Scores of attacks, and by attack the scores of its controls; grows by family.

    `turns`: by adversary and attack, the area with each shadow in turn for the target. `skipped`: what could not be
    run here, and why.
    """

    scores: list[Scores] = field(default_factory=list)
    null: Control = field(default_factory=dict)
    positive: Control = field(default_factory=dict)
    turns: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def add(self, scores: list[Scores], null: Control, positive: Control) -> None:
        """A family's."""
        self.scores += scores
        self.null |= null
        self.positive |= positive


def run_attacks(context: AuditContext) -> AuditResults:
    """All that are wanted, in order of what they cost."""
    found = AuditResults()
    f = context.part("filters", lambda: filter_signals(context.recording))
    context.tick("canary pairs")
    s = _answers(context)
    _models_and_filters(context, found, s, f)
    if _wanted(context, insertion.ATTACKS) and "server" in context.adversaries:
        _insertions(context, found, s, f)
    if _wanted(context, shadow_scores.ATTACKS):
        _shadows(context, found, s)
    if _wanted(context, planted.ATTACKS):
        _planted(context, found, s)
    return found


def _wanted(context: AuditContext, names: tuple[str, ...]) -> bool:
    return any(name in context.names for name in names)


def _answers(context: AuditContext) -> Arrays:
    recording, candidates, population = context.recording, context.candidates, context.population
    s = context.part("answers", lambda: answer_signals(recording, candidates, population, context.tick))
    s |= context.part("references", lambda: reference_signals(recording, candidates, population, context.tick))
    return s | {"client": candidates.client, "member": candidates.member, "y": candidates.y}


def _models_and_filters(context: AuditContext, found: AuditResults, s: Arrays, f: Arrays) -> None:
    models = tuple(name for name in context.names if name in membership.MODEL_ATTACKS)
    scores = membership.model_scores(s, models, context.adversaries)
    filters = membership.filter_scores(f, context.names) if "server" in context.adversaries else []
    tested = (*models, *(score.attack for score in filters))
    null, positive = membership.null_scores(s, f, tested), membership.positive_scores(s, f, tested)
    found.add([*scores, *filters], null, positive)


def _insertions(context: AuditContext, found: AuditResults, s: Arrays, f: Arrays) -> None:
    if len(context.recording.federation.clients) < 2:
        found.skipped.append("insertion, inserted_weight: the control is another client's filter, and there is none")
        return
    s = s | context.part("insertion", lambda: insertion.insertion_signals(context.recording, context.candidates))
    context.tick("inserted records")
    scores = insertion.insertion_scores(s, context.names)
    found.add(scores, *insertion.insertion_controls(s, f, tuple(score.attack for score in scores)))


def _shadows(context: AuditContext, found: AuditResults, s: Arrays) -> None:
    recording, candidates = context.recording, context.candidates
    shadows = shadow_signals(recording, candidates, context.shadows, context.place, context.tick)
    own = context.part("student", lambda: {"p": target_student(recording, candidates)})["p"]
    known = context.part("shadow_controls", lambda: control_signals(recording, candidates, context.population))
    context.tick("controls of the shadows")
    scores = shadow_scores.shadow_scores(s, shadows, own, context.names, context.adversaries)
    tested = tuple(score.attack for score in scores)
    found.add(scores, *shadow_scores.shadow_controls(s, shadows, known, tested))
    for score in scores:
        turn = shadow_scores.leave_one_out(shadows, score.attack, score.adversary)
        found.turns[score.adversary, score.attack] = turn


def _planted(context: AuditContext, found: AuditResults, s: Arrays) -> None:
    if reason := planted.too_few(context.recording.federation, context.recording.config.seed):
        found.skipped.append(f"planted: {reason}")
        return
    p = context.part("planted", lambda: planted.planted_signals(context.recording))
    context.tick("a run with planted canaries")
    scores = planted.planted_scores(p, int(s["rounds"][-1]), context.adversaries)
    found.add(scores, *(planted.planted_controls(s, p) if scores else ({}, {})))
