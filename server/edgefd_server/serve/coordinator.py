"""Run a coordinator with its front ends, its metrics and its status page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefd.core.addresses import check_port
from edgefd.core.descriptors import raise_file_limit
from edgefd.core.errors import Stopped, UserError
from edgefd.federation.terms import FederationInfo
from edgefd.runs.execute import saved_rounds_message
from edgefd.wire.device_link import HOLD
from edgefd_server.certs import AllowList
from edgefd_server.coordinator.open_run import OpenRun
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.coordinator.rounds import coordinate, print_rounds
from edgefd_server.monitoring.event_log import LOG, json_log, tee_log
from edgefd_server.monitoring.fleet import CoordinatorFleet
from edgefd_server.monitoring.prometheus import LinkMetrics, metrics_log, metrics_server
from edgefd_server.monitoring.status import RunDescription, StatusBoard
from edgefd_server.monitoring.status_server import parse_status_address, status_server

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeOptions:
    """Options for serving a run."""

    timeout: float = 600.0
    """seconds that a round may take"""
    status: str | None = None
    """[HOST:]PORT of the status page; None = no page"""
    metrics_port: int | None = None
    """port on this machine that serves Prometheus metrics; None = no metrics"""

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise UserError(f"--timeout must be above 0, not {self.timeout:g}")
        check_port(self.metrics_port, "--metrics")
        if self.status is not None:
            parse_status_address(self.status)


@dataclass(frozen=True)
class OpenFrontEnd:
    """A front end that clients can reach."""

    where: str
    """place where it waits for clients, in words: `on port 50051`"""
    seen: Callable[[], Mapping[int, float]]
    """returns the time of each client's last call, on the clock of `time.monotonic`"""


@dataclass(frozen=True)
class FrontEnd:
    """A way for clients to reach the coordinator."""

    open: Callable[[RoundCoordinator, LinkMetrics], AbstractContextManager[OpenFrontEnd]]
    """opens it while a context lasts"""
    reconnects: bool = False
    """whether clients of a resumed run may connect again only to learn that it is over"""
    held: float = HOLD
    """seconds for which a call of a client may be held open"""


def serve_coordinator(
    run: OpenRun, options: ServeOptions, front_ends: Sequence[FrontEnd], certs: Path | None = None
) -> dict[str, Any]:
    """Coordinate a run over its front ends, and return the summary.

    Args:
        run: the run, whose checkpoint the caller has locked.
        options: for serving the run.
        front_ends: the ways for clients to reach the coordinator.
        certs: folder of certificates with the allow-list; None = clients are not authenticated.

    Raises:
        UserError: if a port or folder cannot be opened.
        RunError: if a round does not get its reports in time. The clients receive the reason.
        Stopped: on Ctrl-C, at any time.
    """
    served, config, n_clients = run.served, run.served.config, run.served.n_clients
    opened: list[OpenFrontEnd] = []
    raise_file_limit()
    if config.coordinator.min_reports is None:
        _LOG.warning(
            "coordinator.min_reports is not set: one absent device ends the run after %g s; set it and deadline_s",
            options.timeout,
        )

    def seen() -> dict[int, float]:
        return {client: at for each in opened for client, at in each.seen().items()}

    names, held = dict if certs is None else AllowList(certs).names, max(each.held for each in front_ends)
    fleet = CoordinatorFleet(config, n_clients, seen, names, held)
    models = ", ".join(model.name for model in config.model)
    private, rounds = served.terms.private, config.train.rounds
    about = RunDescription(
        config.method_name, served.facts.dataset, models, n_clients, rounds, served.bytes_once, not private
    )
    metrics, board = LinkMetrics(), StatusBoard(about, fleet.snapshot)
    expected = range(n_clients) if run.resuming and any(each.reconnects for each in front_ends) else ()
    info = FederationInfo(run.saved.run, n_clients, served.terms)
    try:
        with ExitStack() as stack:
            log = tee_log(stack.enter_context(json_log(run.folder / LOG)), fleet.note, metrics_log(metrics))
            coordinator = RoundCoordinator(info, options.timeout, log, config.coordinator, expected)
            stack.enter_context(metrics_server(metrics, options.metrics_port))
            stack.enter_context(status_server(board, options.status))
            for front_end in front_ends:
                opened.append(stack.enter_context(front_end.open(coordinator, metrics)))
            where = "".join(f" {each.where}" for each in opened if each.where)
            begin = f", from round {run.saved.next_round}" if run.saved.metrics else ""
            if private:
                print(f"clients send no accuracy and no loss: defence {config.defence.name} has no noise for them")
            print(f"waiting for {n_clients} clients{where}{begin}", flush=True)
            board.begin(run.folder.name, run.saved.metrics)
            return coordinate(run, coordinator, board.watching(print_rounds))
    except KeyboardInterrupt as stop:  # outside the rounds; within them, `coordinate` raises Stopped itself
        raise Stopped(saved_rounds_message(len(run.saved.metrics), run.folder)) from stop
