"""Limits on what an audit may find: `--fail-if METRIC>NUMBER`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgefd.auditing.report.findings import RATES
from edgefd.auditing.report.verdict import results_on_records
from edgefd.core.errors import UserError

_COPIES = {
    "raw_records": "raw_records_sent",
    "near_copies": "private_with_near_copy",
    "exact_copies": "exact_copies",
}
METRICS = ("auc", "client_auc", *(f"tpr@{name}" for name in RATES), "advantage", "epsilon", *_COPIES, "presence_auc")
_LABEL_SOURCES = ("masks", "weights", "soft_labels")


@dataclass(frozen=True)
class Limit:
    """The largest value of a metric that an audit may find."""

    metric: str
    most: float

    def __str__(self) -> str:
        """Return the limit as it is written on the command line."""
        return f"{self.metric}>{self.most:g}"


def parse_limit(text: str) -> Limit:
    """Parse a limit from the command line.

    Raises:
        UserError: if it is not a known metric, ">" and a number.
    """
    match = re.fullmatch(r"\s*([a-z_@0-9.%]+)\s*>\s*([0-9.]+(?:e-?[0-9]+)?)\s*", text)
    try:
        if match and match[1] in METRICS:
            return Limit(match[1], float(match[2]))
    except ValueError:
        pass
    raise UserError(f"--fail-if {text!r} must look like 'tpr@1%>0.05'; the metrics are {', '.join(METRICS)}")


def judge(limit: Limit, audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limit with the largest value that the audit found, and whether it is exceeded.

    Raises:
        UserError: as `largest_found`.
    """
    value = largest_found(limit, audit)
    return {"limit": str(limit), "found": value, "exceeded": value > limit.most}


def largest_found(limit: Limit, audit: Mapping[str, Any]) -> float:
    """Return the largest value of a limit's metric over all attacks; planted canaries count for epsilon only.

    Raises:
        UserError: if no attack that was run measures the metric, because such a limit would pass without a check.
    """
    exposure, metric = audit["exposure"], limit.metric
    values: list[float | None]
    if metric in _COPIES:
        values = [exposure.get("ledger", {}).get(_COPIES[metric])]
    elif metric == "presence_auc":
        values = _presence_areas(exposure)
    else:
        results = audit["membership"] if metric == "epsilon" else results_on_records(audit)
        values = [_metric(metric, result) for result in results]
    measured = [value for value in values if value is not None]
    if not measured:
        raise UserError(f"--fail-if {limit}: no attack that was run, on so many records, measures {metric}")
    return max(measured)


def _presence_areas(exposure: Mapping[str, Any]) -> list[float | None]:
    labels = exposure.get("labels", {"reason": "not analysed"})
    if "reason" in labels:
        return []
    areas = [labels[source]["presence_auc"] for source in _LABEL_SOURCES]
    return [area["value"] for area in areas if area]


def _metric(metric: str, result: Mapping[str, Any]) -> float | None:
    """Return the metric of one attack; `client_auc` leaves out clients with few records, which vary by chance."""
    if metric == "auc":
        return float(result["auc"]["value"])
    if metric == "client_auc":
        of_clients = [row["auc"]["value"] for row in result["clients"] if row["auc"] and "p" not in row]
        return max(of_clients, default=None)
    if metric == "advantage":
        return float(result["advantage"])
    if metric == "epsilon":
        return float(result["epsilon"]["one_run"])
    rate = result["tpr"][metric.removeprefix("tpr@")]["tpr"]
    return None if rate is None else float(rate["value"])
