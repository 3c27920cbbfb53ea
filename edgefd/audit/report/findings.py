"""From scores to what is printed: figures with intervals, controls, and whether a limit is passed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgefd.audit.attacks.membership import Scores
from edgefd.audit.measures.statistics import (
    Rate,
    advantage,
    auc,
    epsilon_clopper_pearson,
    epsilon_one_run,
    epsilon_one_run_fdp,
    epsilon_split,
    largest_epsilon,
    roc,
    tpr_at,
)
from edgefd.audit.recording.candidates import LEAST
from edgefd.audit.report.verdict import records
from edgefd.core.arrays import Bool, Float64
from edgefd.core.errors import UserError
from edgefd.core.seeding import AuditStream, Purpose, make_rng

DELTA = 1e-5
RATES = {"10%": 0.1, "1%": 0.01, "0.1%": 0.001}
_CURVE = 200  # points of a curve that are kept
_BOUNDS = {
    "clopper_pearson": epsilon_clopper_pearson,
    "one_run": epsilon_one_run,
    "one_run_fdp": epsilon_one_run_fdp,
}


def finding(scores: Scores, seed: int, claimed: float | None = None) -> dict[str, Any]:
    """All figures of one attack, pooled over clients, and the area for each client, worst first.

    `claimed` is the epsilon that the run promises against this adversary, if any.
    """
    inside, outside = scores.values[scores.member], scores.values[~scores.member]
    rng = make_rng(seed, Purpose.AUDIT, AuditStream.INTERVALS)
    clients = [_client_row(scores, int(c)) for c in np.unique(scores.client)]
    known = [row for row in clients if row["auc"] is not None]
    return {
        "attack": scores.attack,
        "adversary": scores.adversary,
        "round": scores.round,
        "members": len(inside),
        "non_members": len(outside),
        "auc": asdict(auc(inside, outside)),
        "tpr": {name: _rate(tpr_at(inside, outside, fpr, rng)) for name, fpr in RATES.items()},
        "advantage": advantage(inside, outside),
        "epsilon": {
            "delta": DELTA,
            "claimed": claimed,
            "largest_possible": largest_epsilon(len(inside) // 2, len(outside) // 2, DELTA),
            **{name: epsilon_split(bound, inside, outside, DELTA, rng) for name, bound in _BOUNDS.items()},
        },
        "roc": _curve(inside, outside),
        "clients": sorted(known, key=lambda row: -row["auc"]["value"]) + [r for r in clients if r["auc"] is None],
    }


def _client_row(scores: Scores, client: int) -> dict[str, Any]:
    mine = scores.client == client
    inside, outside = scores.values[mine & scores.member], scores.values[mine & ~scores.member]
    row: dict[str, Any] = {"client": client, "members": len(inside), "auc": None}
    if min(len(inside), len(outside)) < LEAST:
        return row | {"reason": f"fewer than {LEAST} members or non-members"}
    return row | {"auc": asdict(auc(inside, outside))}


def _rate(rate: Rate) -> dict[str, Any]:
    return {name: value for name, value in asdict(rate).items() if name != "reason" or value}


def _curve(inside: Float64, outside: Float64) -> dict[str, list[float]]:
    """At most `_CURVE` corners of the curve, evenly in log FPR, where low rates are what matters."""
    fpr, tpr = roc(inside, outside)
    wanted = np.concatenate([[0], np.geomspace(1 / (2 * len(outside)), 1, _CURVE - 1)])
    at = np.unique(np.searchsorted(fpr, wanted, side="right") - 1)
    return {"fpr": fpr[at].tolist(), "tpr": tpr[at].tolist()}


def controls(
    null: Mapping[str, tuple[Float64, Bool]], positive: Mapping[str, tuple[Float64, Bool]]
) -> tuple[dict[str, Any], list[str]]:
    """Both controls of each attack, and what failed.

    Null: the interval must cover 0.5; all together are to fail by chance in 5 of 100 audits, so intervals are at
    1 - 0.05 / number of attacks. Positive: the 95 % interval must be above 0.5.
    """
    failed = []
    found: dict[str, Any] = {"null": {}, "positive": {}, "null_significance": 0.05 / max(1, len(null))}
    for name, (values, member) in null.items():
        wide = auc(values[member], values[~member], found["null_significance"])
        found["null"][name] = asdict(wide)
        if not wide.low <= 0.5 <= wide.high:
            failed.append(f"null control: {name} finds members where there are none (AUC {wide.value:.3f})")
    for name, (values, member) in positive.items():
        area = auc(values[member], values[~member])
        found["positive"][name] = asdict(area)
        if not area.low > 0.5:
            failed.append(f"positive control: {name} does not find what was planted (AUC {area.value:.3f})")
    return found, failed


@dataclass(frozen=True)
class Limit:
    """What an audit may find: "METRIC>NUMBER"."""

    metric: str
    most: float

    def __str__(self) -> str:
        return f"{self.metric}>{self.most:g}"


METRICS = ("auc", *(f"tpr@{name}" for name in RATES), "advantage", "epsilon", "raw_records", "presence_auc")


def parse_limit(text: str) -> Limit:
    """From the command line.

    Raises:
        UserError: if it does not parse.
    """
    match = re.fullmatch(r"\s*([a-z_@0-9.%]+)\s*>\s*([0-9.]+(?:e-?[0-9]+)?)\s*", text)
    try:
        if match and match[1] in METRICS:
            return Limit(match[1], float(match[2]))
    except ValueError:
        pass
    raise UserError(f"--fail-if {text!r} must look like 'tpr@1%>0.05'; there are {', '.join(METRICS)}")


def largest_found(limit: Limit, audit: Mapping[str, Any]) -> float:
    """The largest value of a limit's metric that the audit found, over its attacks; of canaries only epsilon counts.

    Raises:
        UserError: if nothing that was done measures it: a limit that cannot be judged is not kept silently.
    """
    exposure, metric = audit["exposure"], limit.metric
    values: list[float | None]
    if metric == "raw_records":
        values = [exposure["ledger"]["raw_records_sent"]] if "ledger" in exposure else []
    elif metric == "presence_auc":
        areas = (
            [exposure["labels"][name]["presence_auc"] for name in _LABEL_SOURCES]
            if _measured(exposure, "labels")
            else []
        )
        values = [area["value"] for area in areas if area]
    else:
        asked = audit["membership"] if metric == "epsilon" else records(audit)
        values = [_metric(metric, found) for found in asked]
    known = [value for value in values if value is not None]
    if not known:
        raise UserError(f"--fail-if {limit}: no attack that was run, on so many records, measures {metric}")
    return max(known)


def _measured(exposure: Mapping[str, Any], name: str) -> bool:
    return name in exposure and "reason" not in exposure[name]


_LABEL_SOURCES = ("masks", "weights", "soft_labels")


def _metric(metric: str, found: Mapping[str, Any]) -> float | None:
    if metric == "auc":
        return float(found["auc"]["value"])
    if metric == "advantage":
        return float(found["advantage"])
    if metric == "epsilon":
        return float(found["epsilon"]["one_run"])
    rate = found["tpr"][metric.removeprefix("tpr@")]["tpr"]
    return None if rate is None else float(rate["value"])
