"""The command `edgefd serve flower`: a run whose coordinator is a ServerApp on a SuperLink of its own.

This process starts the SuperLink, submits the run, prints what the ServerApp reports, and ends all processes at the
end. If the SuperLink or the ServerApp dies, both are started again from the checkpoint and with the same database;
SuperNodes reconnect by themselves.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgefd.core.addresses import parse_address
from edgefd.core.errors import RunError, Stopped, UserError
from edgefd.core.files import make_folder
from edgefd.core.json_files import write_json
from edgefd.core.processes import alive, last_line, reported
from edgefd.runs.checkpoint import load_checkpoint
from edgefd.runs.folder import write_config
from edgefd_server.certs import AllowList
from edgefd_server.coordinator.open_run import RunRequest, open_run
from edgefd_server.coordinator.round_coordinator import SHUTDOWN_GRACE
from edgefd_server.coordinator.served_run import ServedRun
from edgefd_server.flower.job import JOB, Job
from edgefd_server.flower.superlink import SuperLink, SuperLinkAddress, check_address, run_superlink
from edgefd_server.serve.coordinator import ServeOptions

MAX_DEATHS = 3
"""how many times the SuperLink or the ServerApp may die in one round before the run ends"""
START_SECONDS = 60.0
"""seconds within which the ServerApp must start"""
_CHECK_SECONDS = 1.0  # seconds between two checks of the ServerApp's process and of the allow-list

logger = logging.getLogger(__name__)


def serve_flower(
    request: RunRequest, superlink: SuperLinkAddress, options: ServeOptions, listen: str | None = None
) -> tuple[Path, dict[str, Any]]:
    """Coordinate a run, and return its folder and summary.

    Args:
        request: the run. Its bundles are for light devices; SuperNodes have their own copies.
        superlink: the address for SuperNodes.
        options: for serving the run.
        listen: HOST:PORT for light devices; None = the clients are SuperNodes only.

    Raises:
        UserError: if devices cannot run the configuration, or the coordinator cannot listen on an address.
        RunError: if a round does not get its reports in time, or Flower fails. The devices are notified.
        Stopped: on Ctrl-C. The devices are notified.
    """
    address = check_address(superlink)
    if listen is not None:
        parse_address(listen, "--listen")
    allowed = None if address.certs is None else AllowList(address.certs)
    if allowed is not None:
        allowed.current()
    with open_run(request) as run:
        labels = request.proxy_labels and request.proxy_labels.resolve()
        bundles = tuple(bundle.resolve() for bundle in request.bundles)
        job = Job(run.folder.resolve(), run.resuming, bundles, labels, address, listen, options)
        make_folder(job.work)
        write_config(job.work, request.config)
        return run.folder, _Command(allowed, run.served, job).run()


@dataclass(eq=False)
class _Command:
    """The command's part of a run: it starts the SuperLink, and starts it again if it dies."""

    allowed: AllowList | None
    served: ServedRun
    job: Job
    events_read: int = 0
    coordinator: int | None = None
    """process id of the ServerApp; None until it has reported it"""
    family: set[int] = field(default_factory=set)
    """ids of the processes that the SuperLink has started"""

    def run(self) -> dict[str, Any]:
        """Run to the end, and return the summary. If Flower dies, start it again, up to `MAX_DEATHS` times a round."""
        self.job.events.unlink(missing_ok=True)
        if self.job.superlink.certs is None:
            logger.warning("the connections of SuperNodes are unencrypted and unauthenticated (no --certs)")
        print(f"SuperNodes connect to {self.job.superlink.address}", flush=True)
        deaths, rounds = 0, -1
        while True:
            path = self.job.work / "job.json"
            write_json(path, JOB.dump_python(self.job, mode="json"))
            with run_superlink(self.job.superlink, self.job.work, self.family) as link:
                self._register_nodes(link)
                link.submit({"job": str(path)})
                if (summary := self._follow(link)) is not None:
                    return summary
            saved = load_checkpoint(self.job.folder, self.served.expected_teacher)
            reached = 0 if saved is None else saved.next_round
            deaths, rounds = (deaths + 1 if reached == rounds else 1), reached
            if deaths > MAX_DEATHS:
                line = last_line(link.log)
                raise RunError(
                    f"Flower died {deaths} times in round {reached}: {line} (see {link.log}; "
                    "continue the run with --resume)"
                )
            logger.warning("Flower died in round %d: starting it again from the checkpoint", reached)
            self.job = replace(self.job, resuming=True)

    def _register_nodes(self, link: SuperLink) -> None:
        if self.allowed is not None:
            link.register(self.allowed.node_keys())

    def _follow(self, link: SuperLink) -> dict[str, Any] | None:
        """Print what the ServerApp reports, and return the summary; None if Flower died.

        Raises:
            UserError, RunError, Stopped: if the ServerApp reports them; Stopped also on Ctrl-C in this process.
        """
        self.coordinator = None
        keys = None if self.allowed is None else self.allowed.node_keys()
        checked = began = time.monotonic()
        try:
            for event in reported(link.process, self.job.events, self.events_read):
                if event is not None:
                    self.events_read += 1
                    if (summary := self._handle(event)) is not None:
                        return summary
                    continue
                if self.coordinator is None and time.monotonic() - began > START_SECONDS:
                    raise RunError(f"the ServerApp did not start: {last_line(link.log)}")
                if time.monotonic() - checked < _CHECK_SECONDS:
                    continue
                checked = time.monotonic()
                if self.coordinator is not None and not alive(self.coordinator):
                    return None
                if self.allowed is not None and (new_keys := self.allowed.node_keys()) != keys:
                    self._register_nodes(link)
                    keys = new_keys
        except KeyboardInterrupt:
            raise Stopped(self._stop(link)) from None
        finally:
            self._wait_for_end()
        return None

    def _handle(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Print or log an event of the ServerApp, raise its error, or return its summary."""
        match event:
            case {"process": int(process), "parent": int(parent)}:
                self.coordinator = process
                self.family |= {process, parent}
            case {"log": str(line), "level": int(level)}:
                logger.log(level, line)
            case {"log": str(line)}:
                print(line, flush=True)
            case {"error": str(reason)}:
                raise UserError(reason)
            case {"failed": str(reason)}:
                raise RunError(reason)
            case {"stopped": str(reason)}:
                raise Stopped(reason)
            case {"done": dict(summary)}:
                return summary
        return None

    def _stop(self, link: SuperLink) -> str:
        """Let the ServerApp notify the clients, and return a line about the rounds that are saved."""
        if self.coordinator is None or not alive(self.coordinator):
            return "not one round was done"
        os.kill(self.coordinator, signal.SIGTERM)
        deadline = time.monotonic() + SHUTDOWN_GRACE + 10
        for event in reported(link.process, self.job.events, self.events_read):
            if event is not None and "stopped" in event:
                return str(event["stopped"])
            if time.monotonic() > deadline:
                break
        return f"the rounds done so far are in {self.job.folder}"

    def _wait_for_end(self) -> None:
        """Wait until the ServerApp has ended by itself after its last event, at most 5 s."""
        deadline = time.monotonic() + 5
        while self.coordinator is not None and alive(self.coordinator) and time.monotonic() < deadline:
            time.sleep(0.05)
