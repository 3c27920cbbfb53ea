"""Run a coordinator with its front ends, its metrics and its status page."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.core.errors import Stopped
from edgefd.federation.plan import RoundPlan
from edgefd.federation.terms import FederationInfo
from edgefd.rounds.validation import largest_report
from edgefd.runs.execute import saved_rounds_message
from edgefd.runs.prepare import PreparedRun, terms_of
from edgefd_server.certs import AllowList
from edgefd_server.coordinator.checkpoint import Checkpoint
from edgefd_server.coordinator.resume import completed_rounds, coordinate, print_rounds
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.grpc_link.device_service import open_link
from edgefd_server.grpc_link.server import warn_if_plaintext
from edgefd_server.grpc_link.sessions import DeviceSessions
from edgefd_server.monitoring.event_log import json_log, tee_log
from edgefd_server.monitoring.fleet import CoordinatorFleet
from edgefd_server.monitoring.prometheus import LinkMetrics, make_metrics, metrics_server
from edgefd_server.monitoring.status import StatusBoard, about
from edgefd_server.monitoring.status_server import status_server
from edgefd_server.serve.bundles import check_bundles
from edgefd_server.serve.options import ServeOptions
from edgefd_server.serve.run_folder import remove_if_refused

FrontEnd = Callable[[RoundCoordinator, LinkMetrics, dict[int, float]], AbstractContextManager[None]]
"""opens another front end of the coordinator, which keeps the time of each client's last call (`time.monotonic`) in the
dict"""


def serve_coordinator(
    prepared: PreparedRun,
    options: ServeOptions,
    folder: Path,
    saved: Checkpoint,
    resuming: bool,
    front_end: FrontEnd | None = None,
) -> dict[str, Any]:
    """Coordinate a run over the device link and another front end, where there are any, and return the summary.

    Args:
        prepared: the config and its data.
        options: for serving the run; they say whether the device link is open.
        folder: the run folder, which holds the checkpoint and is locked by the caller.
        saved: that checkpoint.
        resuming: whether clients may have received something of the run before.
        front_end: the front end of Flower, if there is one.

    Raises:
        UserError: if a port cannot be opened; the folder of a new run is then removed.
        RunError: if a round does not get its reports in time. The clients receive the reason.
        Stopped: on Ctrl-C, at any time.
    """
    config, federation = prepared.config, prepared.federation
    n_clients = len(federation.clients)
    info = FederationInfo(saved.run, n_clients, terms_of(config, federation))
    listen = options.listen
    expected = range(n_clients) if resuming and listen is not None else ()  # they may be about to reconnect
    names = dict if options.certs is None else AllowList(options.certs).names
    nodes: dict[int, float] = {}
    fleet = CoordinatorFleet(config, n_clients, lambda: nodes | ({} if sessions is None else sessions.seen), names)
    log = tee_log(json_log(folder / "link.jsonl"), fleet.note)
    coordinator = RoundCoordinator(info, options.timeout, log, config.coordinator, expected)
    sessions = None if listen is None else _device_sessions(prepared, options, coordinator)
    metrics, board = make_metrics(), StatusBoard(about(prepared), fleet.snapshot)
    try:
        with ExitStack() as front_ends:
            front_ends.enter_context(remove_if_refused(folder, resuming or front_end is not None))
            front_ends.enter_context(metrics_server(metrics, options.metrics_port))
            front_ends.enter_context(status_server(board, options.status))
            where = ""
            if listen is not None and sessions is not None:
                where = f" on port {front_ends.enter_context(open_link(sessions, listen, metrics)).port}"
                warn_if_plaintext(listen)
            if front_end is not None:
                front_ends.enter_context(front_end(coordinator, metrics, nodes))
            where += f", from round {saved.next_round}" if saved.metrics else ""
            print(f"waiting for {n_clients} clients{where}", flush=True)
            board.begin(folder.name, completed_rounds(saved))
            return coordinate(prepared, coordinator, folder, folder, saved, board.watching(print_rounds))
    except KeyboardInterrupt as stop:  # outside the rounds; within them, `coordinate` raises Stopped itself
        raise Stopped(saved_rounds_message(len(saved.metrics), folder)) from stop


def _device_sessions(prepared: PreparedRun, options: ServeOptions, coordinator: RoundCoordinator) -> DeviceSessions:
    config, federation = prepared.config, prepared.federation
    bundles = check_bundles(config, options.bundles, coordinator.info.terms)
    all_rows = RoundPlan(0, np.arange(len(federation.proxy)))
    return DeviceSessions(coordinator, bundles, largest_report(all_rows, federation.n_classes))
