"""The part of a round that the server runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgefd.core.knowledge import Knowledge
from edgefd.federation.method import Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.state import Server


def server_round(
    method: Method,
    config: Any,
    reports: Sequence[Report],
    plan: RoundPlan,
    teacher: Knowledge | None = None,
    server: Server | None = None,
) -> Knowledge:
    """Aggregate the reports, sorted by client, and apply the server filter (EdgeFD has none); return the new teacher.

    Args:
        method: the method of the federation.
        config: an instance of the method's own Config class.
        reports: reports of the round, in any order.
        plan: the plan of the round.
        teacher: the teacher of the last round; None in the first one.
        server: data of the server; required if the method has a `server_update`.

    Raises:
        ValueError: if the method has a `server_update` and `server` is None.
    """
    ordered = sorted(reports, key=lambda r: r.client)
    if method.server_update is None:
        aggregated = method.aggregate([r.knowledge for r in ordered], config)
    elif server is None:
        raise ValueError(f"method {method.name} needs data of the server: pass `server`")
    else:
        aggregated = method.server_update(ordered, teacher, plan, server, config)
    return method.server_filter(aggregated, config)
