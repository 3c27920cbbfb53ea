"""LiRA from shadow federations; the target is the recorded run, each shadow in turn, or a control."""

from __future__ import annotations

import numpy as np

from edgefd.auditing.attacks.membership import Control, Scores, outputs_of_client
from edgefd.auditing.measures import membership_formulas as formulas
from edgefd.auditing.measures.membership_formulas import Floats
from edgefd.auditing.measures.statistics import auc
from edgefd.auditing.recording.signal_store import Arrays
from edgefd.core.arrays import Bool, Float32, Float64

ATTACKS = ("shadow_lira", "shadow_lira_offline", "distilled_lira")
_VIEW = {
    "server": "sent",
    "client": "aggregate",
    "holder": "final",
}  # the outputs of shadows that an adversary compares


def shadow_scores(
    signals: Arrays, shadows: Arrays, student: Float32, names: tuple[str, ...], adversaries: tuple[str, ...]
) -> list[Scores]:
    """Score candidates by LiRA from shadow federations, with the recorded run as the target.

    `student` [n] holds the outputs of the recorded run's students (`target_student`).
    """
    y, client, member = signals["y"], signals["client"], signals["member"]
    rejected = outputs_of_client(signals["claims"], client) <= 0
    last = int(signals["rounds"][-1])
    targets = {
        "server": (formulas.of_label(outputs_of_client(signals["sent"][-1], client), y), last),
        "client": (formulas.of_label(signals["aggregate"][-1], y), last),
        "holder": (formulas.of_label(outputs_of_client(signals["final"], client), y), None),
    }
    scores = []
    for adversary, (target, round) in targets.items():
        for name in [n for n in ("shadow_lira", "shadow_lira_offline") if n in names and adversary in adversaries]:
            values = _from_shadows(name, target, shadows[_VIEW[adversary]], shadows["inside"])
            if adversary == "server":
                values = np.where(rejected, values.min() - 1, values)
            scores.append(Scores(name, adversary, values, client, member, round))
    if "distilled_lira" in names and "server" in adversaries:
        values = _from_shadows("distilled_lira", student, shadows["distilled"], shadows["inside"])
        scores.append(Scores("distilled_lira", "server", values, client, member, last))
    return scores


def _from_shadows(name: str, target: Floats, others: Floats, inside: Bool) -> Float64:
    """Return the scores; `target` [n] and `others` [S, n] are probabilities of the records' labels."""
    return formulas.shadow_lira(formulas.log_odds(target), formulas.log_odds(others), inside, "offline" not in name)


def leave_one_out(shadows: Arrays, name: str, adversary: str) -> list[float]:
    """Return the AUC with each shadow in turn as the target, and the other pairs as its shadows.

    The shadow with the opposite members is left out with the target. Otherwise the target's members would have one more
    shadow without them than with them, and the non-members one less, which does not hold for the recorded run.
    """
    view = "distilled" if name == "distilled_lira" else _VIEW[adversary]
    areas = []
    for i, inside in enumerate(shadows["inside"]):
        rest = np.arange(len(shadows["inside"])) // 2 != i // 2
        values = _from_shadows(name, shadows[view][i], shadows[view][rest], shadows["inside"][rest])
        areas.append(auc(values[inside], values[~inside]).value)
    return areas


def shadow_controls(
    signals: Arrays, shadows: Arrays, control_models: Arrays, names: tuple[str, ...]
) -> tuple[Control, Control]:
    """Return both controls of the same attacks; `control_models` holds `shadow_controls.control_signals`."""
    null, positive = {}, {}
    for name in [n for n in names if n in ATTACKS]:
        suffix, view = ("_distilled", "distilled") if name == "distilled_lira" else ("", "final")
        values = _from_shadows(name, control_models[f"null{suffix}"], shadows[view], shadows["inside"])
        null[name] = (values, signals["member"])
        memorised, inside = control_models[f"memorised{suffix}"], control_models["memorised_in"]
        positive[name] = (_from_shadows(name, memorised[-1], memorised[:-1], inside[:-1]), inside[-1])
    return null, positive
