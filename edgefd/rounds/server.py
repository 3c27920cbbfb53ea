"""The server's part of the round."""

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
    """The teacher: aggregate the reports in order of client, then the server filter (EdgeFD has none).

    `teacher` is the last round's; `server` must be given for methods that teach with more than the reports.
    """
    ordered = sorted(reports, key=lambda r: r.client)
    if method.server_update is None:
        made = method.aggregate([r.knowledge for r in ordered], config)
    elif server is None:
        raise ValueError(f"method {method.name} teaches with what the server has, and was given none of it")
    else:
        made = method.server_update(ordered, teacher, plan, server, config)
    return method.server_filter(made, config)
