"""Run a coordinator with its front ends."""

from __future__ import annotations

import sys
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
from edgefd_server.coordinator.resume import completed_rounds, coordinate, lines
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.grpc_link.device_service import open_link
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
"""opens another way to the desk; it enters in the dict when it has last seen each client (`time.monotonic`)"""


def serve_desk(
    prepared: PreparedRun,
    serving: ServeOptions,
    folder: Path,
    saved: Checkpoint,
    resuming: bool,
    front_end: FrontEnd | None = None,
) -> dict[str, Any]:
    """Coordinate, with the device link open if `serving` listens, and another door if there is one: the summary.

    Args:
        prepared: the config and its data.
        serving: how.
        folder: of the run, with the checkpoint in it; the caller keeps others from it.
        saved: that checkpoint.
        resuming: whether clients have seen something of the run.
        front_end: Flower's.

    Raises:
        UserError: if it cannot listen there; of a new run, no folder is left.
        RunError: if a round does not get its reports in time. The clients are told.
        Stopped: on Ctrl-C, whenever it comes.
    """
    config, federation = prepared.config, prepared.federation
    n_clients = len(federation.clients)
    info = FederationInfo(saved.run, n_clients, terms_of(config, federation))
    listens = serving.listen
    expected = range(n_clients) if resuming and listens is not None else ()  # they may be on their way back
    names = dict if serving.certs is None else AllowList(serving.certs).names
    nodes: dict[int, float] = {}
    fleet = CoordinatorFleet(config, n_clients, lambda: nodes | ({} if sessions is None else sessions.seen), names)
    log = tee_log(json_log(folder / "link.jsonl"), fleet.note)
    coordinator = RoundCoordinator(info, serving.timeout, log, config.coordinator, expected)
    sessions = None if listens is None else _reception(prepared, serving, coordinator)
    metrics, board = make_metrics(), StatusBoard(about(prepared), fleet.snapshot)
    try:
        with ExitStack() as front_ends:
            front_ends.enter_context(remove_if_refused(folder, resuming or front_end is not None))
            front_ends.enter_context(metrics_server(metrics, serving.metrics_port))
            front_ends.enter_context(status_server(board, serving.status))
            where = ""
            if listens is not None and sessions is not None:
                where = f" on port {front_ends.enter_context(open_link(sessions, listens, metrics)).port}"
                if listens.certs is None:
                    print(
                        "warning: without --certs nothing is encrypted and devices are who they say they are",
                        file=sys.stderr,
                    )
            if front_end is not None:
                front_ends.enter_context(front_end(coordinator, metrics, nodes))
            where += f", from round {saved.next_round}" if saved.metrics else ""
            print(f"waiting for {n_clients} clients{where}", flush=True)
            board.begin(folder.name, completed_rounds(saved))
            return coordinate(prepared, coordinator, folder, folder, saved, board.watching(lines))
    except KeyboardInterrupt as stop:  # before or between what a run does, which says as much itself
        raise Stopped(saved_rounds_message(len(saved.metrics), folder)) from stop


def _reception(prepared: PreparedRun, serving: ServeOptions, coordinator: RoundCoordinator) -> DeviceSessions:
    config, federation = prepared.config, prepared.federation
    offered = check_bundles(config, serving.bundles, coordinator.info.terms)
    everything = RoundPlan(config.seed, 0, np.arange(len(federation.proxy)), config.train)
    return DeviceSessions(coordinator, offered, largest_report(everything, federation.n_classes))
