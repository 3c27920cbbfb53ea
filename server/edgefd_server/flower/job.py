"""The coordinator inside a ServerApp that `edgefd server --flower` has submitted, and what the two say to each other.

The command writes a `Job`, whose path is in the run config. The ServerApp appends lines of JSON to `Job.lines`: its
process, what is to be printed, and how it ended. SIGTERM is how the command stops it: the clients are told. If its
SuperLink dies, it dies at once and tells nobody: the command begins it anew, from the checkpoint.
"""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

from edgefd.config.load import load_config
from edgefd.core.errors import RunError, Stopped, UserError
from edgefd.core.json_files import append_json_line, write_json
from edgefd.runs.prepare import prepare
from edgefd_server.certs import AllowList
from edgefd_server.coordinator.checkpoint import load_checkpoint
from edgefd_server.flower.grid_driver import GridDriver, Nodes, run_driver
from edgefd_server.grpc_link.device_service import ListenAddress
from edgefd_server.serve.coordinator import serve_coordinator
from edgefd_server.serve.options import ServeOptions

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Job:
    """What the ServerApp is to do. Plain JSON, paths absolute."""

    folder: str
    """the run folder, with the checkpoint in it"""
    work: str
    """Flower's files in it, and the config"""
    resuming: bool
    timeout: float
    certs: str | None
    listen: str | None
    """where to serve light devices too, if anywhere"""
    insecure: bool
    bundles: tuple[str, ...]
    metrics_port: int | None
    status: str | None

    @property
    def lines(self) -> Path:
        """Of the ServerApp."""
        return Path(self.work) / "lines.jsonl"

    @property
    def serving(self) -> ServeOptions:
        """For light devices."""
        certs = None if self.certs is None else Path(self.certs)
        listen = None if self.listen is None else ListenAddress(self.listen, certs, self.insecure)
        return ServeOptions(
            listen, [Path(b) for b in self.bundles], self.metrics_port, self.timeout, self.status, certs
        )


def write_job(job: Job) -> Path:
    """Into its folder."""
    path = Path(job.work) / "job.json"
    write_json(path, asdict(job))
    return path


def read_job(path: Path) -> Job:
    """As `write_job` wrote it."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Job(**{f.name: values[f.name] for f in fields(Job)})


def work(grid: Nodes, path: Path) -> None:
    """Do the job over the Grid, and report how it ended."""
    job = read_job(path)

    def report(**fields: Any) -> None:
        append_json_line(job.lines, fields)

    threading.Thread(target=_watch_over, args=(os.getppid(),), daemon=True).start()
    signal.signal(signal.SIGINT, _gone)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report(process=os.getpid(), parent=os.getppid())
    try:
        with redirect_stdout(_Said(lambda line: report(say=line))):
            summary = _coordinate(grid, job)
    except (KeyboardInterrupt, Stopped) as stop:
        report(stopped=str(stop))
    except UserError as error:
        report(refused=str(error))
    except RunError as error:
        report(failed=str(error))
    except BaseException as error:
        report(failed=f"{type(error).__name__}: {error} (see superlink.log)")
        raise
    else:
        report(done=summary)


def _coordinate(grid: Nodes, job: Job) -> dict[str, Any]:
    config = load_config(Path(job.work) / CONFIG)
    saved = load_checkpoint(Path(job.folder))
    if saved is None:
        raise UserError(f"the checkpoint in {job.folder} was taken away")
    allowed = None if job.certs is None else AllowList(Path(job.certs))
    prepared = prepare(config, trains=False)
    return serve_coordinator(
        prepared,
        job.serving,
        Path(job.folder),
        saved,
        job.resuming,
        lambda coordinator, metrics, seen: run_driver(
            GridDriver(coordinator, grid, allowed, metrics=metrics, seen=seen)
        ),
    )


def _watch_over(parent: int) -> None:
    """End with what has started this process. Flower's own signal does not wake a main thread that waits."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _gone(number: int, frame: FrameType | None) -> None:
    """Flower raises SIGINT in a ServerApp whose SuperLink is dead. All that counts is in the checkpoint."""
    os._exit(1)


class _Said(io.TextIOBase):
    """Takes each whole line that is printed."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take, self._rest = take, ""

    def write(self, text: str) -> int:
        """See `io.TextIOBase`."""
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._take(line)
        return len(text)
