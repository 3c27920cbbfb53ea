"""LiRA from what shadow federations say: the recorded run is the target, or each shadow in turn, or a control."""

from __future__ import annotations

import numpy as np

from edgefd.audit.attacks.membership import Control, Scores, own_answers
from edgefd.audit.measures import attack_scores as attacks
from edgefd.audit.measures.attack_scores import Floats
from edgefd.audit.measures.statistics import auc
from edgefd.audit.recording.signal_store import Arrays
from edgefd.core.arrays import Bool, Float32, Float64

ATTACKS = ("shadow_lira", "shadow_lira_offline", "distilled_lira")
_SEEN = {"server": "sent", "client": "aggregate", "holder": "final"}  # the shadows' answers that each compares with


def shadow_scores(
    s: Arrays, shadows: Arrays, student: Float32, wanted: tuple[str, ...], adversaries: tuple[str, ...]
) -> list[Scores]:
    """LiRA from shadow federations, with the recorded run as its target. `student`: of it, [n] (`target_student`)."""
    y, client = s["y"], s["client"]
    silent = own_answers(s["claims"], client) <= 0
    last = int(s["rounds"][-1])
    views = {
        "server": (attacks.of_label(own_answers(s["sent"][-1], client), y), last),
        "client": (attacks.of_label(s["aggregate"][-1], y), last),
        "holder": (attacks.of_label(own_answers(s["final"], client), y), None),
    }
    out = []
    for who, (own, round) in views.items():
        for name in [n for n in ("shadow_lira", "shadow_lira_offline") if n in wanted and who in adversaries]:
            values = _from_shadows(name, own, shadows[_SEEN[who]], shadows["inside"])
            if who == "server":
                values = np.where(silent, values.min() - 1, values)
            out.append(Scores(name, who, values, client, s["member"], round))
    if "distilled_lira" in wanted and "server" in adversaries:
        values = _from_shadows("distilled_lira", student, shadows["distilled"], shadows["inside"])
        out.append(Scores("distilled_lira", "server", values, client, s["member"], last))
    return out


def _from_shadows(name: str, own: Floats, others: Floats, inside: Bool) -> Float64:
    """`own` [n] and `others` [S, n]: probabilities of the records' labels."""
    return attacks.shadow_lira(attacks.log_odds(own), attacks.log_odds(others), inside, "offline" not in name)


def leave_one_out(shadows: Arrays, name: str, adversary: str) -> list[float]:
    """The area under the curve with each shadow in turn for the target, and the others for its shadows.

    The one that was dealt the opposite is left out with it: else the target's members would have one shadow more
    without them than with them, and the others one less, which is not so for the recorded run.
    """
    view = "distilled" if name == "distilled_lira" else _SEEN[adversary]
    out = []
    for i, inside in enumerate(shadows["inside"]):
        rest = np.arange(len(shadows["inside"])) // 2 != i // 2
        values = _from_shadows(name, shadows[view][i], shadows[view][rest], shadows["inside"][rest])
        out.append(auc(values[inside], values[~inside]).value)
    return out


def shadow_controls(s: Arrays, shadows: Arrays, known: Arrays, wanted: tuple[str, ...]) -> tuple[Control, Control]:
    """Null and positive controls of the same attacks; `known` are `shadow_controls.control_signals`."""
    null, positive = {}, {}
    for name in [n for n in wanted if n in ATTACKS]:
        end, view = ("_distilled", "distilled") if name == "distilled_lira" else ("", "final")
        values = _from_shadows(name, known[f"null{end}"], shadows[view], shadows["inside"])
        null[name] = (values, s["member"])
        said, inside = known[f"memorised{end}"], known["memorised_in"]
        positive[name] = (_from_shadows(name, said[-1], said[:-1], inside[:-1]), inside[-1])
    return null, positive
