"""Write the results of an audit, and tell whether it passes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.auditing.attacks.membership import Scores
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.auditing.report.page import page
from edgefd.auditing.request import AuditRequest
from edgefd.core.errors import UserError
from edgefd.core.files import put, writing
from edgefd.core.json_files import write_json
from edgefd.core.npz import npz_bytes
from edgefd.runs.read import read_json


def write_audit(place: Path, result: dict[str, Any], scores: Sequence[Scores], reconstructions: Arrays) -> None:
    """Write scores.npz, audit.html and audit.json.

    Raises:
        RunError: if one of them cannot be written.
    """
    arrays: dict[str, np.ndarray] = {f"inversion/{name}": values for name, values in reconstructions.items()}
    for attack in scores:
        when = "final" if attack.round is None else f"{attack.round:04d}"
        name = f"{attack.adversary}/{when}/{attack.attack}"
        arrays |= {name: attack.values, f"{name}/member": attack.member, f"{name}/client": attack.client}
    with writing(place):
        put(place / "scores.npz", npz_bytes(arrays))
        put(place / "audit.html", page(result, reconstructions).encode())
    write_json(place / "audit.json", result)


def results_folder(place: Path, request: AuditRequest) -> Path:
    """Return the folder of an audit's results: `place`, or `level-N` in it if `place` holds those of a larger audit.

    Raises:
        UserError: if audit.json of an earlier audit cannot be read.
    """
    path = place / "audit.json"
    if request.replace or not path.is_file():
        return place
    try:
        covered = request.covers(read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no result of an audit: remove it, or pass --replace") from error
    return place if covered else place / f"level-{request.level}"


def verdict_error(result: dict[str, Any]) -> str | None:
    """Return why the audit must not pass: failed controls, refuted claims, exceeded limits; None if it may pass."""
    if result["failed_controls"]:
        return f"audit invalid: {'; '.join(result['failed_controls'])}"
    refuted = [
        f"the claimed epsilon {claim['claimed']:g} is refuted: {claim['adversary']} measures at least "
        f"{claim['measured']:.2f} with {claim['attack']}"
        for claim in result["claims"]
        if claim["refuted"]
    ]
    exceeded = [f"{limit['limit']}: found {limit['found']:.3g}" for limit in result["limits"] if limit["exceeded"]]
    if exceeded:
        refuted.append(f"audit finds more than --fail-if allows: {'; '.join(exceeded)}")
    return "; ".join(refuted) or None
