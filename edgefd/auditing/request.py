"""The request of an audit: which attacks of which adversaries, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgefd.auditing.attacks.reference_models import REFERENCES
from edgefd.auditing.recording.read import Recording
from edgefd.auditing.report.limits import Limit
from edgefd.auditing.scope import ADVERSARIES, ATTACKS, DISCLOSURE, LEVELS
from edgefd.core.errors import UserError, hint

SHADOWS = 16
"""default number of shadow federations"""


@dataclass(frozen=True)
class AuditRequest:
    """Request of an audit: its level, attacks, adversaries and limits."""

    level: int = 1
    attacks: tuple[str, ...] = LEVELS[0] + LEVELS[1]
    adversaries: tuple[str, ...] = ADVERSARIES
    limits: tuple[Limit, ...] = ()
    shadows: int = SHADOWS
    default: bool = False
    """whether no level was requested, so that the recording may decide"""
    replace: bool = False
    """whether the results of a larger audit of the run may be replaced"""

    def covers(self, result: Mapping[str, Any]) -> bool:
        """Return whether this audit includes all that another one, by its audit.json, has measured."""
        wider = set(self.attacks) >= set(result["attacks"]) and set(self.adversaries) >= set(result["adversaries"])
        return self.level >= int(result["level"]) and wider


def parse_request(
    level: int | None,
    attacks: Sequence[str],
    adversaries: Sequence[str],
    limits: Sequence[Limit],
    shadows: int | None = None,
    replace: bool = False,
) -> AuditRequest:
    """Check a request; without attacks, it means all attacks up to the level; without a level, level 1.

    Raises:
        UserError: for an unknown name, an attack above the level, or an impossible number of shadow federations.
    """
    default = level is None
    level = 1 if level is None else level
    _check_names(attacks, ATTACKS, "attack")
    _check_names(adversaries, ADVERSARIES, "adversary")
    available = tuple(name for names in LEVELS[: level + 1] for name in names)
    if above := [name for name in attacks if name not in available]:
        needed = next(i for i, names in enumerate(LEVELS) if above[0] in names)
        raise UserError(f"attack {above[0]} needs --level {needed}")
    if shadows is not None and level < 2:
        raise UserError("--shadows is for --level 2")
    if shadows is not None and (shadows < 6 or shadows % 2):
        raise UserError(
            f"--shadows {shadows}: pass an even number of at least 6, because shadow federations come in pairs"
        )
    names, who = tuple(attacks) or available, tuple(adversaries) or ADVERSARIES
    return AuditRequest(level, names, who, tuple(limits), shadows or SHADOWS, default, replace)


def _check_names(names: Sequence[str], valid: Sequence[str], kind: str) -> None:
    for name in names:
        if name not in valid:
            raise UserError(f"unknown {kind} {name!r}: {hint(name, valid)}")


def restrict_to_recording(recording: Recording, request: AuditRequest) -> AuditRequest:
    """Return the request; for the recording of a coordinator, level 0 if no level was requested.

    Raises:
        UserError: if an attack or a level was requested that cannot be run.
    """
    on_models = [name for name in request.attacks if name not in DISCLOSURE]
    if not recording.deployed or request.level == 0:
        return request
    everything = request.attacks == LEVELS[0] + LEVELS[1]
    if not request.default or (on_models and not everything):
        by_level = everything or request.level == 2 or not on_models
        option = f"--level {request.level}" if by_level else f"--attack {on_models[0]}"
        raise UserError(
            f"{option} needs the clients' private records and models, and {recording.folder} was recorded by a "
            "coordinator, which has neither: use --level 0, or simulate the same config and audit that run"
        )
    return replace(request, level=0, attacks=LEVELS[0] if everything else request.attacks)


def count_steps(recording: Recording, request: AuditRequest) -> int:
    """Return the largest number of steps of an audit, which it takes if no signals are stored."""
    if request.level == 0:
        return 1
    models = len(recording.model_rounds) + REFERENCES + 9
    return models if request.level == 1 else models + request.shadows + 5
