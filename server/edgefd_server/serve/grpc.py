"""Serve a whole run over the device link. The process may be killed at any moment and resumed.

This process holds no model and needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.federation.plan import RoundPlan
from edgefd_server.coordinator.open_run import RunRequest, open_run
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.coordinator.served_run import ServedRun
from edgefd_server.grpc_link.device_service import open_link
from edgefd_server.grpc_link.server import ListenAddress, warn_if_plaintext
from edgefd_server.grpc_link.sessions import DeviceSessions
from edgefd_server.monitoring.prometheus import LinkMetrics
from edgefd_server.serve.coordinator import FrontEnd, OpenFrontEnd, ServeOptions, serve_coordinator


def serve_grpc(request: RunRequest, listen: ListenAddress, options: ServeOptions) -> tuple[Path, dict[str, Any]]:
    """Coordinate the clients of a run over the device link, and return the run folder and the summary.

    Args:
        request: the run.
        listen: the address that devices call.
        options: for serving it.

    Raises:
        UserError: if devices cannot run the config, the bundles do not belong to it, or the port cannot be opened.
        RunError: if a round does not get its reports in time. The devices receive the reason.
    """
    with open_run(request) as run:
        return run.folder, serve_coordinator(run, options, [device_link(run.served, listen)], listen.certs)


def device_link(served: ServedRun, listen: ListenAddress) -> FrontEnd:
    """Return the front end for light devices, which listens on that address."""
    all_rows = RoundPlan(0, np.arange(len(served.proxy)))

    @contextmanager
    def opened(coordinator: RoundCoordinator, metrics: LinkMetrics) -> Iterator[OpenFrontEnd]:
        sessions = DeviceSessions(coordinator, served.bundles, coordinator.expected(all_rows).largest)
        with open_link(sessions, listen, metrics) as link:
            warn_if_plaintext(listen)
            yield OpenFrontEnd(f"on port {link.port}", lambda: sessions.seen)

    return FrontEnd(opened, reconnects=True)
