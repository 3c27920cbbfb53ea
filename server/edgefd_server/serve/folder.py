"""Serve a whole run through an exchange folder. The process may be killed at any moment and resumed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgefd_server.coordinator.open_run import RunRequest, open_run
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.folder_link.front_end import open_folder
from edgefd_server.monitoring.prometheus import LinkMetrics
from edgefd_server.serve.coordinator import FrontEnd, OpenFrontEnd, ServeOptions, serve_coordinator


def serve_folder(request: RunRequest, exchange: Path, options: ServeOptions) -> tuple[Path, dict[str, Any]]:
    """Coordinate the clients of a run through an exchange folder, and return the run folder and the summary.

    Args:
        request: the run.
        exchange: the folder that the devices see; it holds the checkpoint too.
        options: for serving the run.

    Raises:
        UserError: if devices cannot run the config, or the exchange folder belongs to another run.
        RunError: if a round does not get its reports in time. The devices receive the reason.
    """
    with open_run(request, exchange) as run:
        first = run.saved.next_round

        @contextmanager
        def opened(coordinator: RoundCoordinator, metrics: LinkMetrics) -> Iterator[OpenFrontEnd]:
            with open_folder(exchange, coordinator, len(run.served.proxy), first) as front_end:
                yield OpenFrontEnd(f"in {exchange}", lambda: front_end.seen)

        # A waiting device leaves no trace in the folder, so every device may have read the plan: held = infinity.
        return run.folder, serve_coordinator(run, options, [FrontEnd(opened, held=math.inf)])
