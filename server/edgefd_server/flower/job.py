"""The coordinator in a ServerApp that `edgefd serve flower` has submitted, and the messages between the two.

The command writes a `Job`, whose path is in the run config. The ServerApp appends events as lines of JSON to the file
`Job.events`: its process, the lines to print or to log, and how it ended. The command stops it with SIGTERM; the
ServerApp then notifies the clients. If its SuperLink dies, the ServerApp ends at once and does not notify the clients,
because the command starts it again from the checkpoint.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

from edgefd.config.load import load_config
from edgefd.core.errors import RunError, Stopped, UserError
from edgefd.core.json_files import append_json_line, write_json
from edgefd.core.log import PACKAGES, configure_logging
from edgefd_server.certs import AllowList
from edgefd_server.coordinator.open_run import OpenRun, load_for_resume
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.coordinator.served_run import read_served_run
from edgefd_server.flower.grid_driver import GridDriver, NodeGrid, run_driver
from edgefd_server.grpc_link.server import ListenAddress
from edgefd_server.monitoring.prometheus import LinkMetrics
from edgefd_server.serve.coordinator import FrontEnd, OpenFrontEnd, serve_coordinator
from edgefd_server.serve.grpc import device_link
from edgefd_server.serve.options import ServeOptions

CONFIG = "config.yaml"
Report = Callable[..., None]
"""function that appends an event; called as `report(**fields)`"""


@dataclass(frozen=True)
class Job:
    """The task of the ServerApp, as plain JSON. All paths are absolute."""

    folder: str
    """path of the run folder, which contains the checkpoint"""
    work: str
    """path of the folder with Flower's files and the configuration"""
    resuming: bool
    """whether the run is resumed from its checkpoint"""
    timeout: float
    """longest duration of a round in seconds"""
    certs: str | None
    """path of the certificates; None = no TLS"""
    listen: str | None
    """HOST:PORT on which to serve light devices too; None = SuperNodes only"""
    insecure: bool
    """whether an address that other machines can reach is allowed without certificates"""
    bundles: tuple[str, ...]
    """paths of the bundles"""
    proxy_labels: str | None
    """path of the labels of the proxy samples; None = not given"""
    metrics_port: int | None
    """port of the Prometheus metrics; None = not served"""
    status: str | None
    """[HOST:]PORT of the status page; None = not served"""

    @property
    def events(self) -> Path:
        """File to which the ServerApp appends its events."""
        return Path(self.work) / "events.jsonl"


def write_job(job: Job) -> Path:
    """Write the job into its folder `work`, and return the path of the file."""
    path = Path(job.work) / "job.json"
    write_json(path, asdict(job))
    return path


def read_job(path: Path) -> Job:
    """Read a job that `write_job` wrote."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Job(**{f.name: values[f.name] for f in fields(Job)})


def run_job(grid: NodeGrid, path: Path) -> None:
    """Coordinate the run of a job over the Grid, and report how it ended."""
    job = read_job(path)

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


def _coordinate(grid: NodeGrid, job: Job) -> dict[str, Any]:
    folder, certs = Path(job.folder), None if job.certs is None else Path(job.certs)
    config = load_config(Path(job.work) / CONFIG)
    labels = None if job.proxy_labels is None else Path(job.proxy_labels)
    served = read_served_run(config, [Path(bundle) for bundle in job.bundles], labels)
    run = OpenRun(served, folder, folder, load_for_resume(config, folder), job.resuming)
    front_ends = [_super_nodes(grid, None if certs is None else AllowList(certs))]
    if job.listen is not None:
        front_ends.insert(0, device_link(served, ListenAddress(job.listen, certs, job.insecure)))
    return serve_coordinator(run, ServeOptions(job.timeout, job.status, job.metrics_port), front_ends, certs)


def _super_nodes(grid: NodeGrid, allowed: AllowList | None) -> FrontEnd:
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


class _EventHandler(logging.Handler):
    """Reports each log message as an event with its level."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
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
