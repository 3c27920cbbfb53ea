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
from edgefd.federation.terms import Notice
from edgefd.rounds.validation import largest_report
from edgefd.runs.execute import kept
from edgefd.runs.prepare import Prepared, terms_of
from edgefd_server.certs import AllowList
from edgefd_server.coordinator.checkpoint import Checkpoint
from edgefd_server.coordinator.resume import coordinate, done, lines
from edgefd_server.coordinator.round_coordinator import Desk
from edgefd_server.grpc_link.device_service import open_link
from edgefd_server.grpc_link.sessions import Reception
from edgefd_server.monitoring.event_log import both, json_log
from edgefd_server.monitoring.fleet import LinkFleet
from edgefd_server.monitoring.prometheus import LinkMetrics, make_metrics, watched
from edgefd_server.monitoring.status import Board, about
from edgefd_server.monitoring.status_server import shown
from edgefd_server.serve.bundles import offer
from edgefd_server.serve.options import Serving
from edgefd_server.serve.run_folder import remove_if_refused

Door = Callable[[Desk, LinkMetrics, dict[int, float]], AbstractContextManager[None]]
"""opens another way to the desk; it enters in the dict when it has last seen each client (`time.monotonic`)"""


def serve_desk(
    prepared: Prepared, serving: Serving, folder: Path, saved: Checkpoint, goes_on: bool, door: Door | None = None
) -> dict[str, Any]:
    """Coordinate, with the device link open if `serving` listens, and another door if there is one: the summary.

    Args:
        prepared: the config and its data.
        serving: how.
        folder: of the run, with the checkpoint in it; the caller keeps others from it.
        saved: that checkpoint.
        goes_on: whether clients have seen something of the run.
        door: Flower's.

    Raises:
        UserError: if it cannot listen there; of a new run, no folder is left.
        RunError: if a round does not get its reports in time. The clients are told.
        Stopped: on Ctrl-C, whenever it comes.
    """
    config, federation = prepared.config, prepared.federation
    n_clients = len(federation.clients)
    notice = Notice(saved.run, n_clients, terms_of(config, federation))
    listens = serving.listen
    expected = range(n_clients) if goes_on and listens is not None else ()  # they may be on their way back
    names = dict if serving.certs is None else AllowList(serving.certs).names
    nodes: dict[int, float] = {}
    fleet = LinkFleet(config, n_clients, lambda: nodes | ({} if reception is None else reception.seen), names)
    log = both(json_log(folder / "link.jsonl"), fleet.note)
    desk = Desk(notice, serving.timeout, log, config.coordinator, expected)
    reception = None if listens is None else _reception(prepared, serving, desk)
    metrics, board = make_metrics(), Board(about(prepared), fleet.look)
    try:
        with ExitStack() as doors:
            doors.enter_context(remove_if_refused(folder, goes_on or door is not None))
            doors.enter_context(watched(metrics, serving.metrics_port))
            doors.enter_context(shown(board, serving.status))
            where = ""
            if listens is not None and reception is not None:
                where = f" on port {doors.enter_context(open_link(reception, listens, metrics)).port}"
                if listens.certs is None:
                    print(
                        "warning: without --certs nothing is encrypted and devices are who they say they are",
                        file=sys.stderr,
                    )
            if door is not None:
                doors.enter_context(door(desk, metrics, nodes))
            where += f", from round {saved.next_round}" if saved.metrics else ""
            print(f"waiting for {n_clients} clients{where}", flush=True)
            board.begin(folder.name, done(saved))
            return coordinate(prepared, desk, folder, folder, saved, board.watching(lines))
    except KeyboardInterrupt as stop:  # before or between what a run does, which says as much itself
        raise Stopped(kept(len(saved.metrics), folder)) from stop


def _reception(prepared: Prepared, serving: Serving, desk: Desk) -> Reception:
    config, federation = prepared.config, prepared.federation
    offered = offer(config, serving.bundles, desk.notice.terms)
    everything = RoundPlan(config.seed, 0, np.arange(len(federation.proxy)), config.train)
    return Reception(desk, offered, largest_report(everything, federation.n_classes))
