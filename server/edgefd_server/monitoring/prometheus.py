"""Prometheus metrics of a device link. They hold no private value."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edgefd.core.descriptors import SHORTAGES
from edgefd.core.files import os_errors
from edgefd_server.monitoring.event_log import Log
from edgefd_server.monitoring.http_server import HttpServer, ShortReply

ONLINE = 60.0
"""seconds after its last call for which a device counts as online"""


class LinkMetrics:
    """The Prometheus metrics of one run, with all values at zero."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        buckets = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
        self.online = Gauge("edgefd_devices_online", f"devices that called in the last {ONLINE:g} s", registry=r)
        self.nodes = Gauge("edgefd_nodes_online", "Flower SuperNodes that are connected", registry=r)
        self.round = Gauge("edgefd_round", "the open round", registry=r)
        self.accepted = Counter("edgefd_reports_accepted", "reports accepted", registry=r)
        self.contributions = Gauge(
            "edgefd_contributions", "clients that have contributed samples, while collecting", registry=r
        )
        self.refused = Counter("edgefd_refused", "calls refused", ["call", "reason"], registry=r)
        self.bytes = Counter("edgefd_bytes", "bytes of messages", ["direction"], registry=r)
        """bytes of messages, by direction; `up` is from the devices to the coordinator"""
        self.shortages = Gauge(
            "edgefd_file_shortages", "times that all file descriptors of the coordinator were in use", registry=r
        )
        self.shortages.set_function(lambda: SHORTAGES.count)
        self.call_seconds = Histogram(
            "edgefd_call_seconds", "seconds to answer a call", ["call"], buckets=buckets, registry=r
        )
        self.report_seconds = Histogram(
            "edgefd_report_seconds",
            "seconds from the opening of a round to the arrival of a report",
            buckets=buckets,
            registry=r,
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


class MetricsServer(HttpServer):
    """HTTP server of the metrics in its own thread. Use `metrics_server` to run one."""

    def __init__(self, metrics: LinkMetrics) -> None:
        super().__init__("metrics", None)
        self._metrics = metrics

    async def respond(
        self, path: str, head_only: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[bytes, str]:
        """Return the metrics."""
        if path not in ("/", "/metrics"):
            raise ShortReply(HTTPStatus.NOT_FOUND, "page not found: the only page is /metrics")
        return generate_latest(self._metrics.registry), CONTENT_TYPE_LATEST


@contextmanager
def metrics_server(metrics: LinkMetrics, port: int | None) -> Iterator[None]:
    """Serve the metrics over HTTP on 127.0.0.1 while the context lasts. Do nothing if `port` is None.

    Raises:
        UserError: if it cannot listen on the port.
    """
    if port is None:
        yield
        return
    server = MetricsServer(metrics)
    with os_errors(f"serve metrics on port {port}"):
        server.start("127.0.0.1", port)
    try:
        yield
    finally:
        server.stop()
