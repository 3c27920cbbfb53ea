"""Prometheus metrics of a device link. They hold no private value."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from edgefd.core.errors import UserError
from edgefd_server.monitoring.event_log import Log

ONLINE = 60.0
"""seconds after its last call for which a device counts as online"""


@dataclass(frozen=True, eq=False)
class LinkMetrics:
    """The Prometheus metrics of one run."""

    registry: CollectorRegistry
    online: Gauge
    nodes: Gauge
    round: Gauge
    accepted: Counter
    contributions: Gauge
    refused: Counter
    """refused calls, by call and reason"""
    bytes: Counter
    """bytes of messages, by direction; `up` is from the devices to the coordinator"""
    call_seconds: Histogram
    report_seconds: Histogram


def make_metrics() -> LinkMetrics:
    """Create the metrics with all values at zero."""
    r = CollectorRegistry()
    buckets = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
    return LinkMetrics(
        registry=r,
        online=Gauge("edgefd_devices_online", f"devices that called in the last {ONLINE:g} s", registry=r),
        nodes=Gauge("edgefd_nodes_online", "Flower SuperNodes that are connected", registry=r),
        round=Gauge("edgefd_round", "the open round", registry=r),
        accepted=Counter("edgefd_reports_accepted", "reports accepted", registry=r),
        contributions=Gauge(
            "edgefd_contributions", "clients that have contributed samples, while collecting", registry=r
        ),
        refused=Counter("edgefd_refused", "calls refused", ["call", "reason"], registry=r),
        bytes=Counter("edgefd_bytes", "bytes of messages", ["direction"], registry=r),
        call_seconds=Histogram(
            "edgefd_call_seconds", "seconds to answer a call", ["call"], buckets=buckets, registry=r
        ),
        report_seconds=Histogram(
            "edgefd_report_seconds",
            "seconds from the opening of a round to the arrival of a report",
            buckets=buckets,
            registry=r,
        ),
    )


def metrics_log(metrics: LinkMetrics) -> Log:
    """Return a log that counts the events of a coordinator: its open round, its reports and its refusals."""
    began = time.monotonic()

    def log(event: str, **fields: Any) -> None:
        nonlocal began
        match event:
            case "round":
                began = time.monotonic()
                metrics.round.set(fields["round"])
            case "report":
                metrics.accepted.inc()
                metrics.report_seconds.observe(time.monotonic() - began)
            case "late":
                metrics.accepted.inc()
            case "refused":
                metrics.refused.labels(fields["call"], fields["reason"]).inc()

    return log


@contextmanager
def metrics_server(metrics: LinkMetrics, port: int | None) -> Iterator[None]:
    """Serve the metrics over HTTP on 127.0.0.1 while the context lasts. Do nothing if `port` is None.

    Raises:
        UserError: if it cannot listen on the port.
    """
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, "127.0.0.1", metrics.registry)
    except OSError as error:
        raise UserError(f"cannot serve metrics on port {port}: {error.strerror}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
