"""What can be watched of a device link: Prometheus metrics and a log of JSON lines. No private value is in either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from edgefd.core.errors import UserError

ONLINE = 60.0
"""seconds after its last call that a device counts as online"""
MAX_REFUSALS_PER_SECOND = 20  # lines a second


@dataclass(frozen=True, eq=False)
class LinkMetrics:
    """Of one run."""

    registry: CollectorRegistry
    online: Gauge
    nodes: Gauge
    round: Gauge
    accepted: Counter
    contributions: Gauge
    refused: Counter
    """by call and reason"""
    bytes: Counter
    """of messages, by direction: up is from devices"""
    call_seconds: Histogram
    report_seconds: Histogram


def make_metrics() -> LinkMetrics:
    """All at zero."""
    r = CollectorRegistry()
    times = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
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
        call_seconds=Histogram("edgefd_call_seconds", "seconds to answer a call", ["call"], buckets=times, registry=r),
        report_seconds=Histogram(
            "edgefd_report_seconds", "seconds from a round's opening to a report", buckets=times, registry=r
        ),
    )


def serve_metrics(metrics: LinkMetrics, port: int) -> Callable[[], None]:
    """Serve them on 127.0.0.1; call what is returned to stop.

    Raises:
        UserError: if the port is taken.
    """
    try:
        server, thread = start_http_server(port, "127.0.0.1", metrics.registry)
    except OSError as error:
        raise UserError(f"cannot serve metrics on port {port}: {error.strerror}") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


@contextmanager
def metrics_server(metrics: LinkMetrics, port: int | None) -> Iterator[None]:
    """Serve them while the context lasts, if there is a port to do so."""
    stop = None if port is None else serve_metrics(metrics, port)
    try:
        yield
    finally:
        if stop is not None:
            stop()
