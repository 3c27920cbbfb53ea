"""The coordinator in a ServerApp that `edgefd serve flower` has submitted, and the messages between the two.

The command writes a `Job`, whose path is in the run config. The ServerApp appends events as lines of JSON to the file
`Job.events`: its process, the lines to print or to log, and how it ended. The command stops it with SIGTERM; the
ServerApp then notifies the clients. If its SuperLink dies, the ServerApp ends at once and does not notify the clients,
because the command starts it again from the checkpoint.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from edgefd.config.load import load_config
from edgefd.core.errors import RunError, Stopped, UserError
from edgefd.core.json_files import append_json_line
from edgefd.core.log import PACKAGES, LimitedHandler, configure_logging
from edgefd_server.certs import AllowList
from edgefd_server.coordinator.open_run import OpenRun, load_for_resume
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.coordinator.served_run import read_served_run
from edgefd_server.flower.grid_driver import GridDriver, run_driver
from edgefd_server.flower.superlink import SuperLinkAddress
from edgefd_server.monitoring.prometheus import LinkMetrics
from edgefd_server.serve.coordinator import FrontEnd, OpenFrontEnd, ServeOptions, serve_coordinator
from edgefd_server.serve.grpc import device_link

if TYPE_CHECKING:
    from flwr.serverapp import Grid

Report = Callable[..., None]
"""function that appends an event; called as `report(**fields)`"""


@dataclass(frozen=True)
class Job:
    """The task of the ServerApp, as `JOB` writes it to a file. All paths are absolute."""

    folder: Path
    """the run folder, which contains the checkpoint"""
    resuming: bool
    """whether the run is resumed from its checkpoint"""
    bundles: tuple[Path, ...]
    proxy_labels: Path | None
    """the labels of the proxy samples; None = not given"""
    superlink: SuperLinkAddress
    listen: str | None
    """HOST:PORT on which to serve light devices too; None = SuperNodes only"""
    options: ServeOptions

    @property
    def work(self) -> Path:
        """Folder with Flower's files and the configuration."""
        return self.folder / "flower"

    @property
    def events(self) -> Path:
        """File to which the ServerApp appends its events."""
        return self.work / "events.jsonl"


JOB = TypeAdapter(Job)


def run_job(grid: Grid, path: Path) -> None:
    """Coordinate the run of a job over the Grid, and report how it ended."""
    job = JOB.validate_json(path.read_bytes())

    def report(**fields: Any) -> None:
        append_json_line(job.events, fields)

    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    _log_to(report)
    signal.signal(signal.SIGINT, _end_at_once)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report(process=os.getpid(), parent=os.getppid())
    try:
        with redirect_stdout(_LineWriter(lambda line: report(log=line))):
            summary = _coordinate(grid, job)
    except (KeyboardInterrupt, Stopped) as stop:
        report(stopped=str(stop))
    except UserError as error:
        report(error=str(error))
    except RunError as error:
        report(failed=str(error))
    except BaseException as error:
        report(failed=f"{type(error).__name__}: {error} (see superlink.log)")
        raise
    else:
        report(done=summary)


def _coordinate(grid: Grid, job: Job) -> dict[str, Any]:
    config, certs = load_config(job.work / "config.yaml"), job.superlink.certs
    served = read_served_run(config, job.bundles, job.proxy_labels)
    run = OpenRun(served, job.folder, load_for_resume(served, job.folder), job.resuming)
    front_ends = [_super_nodes(grid, None if certs is None else AllowList(certs))]
    if job.listen is not None:
        front_ends.insert(0, device_link(served, replace(job.superlink, address=job.listen)))
    return serve_coordinator(run, job.options, front_ends, certs)


def _super_nodes(grid: Grid, allowed: AllowList | None) -> FrontEnd:
    """Return the front end for the nodes of the Grid."""

    @contextmanager
    def opened(coordinator: RoundCoordinator, metrics: LinkMetrics) -> Iterator[OpenFrontEnd]:
        driver = GridDriver(coordinator, grid, allowed, metrics=metrics)
        with run_driver(driver):
            yield OpenFrontEnd("", lambda: driver.seen)

    return FrontEnd(opened)


def _log_to(report: Report) -> None:
    """Report the log messages of edgefd's packages as events. They go to the standard error of this process too."""
    configure_logging()
    handler = _EventHandler(report)
    for package in PACKAGES:
        logging.getLogger(package).addHandler(handler)


class _EventHandler(LimitedHandler):
    """Reports each log message as an event with its level."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    def write(self, record: logging.LogRecord) -> None:
        """Report one message."""
        self._report(log=record.getMessage(), level=record.levelno)


def _end_with_parent(parent: int) -> None:
    """End this process when its parent has ended. Flower's own signal does not wake a main thread that waits."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """End this process: Flower raises SIGINT in a ServerApp whose SuperLink is dead. The checkpoint holds the state."""
    os._exit(1)


class _LineWriter(io.TextIOBase):
    """A text stream that passes each complete line to a function."""

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._write_line, self._rest = write_line, ""

    def write(self, text: str) -> int:
        """Implement `io.TextIOBase.write`."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._write_line(line)
        return len(text)
